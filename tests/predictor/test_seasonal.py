"""Seasons: periods are found in time, and the noise of single cycles is averaged away."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from predictor import recursive_least_squares as rls
from predictor.config import WINDOW, PredictorConfig
from predictor.kernels.hilbert import seasonal
from tests.predictor import streams

LANES = 8
NOISE = 0.3
MEMBERS = {form: seasonal.seasonal_member(form, form) for form in ("difference", "level")}


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


def test_correlated_noise_on_a_season_is_forecast_from_the_surprise_at_the_last_phase(predictor):
    rng = np.random.default_rng(8)
    season = 3.0 * rng.standard_normal((7, LANES))[np.arange(2000) % 7]
    noise, shocks = np.zeros((2000, LANES)), rng.standard_normal((2000, LANES))
    for tick in range(1, 2000):
        noise[tick] = 0.5 * noise[tick - 1] + shocks[tick]
    values = season + noise

    _, result = streams.run(predictor, values)

    errors = (values[1:] - result.reference_prediction[:-1])[800:]
    # The shocks have a deviation of one; forecasts that leave the noise out would err by 1.15.
    assert np.sqrt(np.mean(np.square(errors))) <= 1.055


@pytest.mark.parametrize("form", ["difference", "level"])
@pytest.mark.parametrize("accepted", [14, 31, 500])
def test_what_follows_is_the_mean_over_the_cycles_in_sight(form, accepted):
    period, levels = 6, np.random.default_rng(4).standard_normal(WINDOW)
    window, lag = jnp.asarray(levels), jnp.int32(period)
    seen = min(accepted, WINDOW)

    cycles = int(seasonal._cycles_in_sight(form, jnp.int32(accepted), lag))
    following = seasonal._following_in_sight(form, window, lag, jnp.int32(cycles))

    # One tick after each of these ticks a cycle ago, two cycles ago, and so on.
    places = [count * period - 1 for count in range(1, seasonal.CYCLES + 1)]
    reach = 1 if form == "difference" else period - 1
    inside = [place for place in places if place + reach < seen]
    added = [float(seasonal._newest(form, jnp.roll(window, -p), lag)) for p in inside]
    assert cycles == len(inside)
    assert float(following) == pytest.approx(np.mean(added))


@pytest.mark.parametrize("form", ["difference", "level"])
def test_scores_are_the_discounted_squared_errors_of_repeating_the_last_cycle(form):
    values = np.random.default_rng(6).normal(size=300)
    member = MEMBERS[form]

    state, _ = streams.told(member, streams.kernel_ticks(values, ratio=1.5))

    for period in (2, 7, 30, 64):
        expected = 0.0
        for row in range(1, values.size):
            if row - 1 < period:
                continue
            said = values[row - period]
            if form == "difference":
                said = values[row - 1] + said - values[max(row - period - 1, 0)]
            error = np.clip(1.5 * (values[row] - said), -seasonal.SCORE_LIMIT, seasonal.SCORE_LIMIT)
            expected = seasonal.SCORE_MEMORY * expected + error**2
        assert float(state.scores[period - seasonal.SHORTEST]) == pytest.approx(expected)


def seasonal_step(state, tick):
    after, _ = MEMBERS["level"].step(PredictorConfig(), state, tick)
    return after, after.period


def test_member_sleeps_while_persistence_errs_by_far_less_than_any_period():
    member = MEMBERS["level"]
    values = np.cumsum(0.5 + np.random.default_rng(16).normal(size=300))
    season = patterns(12, 80, seed=17)[:, 0]

    asleep, increments = streams.told(member, streams.kernel_ticks(values))
    awake, _ = streams.told(member, streams.kernel_ticks(season))

    assert (bool(member.awake(asleep)), bool(member.awake(awake))) == (False, True)
    assert np.all(np.asarray(increments) == 0.0)
    expected = 0.0
    for increment in np.diff(values):
        clipped = np.clip(increment, -seasonal.SCORE_LIMIT, seasonal.SCORE_LIMIT)
        expected = seasonal.SCORE_MEMORY * expected + clipped**2
    assert float(asleep.persistence) == pytest.approx(expected)


def test_no_multiple_and_no_neighbour_takes_the_place_of_an_active_period():
    for values in patterns(9, 600, seed=7).T:
        start = MEMBERS["level"].init(PredictorConfig())
        _, periods = streams.fold(seasonal_step, start, streams.kernel_ticks(values))

        active = np.asarray(periods) == 9
        assert active.any()
        assert np.all(active[np.argmax(active) :])
        assert np.argmax(active) < 120


@pytest.mark.parametrize("multiple", [18, 27, 54])
def test_a_period_takes_over_from_its_multiple_which_errs_as_little(multiple):
    values = patterns(9, 400, seed=13)[:, 0]
    state, _ = streams.told(MEMBERS["level"], streams.kernel_ticks(values[:-1]))
    stuck = state._replace(period=jnp.int32(multiple))
    tick = streams.kernel_tick(values[::-1][:WINDOW])

    after, _ = streams.asked(MEMBERS["level"], stuck, tick)
    unlearned, _ = streams.asked(MEMBERS["level"], stuck, tick._replace(learn=jnp.asarray(False)))

    assert (int(after.period), int(unlearned.period)) == (9, multiple)


def test_a_divisor_that_misses_every_other_cycle_does_not_take_over():
    week = np.random.default_rng(14).normal(size=7)
    other = week + 2.5 * NOISE * np.array([1, -1, 1, -1, 1, -1, 0])
    noise = NOISE * np.random.default_rng(15).normal(size=900)
    values = np.concatenate([week, other])[np.arange(900) % 14] + noise

    state, _ = streams.told(MEMBERS["level"], streams.kernel_ticks(values))

    assert int(state.period) == 14


def test_another_season_takes_over_and_its_profile_with_it():
    values = np.concatenate([patterns(7, 400, seed=8)[:, 0], patterns(11, 600, seed=9)[:, 0]])

    state, increments = streams.told(MEMBERS["level"], streams.kernel_ticks(values))

    errors = (values[1:] - (values + increments)[:-1])[800:]
    assert int(state.period) == 11
    assert streams.root_mean_square(errors) < 1.25 * NOISE


@pytest.mark.parametrize("form", ["difference", "level"])
def test_season_without_noise_becomes_known_nearly_exactly(form):
    pattern = np.random.default_rng(10).normal(size=12)
    values = pattern[np.arange(600) % 12]

    _, increments = streams.told(MEMBERS[form], streams.kernel_ticks(values))

    errors = (values[1:] - (values + increments)[:-1])[300:]
    assert streams.root_mean_square(errors) < 0.02 * pattern.std()


@pytest.mark.parametrize("form", ["difference", "level"])
def test_nothing_is_said_before_two_cycles_of_the_shortest_period(form):
    levels = np.random.default_rng(11).normal(size=WINDOW)
    fresh = MEMBERS[form].init(PredictorConfig())
    fresh = fresh._replace(scored=jnp.asarray(100.0), persistence=jnp.asarray(1e6))

    early, silence = streams.asked(MEMBERS[form], fresh, streams.kernel_tick(levels, accepted=5))
    late, _ = streams.asked(MEMBERS[form], fresh, streams.kernel_tick(levels, accepted=6))

    assert (int(early.period), silence) == (0, 0.0)
    assert int(late.period) == seasonal.SHORTEST


def test_period_that_changes_keeps_the_coefficients_and_their_meaning_is_learned_anew():
    values = patterns(7, 300, seed=12)[:, 0]
    state, _ = streams.told(MEMBERS["level"], streams.kernel_ticks(values))
    # The scores say eleven from now on.
    wrong = jnp.where(jnp.asarray(seasonal.PERIODS) == 11, 0.0, 1e6)
    # Where the forecast was right the coefficients stay what they are.
    forecast = rls.predict(state.regression, state.features)
    tick = streams.kernel_tick(values[::-1][:WINDOW], target=forecast)

    after, _ = streams.asked(MEMBERS["level"], state._replace(scores=wrong), tick)

    assert (int(state.period), int(after.period)) == (7, 11)
    assert np.array_equal(after.regression.coefficients, state.regression.coefficients)
    assert float(after.regression.learned) == 0.0
    prior = np.diag(1.0 / np.sqrt(seasonal.PRECISION))
    np.testing.assert_allclose(after.regression.root, prior)
