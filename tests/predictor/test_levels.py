"""Banks of level and trend filters against exponential smoothing and the Kalman filter."""

from __future__ import annotations

import numpy as np
import pytest

from predictor import anchors
from predictor.config import WINDOW
from predictor.kernels.levy import levels
from predictor.kernels.levy.levels import LEVEL_GAINS, TREND_GRID
from tests.predictor.streams import asked, kernel_tick, kernel_ticks, root_mean_square, told

LEVEL = levels.local_level_member("local_level")
TREND = levels.local_trend_member("local_trend")


def smoothed(values: np.ndarray, gain: float, trend_gain: float) -> tuple[float, float]:
    """Level and trend of Holt's recursion, whose first gains are those of a running mean."""
    level = trend = 0.0
    for count, value in enumerate(values, start=1):
        if count == 1:
            continue
        rate = max(gain, 1.0 / count)
        expected = level + trend
        level = expected + rate * (value - expected)
        trend = trend + rate * trend_gain * (value - expected)
    return level, trend


@pytest.mark.parametrize(
    ("member", "gains"),
    [(LEVEL, np.stack([LEVEL_GAINS, 0.0 * LEVEL_GAINS], axis=1)), (TREND, TREND_GRID)],
    ids=["level", "trend"],
)
def test_every_filter_is_holts_recursion_with_its_gains(member, gains):
    values = np.cumsum(0.3 * np.random.default_rng(1).normal(size=300))

    state, _ = told(member, kernel_ticks(values))

    for filtered, trend, (gain, trend_gain) in zip(state.levels, state.trends, gains, strict=True):
        expected = smoothed(values, gain, trend_gain)
        assert (float(filtered), float(trend)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_filter_of_gain_zero_is_the_running_mean():
    values = np.random.default_rng(2).normal(size=500)

    state, _ = told(LEVEL, kernel_ticks(values))

    # The first tick is not learned from and counts as a zero.
    assert LEVEL_GAINS[0] == 0.0
    assert float(state.levels[0]) == pytest.approx(values[1:].sum() / values.size)


@pytest.mark.parametrize("ratio", [0.001, 0.05, 0.5])
def test_bank_loses_next_to_nothing_to_the_kalman_filter_that_knows_the_noise(ratio):
    random = np.random.default_rng(3)
    walk = np.cumsum(np.sqrt(ratio) * random.normal(size=3000))
    values = walk + random.normal(size=3000)
    gain = 0.5 * (np.sqrt(ratio**2 + 4.0 * ratio) - ratio)
    level, best = 0.0, np.zeros(3000)
    for row, value in enumerate(values):
        level += max(gain, 1.0 / (row + 1.0)) * (value - level)
        best[row] = level

    _, increments = told(LEVEL, kernel_ticks(values))

    errors = (values[1:] - (values + increments)[:-1])[300:]
    assert root_mean_square(errors) <= 1.01 * root_mean_square((values[1:] - best[:-1])[300:])


def test_straight_line_is_continued_by_the_trends_and_lagged_by_the_levels():
    line = 0.05 * np.arange(400.0)

    _, by_trend = told(TREND, kernel_ticks(line))
    _, by_level = told(LEVEL, kernel_ticks(line))

    np.testing.assert_allclose(by_trend[300:], 0.05, rtol=1e-6)
    # A filter of gain g lags a line of slope s by s (1 − g)/g, and forecasts no slope.
    lag = 0.05 * (1.0 - LEVEL_GAINS[-1]) / LEVEL_GAINS[-1]
    np.testing.assert_allclose(by_level[300:], -lag, rtol=0.01)


def test_one_wild_value_moves_a_filter_by_no_more_than_the_limit():
    values = np.zeros(200)
    values[1:] = 0.1 * np.random.default_rng(4).normal(size=199)
    before, _ = told(LEVEL, kernel_ticks(values, ratio=2.0))
    tick = kernel_tick(np.full(WINDOW, 1e6), ratio=2.0, accepted=201)

    after, _ = asked(LEVEL, before, tick)

    moved = np.asarray(after.levels - before.levels)
    limit = levels.INNOVATION_LIMIT / 2.0
    np.testing.assert_allclose(moved, np.maximum(LEVEL_GAINS, 1.0 / 201.0) * limit)


@pytest.mark.parametrize("member", [LEVEL, TREND], ids=["level", "trend"])
def test_filters_are_the_same_in_other_coordinates(member):
    values = np.cumsum(0.2 * np.random.default_rng(5).normal(size=200))
    state, _ = told(member, kernel_ticks(values))
    stretch, shift = 3.0, -2.0
    change = anchors.Change(stretch, shift, gain=1.0, early=False, restart=False)
    window = np.full(WINDOW, 0.4)
    there = kernel_tick(stretch * window + shift, change=change, ratio=1.0 / stretch)

    _, plain = asked(member, state, kernel_tick(window))
    _, moved = asked(member, state, there)

    assert moved == pytest.approx(plain, rel=1e-9)
