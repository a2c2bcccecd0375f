"""Periods found in the sizes of errors, against waves and patterns whose period is known."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from predictor import volatility_season
from tests.predictor.streams import fold, repeated

LANES = 32


def season_lane(state, tick):
    size, position, learn = tick
    state = volatility_season.follow(state, size, position, learn)
    return state, (state.period, volatility_season.expected(state, position + 1))


season_row = jax.vmap(season_lane)


def followed(sizes: np.ndarray, learn: np.ndarray | None = None):
    """The period after each row of `sizes` `[T, n]`, and what is expected of the next."""
    learn = np.ones(sizes.shape, bool) if learn is None else learn
    positions = np.broadcast_to(np.arange(len(sizes))[:, None], sizes.shape)
    states = repeated(volatility_season.init(), sizes.shape[1])
    _, (periods, expected) = fold(season_row, states, (sizes, positions, learn))
    return np.asarray(periods), np.asarray(expected)


def normal_sizes(seed: int, ticks: int) -> np.ndarray:
    return np.abs(np.random.default_rng(seed).normal(size=(ticks, LANES)))


def wave(ticks: int, period: int, amplitude: float) -> np.ndarray:
    return np.exp(amplitude * np.sin(2.0 * np.pi * np.arange(ticks) / period))[:, None]


def spike(ticks: int, period: int, height: float) -> np.ndarray:
    """One phase of each cycle stands out: all harmonics are as strong as the period itself."""
    return np.where(np.arange(ticks) % period == 3 % period, height, 1.0)[:, None]


PATTERNS = [
    *((wave, period, 0.5) for period in (3, 5, 7, 12, 24, 48, 60)),
    *((spike, period, 2.5) for period in (2, 3, 5, 7, 12)),
    (spike, 24, 6.0),
]


@pytest.mark.parametrize(("shape", "period", "strength"), PATTERNS)
def test_the_period_is_found_and_no_multiple_or_harmonic_of_it(shape, period, strength):
    periods, _ = followed(shape(4000, period, strength) * normal_sizes(1, 4000))

    assert np.mean(periods[-1] == period) >= 0.95


def test_a_wave_without_noise_is_told_exactly():
    ticks, period = 3000, 24
    sizes = 1.0 + 0.4 * np.sin(2.0 * np.pi * np.arange(ticks + 1) / period + 0.3)

    periods, expected = followed(sizes[:-1, None])

    assert periods[-1] == period
    # The mean over all follows the wave a little.
    np.testing.assert_allclose(expected[-200:, 0], sizes[-200:], atol=0.02)


LAWS = {
    "normal": lambda random, shape: random.normal(size=shape),
    "t3": lambda random, shape: random.standard_t(3, size=shape) / np.sqrt(3.0),
}


@pytest.mark.parametrize("law", LAWS)
def test_sizes_without_a_season_have_no_period(law):
    sizes = np.abs(LAWS[law](np.random.default_rng(2), (6000, 4 * LANES)))

    periods, expected = followed(sizes)

    assert np.all(np.mean(periods > 0, axis=0) < 0.5)
    assert np.mean(periods > 0) < 0.002
    assert np.all(expected[periods == 0] == 1.0)


def test_clusters_of_large_errors_are_no_season():
    random, ticks = np.random.default_rng(3), 6000
    level, sizes = np.zeros(LANES), np.empty((ticks, LANES))
    for tick in range(ticks):
        level = 0.97 * level + 0.2 * random.normal(size=LANES)
        sizes[tick] = np.exp(0.5 * level) * np.abs(random.normal(size=LANES))

    periods, _ = followed(sizes)

    assert np.mean(periods > 0) < 0.05


def test_a_season_that_ends_is_given_up():
    sizes = normal_sizes(4, 8000)
    sizes[:3000] *= wave(3000, 12, 0.6)

    periods, expected = followed(sizes)

    assert np.all(periods[2999] == 12)
    assert np.all(periods[-1] == 0)
    assert np.all(expected[-1] == 1.0)


def test_a_season_that_changes_its_period_is_followed():
    sizes = normal_sizes(5, 6000)
    sizes[:3000] *= wave(3000, 12, 0.6)
    sizes[3000:] *= wave(3000, 7, 0.6)

    periods, _ = followed(sizes)

    assert np.all(periods[2999] == 12)
    assert np.mean(periods[-1] == 7) >= 0.95


def test_ticks_of_which_nothing_is_learned_keep_their_place_in_the_cycle():
    ticks, period = 4000, 12
    pattern = spike(ticks + 1, period, 3.0)
    learn = np.random.default_rng(6).random((ticks, LANES)) > 0.2
    sizes = np.where(learn, pattern[:-1] * normal_sizes(7, ticks), np.nan)

    periods, expected = followed(sizes, learn)

    assert np.mean(periods[-1] == period) >= 0.95
    exact = pattern[1:] / pattern[:period].mean()
    late = expected[-500:] / exact[-500:]
    assert np.mean(late[:, periods[-1] == period]) == pytest.approx(1.0, abs=0.05)


def test_a_pattern_is_learned_phase_by_phase():
    ticks, period = 6000, 12
    pattern = np.exp(0.5 * np.random.default_rng(8).normal(size=period))
    sizes = np.tile(pattern, ticks // period + 1)[:ticks, None] * normal_sizes(9, ticks)

    periods, expected = followed(sizes)

    assert np.mean(periods[-1] == period) >= 0.95
    exact = np.tile(pattern / pattern.mean(), ticks // period + 1)[1 : ticks + 1]
    error = np.log(expected[-1000:].mean(axis=1) / exact[-1000:])
    # Large errors are cut, and the profile is shrunk.
    assert np.sqrt(np.mean(error**2)) < 0.1
