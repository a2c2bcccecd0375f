"""Koopman eigenvalues in closed form: waves, decay, and a quadratic map."""

from __future__ import annotations

import numpy as np
import pytest

from predictor.identification.koopman import koopman_spectrum
from tests.predictor.streams import autoregression


def test_two_waves_are_four_points_of_the_unit_circle_beside_the_constant():
    time = np.arange(300)
    values = 3.0 + np.sin(2 * np.pi * 0.05 * time) + 0.4 * np.cos(2 * np.pi * 0.17 * time + 1.0)

    found = koopman_spectrum(values)

    leading = found.eigenvalues[:5]
    np.testing.assert_allclose(np.abs(leading), 1.0, atol=1e-6)
    np.testing.assert_allclose(
        np.sort(np.abs(found.frequencies[:5])), [0.0, 0.05, 0.05, 0.17, 0.17], atol=1e-6
    )
    assert np.all(np.abs(found.eigenvalues[5:]) < 1e-3)


def test_damped_oscillation_has_its_decay_and_frequency():
    time = np.arange(120)
    values = np.exp(-time / 40.0) * np.cos(0.6 * time)

    found = koopman_spectrum(values, delays=4)

    pair = np.abs(np.abs(found.frequencies) - 0.6 / (2 * np.pi)) < 1e-6
    assert np.sum(pair) == 2
    np.testing.assert_allclose(found.lifetimes[pair], 40.0, rtol=1e-4)


def test_autoregression_of_order_one_has_its_coefficient():
    values = autoregression(np.random.default_rng(1), [0.8], 20_000, 1)[:, 0]

    found = koopman_spectrum(values, delays=1)

    # The estimate scatters by √((1 − φ²)/T) = .004.
    assert found.eigenvalues[1].real == pytest.approx(0.8, abs=0.015)
    assert found.lifetimes[1] == pytest.approx(-1.0 / np.log(0.8), rel=0.1)


def test_powers_of_an_eigenfunction_have_powers_of_its_eigenvalue():
    # x' = .9 x: x has the eigenvalue .9 and x² .81. Standardising shifts x, so that the span of
    # 1, x, x² is what stays invariant.
    values = 0.9 ** np.arange(40)

    found = koopman_spectrum(values, 1, lambda x: np.column_stack([x**0, x, x**2]))

    np.testing.assert_allclose(found.eigenvalues.real, [1.0, 0.9, 0.81], atol=1e-8)


def test_white_noise_persists_in_nothing_but_the_constant():
    found = koopman_spectrum(np.random.default_rng(2).normal(size=5000), delays=1)

    assert found.eigenvalues[0] == pytest.approx(1.0, abs=1e-9)
    assert abs(found.eigenvalues[1]) < 0.05
    assert np.isinf(found.lifetimes[0]) or found.lifetimes[0] > 1e6


@pytest.mark.parametrize("values", [np.ones(100), np.arange(20.0)])
def test_constant_and_short_series_are_refused(values):
    with pytest.raises(ValueError, match="series"):
        koopman_spectrum(values)
