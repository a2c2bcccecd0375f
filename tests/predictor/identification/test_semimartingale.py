"""Doob's decomposition, with known and with fitted conditional means."""

from __future__ import annotations

import numpy as np
import pytest

from predictor.identification.semimartingale import semimartingale
from tests.predictor.streams import autoregression


def test_parts_add_up_to_the_series():
    series = 7.0 + autoregression(np.random.default_rng(1), [0.5], 300, 1)[:, 0]

    found = semimartingale(series)

    total = series[found.start] + found.compensator + found.martingale
    np.testing.assert_allclose(total, series[found.start :], atol=1e-12)


def test_known_conditional_mean_gives_the_innovations_back():
    random = np.random.default_rng(2)
    noise = random.normal(size=500)
    series = np.zeros(500)
    for t in range(1, 500):
        series[t] = 0.7 * series[t - 1] + noise[t]
    forecasts = np.concatenate([[0.0], 0.7 * series[:-1]])

    found = semimartingale(series, forecasts)

    np.testing.assert_allclose(np.diff(found.martingale), noise[1:], atol=1e-12)
    np.testing.assert_allclose(np.diff(found.compensator), -0.3 * series[:-1], atol=1e-12)


def test_fitted_martingale_does_not_remember_and_its_compensator_is_the_drift():
    series = autoregression(np.random.default_rng(3), [0.7], 20_000, 1)[:, 0]

    found = semimartingale(series)

    innovation = np.diff(found.martingale)
    level = series[found.start : -1]
    assert abs(np.corrcoef(innovation, level)[0, 1]) < 1e-9
    assert abs(np.corrcoef(innovation[1:], innovation[:-1])[0, 1]) < 0.02
    # E (φ − 1)² x² over E Δx² = (1 − φ)/2.
    assert found.drift_share == pytest.approx(0.15, abs=0.01)
    assert np.corrcoef(np.diff(found.compensator), -0.3 * level)[0, 1] > 0.999


def test_random_walk_has_next_to_no_compensator_and_a_line_nothing_else():
    walk = np.cumsum(np.random.default_rng(4).normal(size=5000))

    assert semimartingale(walk).drift_share < 0.003
    assert semimartingale(0.5 * np.arange(100.0)).drift_share == pytest.approx(1.0)
    assert np.ptp(semimartingale(0.5 * np.arange(100.0)).martingale) < 1e-9


def test_momentum_is_expected_too():
    steps = autoregression(np.random.default_rng(6), [0.5], 20_000, 1)[:, 0]

    found = semimartingale(np.cumsum(steps))

    # E (φ Δx)² over E Δx² = φ².
    assert found.drift_share == pytest.approx(0.25, abs=0.02)


def test_forecasts_of_another_length_are_refused():
    with pytest.raises(ValueError, match="shape"):
        semimartingale(np.random.default_rng(5).normal(size=50), np.zeros(49))
