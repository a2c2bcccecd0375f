"""Gaussian transfer entropy in closed form, its direction, and its test."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from predictor.identification.transfer_entropy import chi_square_tail, transfer_entropy


def coupled(random, coupling: float, rows: int):
    """x_t = .5 x_{t−1} + c y_{t−1} + e_t, driven by white y."""
    y, noise = random.normal(size=(2, rows))
    x = np.zeros(rows)
    for t in range(1, rows):
        x[t] = 0.5 * x[t - 1] + coupling * y[t - 1] + noise[t]
    return x, y


def test_entropy_of_a_white_driver_is_half_log_one_plus_its_share():
    x, y = coupled(np.random.default_rng(1), 0.8, 20_000)

    forward, backward = transfer_entropy(y, x), transfer_entropy(x, y)

    # Without y the innovation is c y + e: T = ½ ln(1 + c²); it scatters by about .005.
    assert forward.nats == pytest.approx(0.5 * np.log(1.64), abs=0.015)
    assert forward.p_value < 1e-6
    assert backward.nats < 0.001
    assert backward.p_value > 0.01


def test_independent_series_are_called_coupled_one_time_in_twenty():
    random = np.random.default_rng(2)
    p = [transfer_entropy(*random.normal(size=(2, 400))).p_value for _ in range(400)]

    assert stats.kstest(p, "uniform").pvalue > 0.01


@pytest.mark.parametrize("degrees", [1, 2, 3, 5, 8])
def test_tail_of_chi_square_is_that_of_scipy(degrees):
    for statistic in (0.0, 0.3, 4.0, 30.0):
        assert chi_square_tail(statistic, degrees) == pytest.approx(
            stats.chi2.sf(statistic, degrees), rel=1e-10
        )


def test_unequal_lengths_and_a_determined_target_are_refused():
    random = np.random.default_rng(3)
    with pytest.raises(ValueError, match="source has 99 values, target 100"):
        transfer_entropy(random.normal(size=99), random.normal(size=100))
    with pytest.raises(ValueError, match="determined"):
        transfer_entropy(random.normal(size=100), np.sin(np.arange(100)))
