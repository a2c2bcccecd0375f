"""The fitted diffusion: exact for an Ornstein–Uhlenbeck process, and never a runaway."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from predictor import anchors
from predictor.config import WINDOW, PredictorConfig
from predictor.kernels.levy import diffusion, record, schemes
from predictor.kernels.levy.diffusion import diffusion_member
from tests.predictor import streams

CONFIG = PredictorConfig()
MEMBER = diffusion_member("diffusion")


def forecast(coefficients: list[float], level: float, variance: float = 0.04) -> float:
    """Increment of a member whose regression is given, units of levels and increments alike."""
    state = MEMBER.init(CONFIG)
    regression = state.regression._replace(
        coefficients=jnp.asarray(coefficients), variance=jnp.asarray(variance)
    )
    tick = streams.kernel_tick(np.full(WINDOW, level), learn=False)
    step = jax.jit(lambda state, tick: MEMBER.step(CONFIG, state, tick)[1])
    return float(step(state._replace(regression=regression), tick))


@pytest.mark.parametrize("memory", [0.2, 0.6, 0.9])
def test_mean_of_an_ornstein_uhlenbeck_process_is_that_of_its_exact_transition(memory):
    increment = forecast([0.0, memory - 1.0, 0.0, 0.0], level=1.5)

    assert increment == pytest.approx((memory - 1.0) * 1.5, abs=2e-3)


def test_a_drift_that_runs_away_is_held_within_a_deviation_of_what_was_fitted():
    coefficients = [0.0, -0.3, 0.0, 0.2]
    level, deviation = 3.0, 0.2
    fitted = float(np.dot(coefficients, [1.0, level, level**2, level**3]))

    increment = forecast(coefficients, level, deviation**2)

    # The equation dX = (−0.36 X + 0.24 X³) dt from 3 reaches infinity within a tick.
    assert increment == pytest.approx(fitted + deviation)


@pytest.mark.parametrize("memory", [-0.5, 0.0])
def test_map_that_oscillates_is_no_diffusion_and_says_persistence(memory):
    assert forecast([0.0, memory - 1.0, 0.0, 0.0], level=1.5) == 0.0


@pytest.mark.parametrize("ratio", [0.5, 3.0])
def test_embedding_of_an_ornstein_uhlenbeck_process_has_its_rates(ratio):
    rate, mean, variance = 0.4, 0.3, 0.8
    memory = np.exp(-rate)
    # One tick of dX = −rate (X − mean) dt + √v dW has variance v (1 − φ²)/(2 rate).
    one_tick = variance * (1.0 - memory**2) / (2.0 * rate)
    state = MEMBER.init(CONFIG)
    regression = state.regression._replace(
        coefficients=ratio * jnp.asarray([(1.0 - memory) * mean, memory - 1.0, 0.0, 0.0]),
        variance=jnp.asarray(ratio**2 * one_tick),
    )

    drift, variance_rate, exists = diffusion._embedded(regression, jnp.asarray(ratio))

    assert bool(exists)
    np.testing.assert_allclose(drift, [rate * mean, -rate, 0.0, 0.0], atol=1e-12)
    assert float(variance_rate) == pytest.approx(variance)


def test_forecasts_of_a_process_that_it_learns_come_close_to_the_best():
    values = 0.8 * streams.autoregression(np.random.default_rng(1), [0.6], 3000, 1)[:, 0]

    _, increments = streams.told(MEMBER, streams.kernel_ticks(values))

    errors = (values[1:] - (values + increments)[:-1])[500:]
    assert streams.root_mean_square(errors) < 1.01 * 0.8


def test_record_of_the_solver_is_empty_before_its_first_step_and_adds_up_after():
    fresh = record.reading(MEMBER.init(CONFIG).record)
    values = streams.autoregression(np.random.default_rng(2), [0.6], 200, 1)[:, 0]

    state, _ = streams.told(MEMBER, streams.kernel_ticks(values))

    assert all(np.all(np.isnan(leaf)) for leaf in fresh)
    used = record.reading(state.record)
    assert float(np.sum(used.frequencies)) == pytest.approx(1.0)
    # b' = ln .6 over eight sub-steps is far below the first threshold.
    assert float(used.frequencies[0]) > 0.5
    assert 0.0 < float(used.stiffness) < 1000.0
    assert (float(used.low), float(used.high)) == pytest.approx((100.0, 1000.0))


def test_new_coordinates_begin_the_regression_again():
    values = streams.autoregression(np.random.default_rng(3), [0.6], 200, 1)[:, 0]
    state, _ = streams.told(MEMBER, streams.kernel_ticks(values))
    change = anchors.Change(stretch=1.0, shift=0.0, gain=1.0, early=False, restart=True)

    after, increment = streams.asked(
        MEMBER, state, streams.kernel_tick(np.full(WINDOW, 1.0), change=change)
    )

    assert increment == 0.0
    assert float(after.regression.learned) == 0.0
    assert not np.any(after.regression.coefficients)


def steps_of(codes, stiffness=1.0):
    """The record after the schemes `codes`, -1 where the solver did not run."""
    zero = jnp.zeros(())
    solver_step = schemes.MeanStep(
        mean=zero,
        variance=zero,
        stiffness=jnp.asarray(stiffness),
        limits=schemes.Thresholds(jnp.asarray(100.0), jnp.asarray(1000.0)),
        implicitness=zero,
        scheme=jnp.int32(0),
        newton_iterations=jnp.int32(3),
        residual=zero,
    )

    def tick(kept, code):
        step = solver_step._replace(scheme=jnp.maximum(code, 0))
        return record.noted(kept, code >= 0, step), None

    return jax.lax.scan(tick, record.init(), jnp.asarray(codes, jnp.int32))[0]


@pytest.mark.parametrize("length", [1, 15, 16, 17, 99, 100, 101, 333])
def test_frequencies_are_those_of_the_last_hundred_ticks(length):
    codes = np.random.default_rng(length).integers(-1, 3, length)

    kept = steps_of(codes)

    last = codes[-record.TICKS :]
    expected = np.bincount(last[last >= 0], minlength=3)
    np.testing.assert_array_equal(record.counts(kept.schemes), expected)
    shares = expected / np.sum(expected) if np.any(expected) else np.full(3, np.nan)
    np.testing.assert_allclose(record.reading(kept).frequencies, shares, rtol=1e-15)


def test_iterations_are_those_of_implicit_steps_and_nothing_where_there_was_none():
    assert np.isnan(record.reading(steps_of([0] * 50)).iterations)
    assert float(record.reading(steps_of([0, 1, 2] * 50)).iterations) == pytest.approx(3.0)


def test_a_burst_of_volatility_makes_the_equation_stiff_for_a_tick():
    values = streams.autoregression(np.random.default_rng(2), [0.6], 200, 1)[:, 0]
    ticks = streams.kernel_ticks(values)
    volatility = np.ones(200)
    volatility[150:] = np.exp(1.2)

    calm, _ = streams.told(MEMBER, ticks)
    burst, _ = streams.told(MEMBER, ticks._replace(volatility=volatility))

    # |Δ ln σ| h = 1.2 / 8 is above the first threshold and stiffer than the drift.
    faded = record.MEMORY ** (199 - 150)
    assert float(burst.record.stiffness) == pytest.approx(150.0 * faded)
    difference = record.counts(burst.record.schemes) - record.counts(calm.record.schemes)
    np.testing.assert_array_equal(difference, [-1, 1, 0])


@pytest.mark.parametrize("vanished", [[149], [150], [150, 151]])
def test_a_volatility_that_vanishes_changes_nothing(vanished):
    ticks = streams.kernel_ticks(np.sin(np.arange(200.0)))
    volatility = np.ones(200)
    volatility[vanished] = 0.0

    state, increments = streams.told(MEMBER, ticks._replace(volatility=volatility))

    expected, same = streams.told(MEMBER, ticks)
    np.testing.assert_array_equal(increments, same)
    np.testing.assert_array_equal(state.record.stiffness, expected.record.stiffness)
