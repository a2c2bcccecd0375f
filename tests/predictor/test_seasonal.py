"""Seasons: periods are found in time, and the noise of single cycles is averaged away."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from predictor.config import WINDOW, PredictorConfig
from predictor.kernels.hilbert import seasonal
from tests.predictor import streams

LANES = 8
NOISE = 0.3


def patterns(period: int, ticks: int, seed: int) -> np.ndarray:
    """`period` arbitrary values for each lane, repeated under noise `[ticks, lanes]`."""
    rng = np.random.default_rng(seed)
    pattern = rng.standard_normal((period, LANES))
    return pattern[np.arange(ticks) % period] + NOISE * rng.standard_normal((ticks, LANES))


def periods_in(states) -> np.ndarray:
    """Active periods `[members, lanes]` of the seasonal members."""
    members = [
        member for member in states.kernels[0].members if isinstance(member, seasonal.SeasonalState)
    ]
    assert len(members) == 2
    return np.stack([np.asarray(member.period) for member in members])


@pytest.mark.parametrize(("period", "ticks"), [(4, 26), (7, 40), (12, 60), (52, 220)])
def test_a_period_is_found_within_a_few_cycles(predictor, period, ticks):
    states, _ = streams.run(predictor, patterns(period, ticks, seed=period))

    found = np.mean(periods_in(states) == period)

    assert found >= 0.9


def test_forecasts_of_a_season_come_close_to_those_that_know_it(predictor):
    values = patterns(12, 1500, seed=3)

    _, result = streams.run(predictor, values)

    errors = (values[1:] - result.reference_prediction[:-1])[800:]
    # The mean of the last two cycles alone would be worse by a factor of the root of 1.5.
    assert np.sqrt(np.mean(np.square(errors))) <= 1.10 * NOISE


def test_a_profile_is_the_mean_at_each_phase_of_the_cycles_in_sight():
    period, cycles = 6, 5
    levels = np.random.default_rng(4).standard_normal(WINDOW)
    tick = streams.kernel_tick(levels, accepted=period * (cycles + 1) + 2)
    state = seasonal.seasonal_member("s", "level").init(PredictorConfig())

    made = seasonal._made_of_the_window("level", state, tick, jnp.int32(period))

    deviations = [levels[k] - levels[k : k + period].mean() for k in range(period * cycles)]
    assert int(made.origin) == int(tick.position)
    for phase in range(period):
        behind = -phase % period
        expected = np.mean(deviations[behind::period])
        assert float(made.profile[phase]) == pytest.approx(expected)
    assert float(made.cycles) == cycles


@pytest.mark.parametrize("form", ["difference", "level"])
def test_what_is_added_to_a_profile_is_what_it_would_be_made_of(form):
    levels = jnp.asarray(np.random.default_rng(5).standard_normal(WINDOW))
    period = jnp.int32(9)

    newest = seasonal._newest(form, levels, period)

    assert float(newest) == pytest.approx(
        float(seasonal._all_of_the_window(form, levels, period)[0])
    )
