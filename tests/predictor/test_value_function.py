"""The member of the backward equation: certainty equivalents, forecasts and what is reported."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from predictor import anchors
from predictor.config import WINDOW, PredictorConfig
from predictor.kernels.markov import backward_equation as equation
from predictor.kernels.markov import entropy, ladder, value_function
from tests.predictor.streams import (
    asked,
    autoregression,
    kernel_tick,
    kernel_ticks,
    root_mean_square,
    told,
)

MEMBER = value_function.value_function_member("value_function")
RATE = 0.4
STATIONARY = 0.7


def fitted(memory: float, ratio: float = 1.0) -> value_function.ValueState:
    """A state that knows an autoregression of this memory about zero, in increments of `ratio`
    to a level, and forecasts the distance to the certainty equivalent itself."""
    state = MEMBER.init(PredictorConfig())
    noise = ratio**2 * STATIONARY * (1.0 - memory**2)
    drift = ratio * jnp.asarray([0.0, memory - 1.0, 0.0, 0.0])
    known = jnp.asarray(noise)
    return state._replace(
        drift=state.drift._replace(coefficients=drift, variance=known),
        variance=state.variance._replace(coefficients=jnp.asarray([noise, 0.0, 0.0])),
        forecast=state.forecast._replace(coefficients=jnp.asarray([0.0, 1.0])),
    )


def test_entropy_goes_on_where_a_map_begins_to_oscillate():
    random = np.random.default_rng(4)
    reverting = autoregression(random, [0.6], 600, 1)[:, 0]
    oscillating = autoregression(random, [-0.6], 600, 1)[:, 0]
    long, _ = told(MEMBER, kernel_ticks(np.concatenate([reverting, oscillating])))
    short, _ = told(MEMBER, kernel_ticks(np.concatenate([reverting, oscillating[:500]])))

    assert np.isfinite(long.entropy)
    assert float(long.entropy) != float(short.entropy)
    assert not long.warning


@pytest.mark.parametrize("ratio", [1.0, 2.5])
@pytest.mark.parametrize("level", [-1.5, 0.0, 0.8, 2.0])
def test_distance_is_that_to_the_certainty_equivalent_of_the_closed_form(level, ratio):
    levels = np.tile([level, -5.0, 5.0, level], WINDOW // 4)
    tick = kernel_tick(levels, ratio=ratio, learn=False)

    state, increment = asked(MEMBER, fitted(np.exp(-RATE), ratio), tick)

    value = equation.ornstein_uhlenbeck_value(0.0, level, RATE, 0.0, 2.0 * RATE * STATIONARY)
    exact = ratio * (np.arctanh(value) - level)
    # The networks err by a few hundredths.
    assert float(state.distance) == pytest.approx(float(exact), abs=0.05 * ratio)
    assert increment == pytest.approx(float(state.distance))


def test_certainty_equivalent_lies_nearer_to_the_centre_than_the_mean():
    for level in (-2.0, -1.0, 1.0, 2.0):
        tick = kernel_tick(np.full(WINDOW, level), learn=False)
        state, _ = asked(MEMBER, fitted(np.exp(-RATE)), tick)

        assert abs(level + float(state.distance)) < np.exp(-RATE) * abs(level)


def test_map_that_oscillates_is_forecast_as_persistence_and_has_an_entropy():
    noise = np.random.default_rng(3).normal(size=400)
    values = np.zeros(400)
    for row in range(1, 400):
        values[row] = -0.6 * values[row - 1] + 0.8 * noise[row]

    state, increments = told(MEMBER, kernel_ticks(values, ratio=1.0))

    assert np.all(increments[100:] == 0.0)
    # It follows the ring from tick to tick, and warns of nothing.
    ring = np.asarray(state.galerkin.ring, np.float64)
    assert float(state.entropy) == pytest.approx(float(entropy.spacing_entropy(ring)))
    assert not state.warning


def test_forecasts_of_mean_reversion_come_close_to_the_best():
    values = 0.8 * autoregression(np.random.default_rng(1), [0.6], 2000, 1)[:, 0]

    state, increments = told(MEMBER, kernel_ticks(values, ratio=1.0))

    errors = (values[1:] - (values + increments)[:-1])[500:]
    assert root_mean_square(errors) < 1.015 * 0.8
    # E[Δ | x] = (φ − 1) x, and its squared error is the noise.
    assert float(state.drift.coefficients[1]) == pytest.approx(-0.4, abs=0.1)
    assert float(state.variance.coefficients[0]) == pytest.approx(0.64, rel=0.2)


def test_squared_errors_count_for_at_most_sixteen_times_their_mean():
    state = fitted(0.6)
    noise = float(state.drift.variance)
    fresh = state.variance._replace(coefficients=jnp.zeros(3))
    state = state._replace(variance=fresh, level=jnp.asarray(0.0))
    limit = np.sqrt(value_function.SQUARE_LIMIT * noise)

    at, _ = asked(MEMBER, state, kernel_tick(np.zeros(WINDOW), target=limit))
    beyond, _ = asked(MEMBER, state, kernel_tick(np.zeros(WINDOW), target=100.0 * limit))

    assert float(at.variance.coefficients[0]) > 0.0
    np.testing.assert_allclose(beyond.variance.coefficients, at.variance.coefficients)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_forecast_stays_within_an_increment_of_what_the_window_has_seen(sign):
    state = fitted(np.exp(-RATE))
    learned = state.forecast._replace(coefficients=jnp.asarray([50.0 * sign, 0.0]))
    tick = kernel_tick(np.random.default_rng(5).normal(size=WINDOW), learn=False)

    _, increment = asked(MEMBER, state._replace(forecast=learned), tick)

    bound = tick.highest + 1.0 if sign > 0.0 else tick.lowest - 1.0
    assert increment == pytest.approx(float(bound))


def test_new_coordinates_begin_the_regressions_again_and_keep_the_ring():
    values = autoregression(np.random.default_rng(2), [0.6], 200, 1)[:, 0]
    state, _ = told(MEMBER, kernel_ticks(values))
    change = anchors.Change(stretch=1.0, shift=0.0, gain=1.0, early=False, restart=True)

    after, increment = asked(
        MEMBER, state, kernel_tick(np.full(WINDOW, 1.0), change=change, learn=False)
    )

    for regression in (after.drift, after.variance, after.forecast):
        assert float(regression.learned) == 0.0
        assert not np.any(regression.coefficients)
    assert increment == 0.0
    assert int(state.galerkin.learned) > entropy.POINTS
    np.testing.assert_array_equal(after.galerkin.ring, state.galerkin.ring)


def test_reading_is_unknown_until_the_ring_is_full_and_names_the_network_in_use():
    ticks = kernel_ticks(autoregression(np.random.default_rng(3), [0.6], 100, 1)[:, 0])
    # Ticks are followed from the warm-up on, and the ring is full at the 32nd of them.
    unfilled = ticks._replace(learn=ticks.learn & (ticks.accepted <= 20 + entropy.POINTS - 1))
    early, _ = told(MEMBER, unfilled)
    late, _ = told(MEMBER, ticks)

    unknown, known = value_function.reading(early), value_function.reading(late)

    assert np.isnan(unknown.entropy)
    assert np.isnan(unknown.ratio)
    assert np.isfinite(known.entropy)
    assert float(known.ratio) > 0.0
    for reading, state in ((unknown, early), (known, late)):
        shape = ladder.SHAPES[int(state.galerkin.member)]
        assert (int(reading.width), int(reading.depth)) == tuple(shape)
