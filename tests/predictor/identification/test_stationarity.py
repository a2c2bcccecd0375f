"""KPSS and variance ratio: their sizes under their nulls, their power against the other's."""

from __future__ import annotations

import numpy as np
import pytest

from predictor.identification.stationarity import Verdict, kpss, stationarity, variance_ratio
from tests.predictor.streams import autoregression

SERIES = 400
"""A rejection rate of 5 % is measured to 1.1 points."""


def walks(random, rows=500, lanes=SERIES):
    return np.cumsum(random.normal(size=(rows, lanes)), axis=0)


def test_kpss_rejects_one_in_twenty_stationary_series_and_nearly_every_walk():
    random = np.random.default_rng(1)
    white = random.normal(size=(500, SERIES))

    size = np.mean([kpss(series).p_value <= 0.05 for series in white.T])
    power = np.mean([kpss(series).p_value <= 0.05 for series in walks(random).T])

    assert 0.02 <= size <= 0.085
    assert power > 0.85


def test_kpss_keeps_its_size_under_short_memory():
    series = autoregression(np.random.default_rng(2), [0.8], 500, SERIES)

    assert np.mean([kpss(values).p_value < 0.05 for values in series.T]) < 0.13


def test_kpss_statistic_is_its_definition_on_a_series_by_hand():
    values = np.tile([1.0, -1.0, 2.0, -2.0], 8)
    sums = np.cumsum(values)
    # ⌊12 (32/100)^¼⌋ = 9 lags with weights 1 − j/10.
    variance = np.mean(values**2) + 2.0 * sum(
        (1 - lag / 10) * np.sum(values[lag:] * values[:-lag]) / 32 for lag in range(1, 10)
    )

    assert kpss(values).statistic == pytest.approx(np.sum(sums**2) / (32**2 * variance))


def test_variance_ratio_rejects_one_in_twenty_walks_even_with_changing_volatility():
    random = np.random.default_rng(3)
    volatility = np.exp(np.repeat(random.normal(size=(10, SERIES)), 50, axis=0))
    wild = np.cumsum(volatility * random.normal(size=(500, SERIES)), axis=0)

    for paths in (walks(random), wild):
        z = np.array([variance_ratio(path).z for path in paths.T])
        assert np.mean(np.abs(z) > 1.96) < 0.1


def test_variance_ratio_is_unbiased_on_short_walks():
    ratios = [variance_ratio(path).ratio for path in walks(np.random.default_rng(6), 40, 3000).T]

    # One ratio scatters by .5, the mean by .01; biased denominators leave out a fifth.
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.04)


def test_variance_ratio_of_white_noise_and_of_a_moving_average_have_their_closed_form():
    random = np.random.default_rng(4)
    white = random.normal(size=200_000)
    trending = np.cumsum(white[1:] + 0.5 * white[:-1])

    # Levels: Var(q steps) = 2σ², so the ratio is 1/q. MA(1) steps with ρ = .4: 1 + 2 (7/8) .4.
    assert variance_ratio(white, 8).ratio == pytest.approx(1 / 8, abs=0.005)
    assert variance_ratio(trending, 8).ratio == pytest.approx(1.7, abs=0.03)
    assert variance_ratio(white, 8).z < -20.0
    assert variance_ratio(trending, 8).z > 20.0


def test_verdicts():
    random = np.random.default_rng(5)
    white = [stationarity(x).verdict for x in random.normal(size=(100, 300))]
    reverting = [stationarity(x).verdict for x in autoregression(random, [0.7], 400, 100).T]
    walk = [stationarity(x).verdict for x in walks(random, 400, 100).T]

    assert np.mean([v is Verdict.STATIONARY for v in white]) > 0.9
    assert np.mean([v is Verdict.STATIONARY for v in reverting]) > 0.75
    assert np.mean([v is Verdict.INTEGRATED for v in walk]) > 0.75
    assert np.mean([v is Verdict.STATIONARY for v in walk]) < 0.05


@pytest.mark.parametrize("test", [kpss, variance_ratio])
@pytest.mark.parametrize("values", [np.ones(100), np.zeros(10), np.full(100, np.nan)])
def test_constant_short_and_missing_values_are_refused(test, values):
    with pytest.raises(ValueError, match="series"):
        test(values)


def test_horizon_beyond_the_series_is_refused():
    with pytest.raises(ValueError, match="horizon"):
        variance_ratio(np.arange(40.0) ** 2, 30)
