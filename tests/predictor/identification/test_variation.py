"""Quadratic and bipower variation, and the statistic that tells jumps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from predictor.identification.variation import TRIPOWER_MEAN, variation


def test_statistic_is_standard_normal_without_jumps_even_with_changing_volatility():
    random = np.random.default_rng(1)
    volatility = np.exp(0.5 * np.sin(np.linspace(0.0, 6.0, 1000)))
    z = [variation(np.cumsum(volatility * random.normal(size=1000))).jump_z for _ in range(400)]

    # The asymptotic law is reached to .1 at 1,000 increments.
    assert abs(np.mean(z)) < 0.2
    assert np.std(z) == pytest.approx(1.0, abs=0.12)
    assert np.mean(np.array(z) > 1.645) < 0.1


def test_jumps_are_found_and_measured():
    random = np.random.default_rng(2)
    steps = random.normal(size=2000)
    steps[[300, 900, 1700]] += [12.0, -15.0, 10.0]

    found = variation(np.concatenate([[0.0], np.cumsum(steps)]))

    assert found.jump_z > 5.0
    assert found.quadratic == pytest.approx(np.sum(steps**2), rel=1e-9)
    # ∫σ² dt = 2,000, known to √(2.6/2000) = 3.6 % by bipower variation.
    assert found.bipower == pytest.approx(2000.0, rel=0.11)
    jumps = found.quadratic - found.bipower
    assert found.jump_share == pytest.approx(jumps / found.quadratic)
    assert jumps == pytest.approx(12**2 + 15**2 + 10**2, rel=0.5)


def test_variation_scales_with_the_square_of_the_unit_and_the_rest_does_not():
    path = np.cumsum(np.random.default_rng(3).normal(size=300))

    one, other = variation(path), variation(5.0 + 1000.0 * path)

    assert other.quadratic == pytest.approx(1e6 * one.quadratic)
    assert other.bipower == pytest.approx(1e6 * one.bipower)
    assert other.jump_z == pytest.approx(one.jump_z)


def test_constant_of_the_tripower_is_the_moment_of_a_normal():
    moment = stats.norm.expect(lambda z: np.abs(z) ** (4 / 3))

    assert pytest.approx(moment, rel=1e-8) == TRIPOWER_MEAN


def test_series_that_hardly_moves_is_refused():
    values = np.zeros(100)
    values[50:] = 1.0
    with pytest.raises(ValueError, match="neighbouring"):
        variation(values)
