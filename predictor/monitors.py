"""Statistics of the standardised one-step errors: volatility, kurtosis, CUSUM."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from predictor.config import WARM_UP_TICKS, PredictorConfig
from predictor.types import Array

LONG_RUN_MEMORY = 0.005
"""EWMA rate of the long-run error variance that volatility is compared with, per tick."""

KURTOSIS_LIMITS = (1.0, 100.0)
NORMAL_KURTOSIS = 3.0


class MonitorState(NamedTuple):
    """Monitors of one lane.

    `variance` and `long_variance` are EWMA error variances (unit of y squared), `residuals`
    the last standardised errors, newest first; `upward` and `downward` the two CUSUM sums in
    standard deviations; `grace` the ticks in which no alarm may be raised.
    """

    scored: Array
    variance: Array
    long_variance: Array
    residuals: Array
    upward: Array
    downward: Array
    grace: Array


class Reading(NamedTuple):
    """What the monitors say at one tick; `threshold` and `drift` in the unit of y."""

    cusum_alarm: Array
    kurtosis: Array
    drift: Array
    threshold: Array


def init(config: PredictorConfig) -> MonitorState:
    """State before the first error."""
    zero, count = jnp.zeros(()), jnp.zeros((), jnp.int64)
    residuals = jnp.zeros(config.monitoring.residual_window_size)
    return MonitorState(count, zero, zero, residuals, zero, zero, count)


def _kurtosis(residuals: Array, scored: Array) -> Array:
    size = residuals.shape[0]
    count = jnp.minimum(scored, size).astype(jnp.float64)
    inside = jnp.arange(size) < count
    count = jnp.maximum(count, 1.0)
    mean = jnp.sum(residuals) / count
    squares = jnp.where(inside, jnp.square(residuals - mean), 0.0)
    second = jnp.sum(squares) / count
    fourth = jnp.sum(jnp.square(squares)) / count
    kurtosis = fourth / jnp.maximum(jnp.square(second), 1e-300)
    return jnp.clip(kurtosis, *KURTOSIS_LIMITS)


def score(
    config: PredictorConfig, state: MonitorState, error: Array
) -> tuple[MonitorState, Reading]:
    r"""Fold one error of the stored forecast into the monitors.

    With z the error over the EWMA standard deviation *before* this tick, slack k and kurtosis
    κ, the sums U ← max(0, U + z − k) and D ← max(0, D − z − k) raise an alarm beyond
    h (1 + ln(max(κ, 3) / 3)). During the grace period they are capped at the threshold and
    no alarm is raised; they restart at zero when it ends.

    **Source:** Page (1954), *Continuous inspection schemes*; seed 000, regime monitoring.
    """
    rules = config.monitoring
    sigma = jnp.sqrt(state.variance)
    warm = state.scored >= WARM_UP_TICKS
    standardised = jnp.where(sigma > 0.0, error / jnp.where(sigma > 0.0, sigma, 1.0), 0.0)
    bounded = jnp.clip(standardised, -1e6, 1e6)
    residuals = jnp.concatenate([bounded[None], state.residuals[:-1]])
    scored = state.scored + 1
    kurtosis = jnp.where(warm, _kurtosis(residuals, scored), jnp.nan)
    heavy = jnp.log(jnp.maximum(jnp.where(warm, kurtosis, NORMAL_KURTOSIS), NORMAL_KURTOSIS) / 3.0)
    limit = rules.cusum_h * (1.0 + heavy)
    upward = jnp.where(warm, jnp.maximum(0.0, state.upward + bounded - rules.cusum_k), 0.0)
    downward = jnp.where(warm, jnp.maximum(0.0, state.downward - bounded - rules.cusum_k), 0.0)
    in_grace = state.grace > 0
    farthest = jnp.maximum(upward, downward)
    alarm = (farthest > limit) & ~in_grace & warm
    reading = Reading(
        cusum_alarm=alarm,
        kurtosis=kurtosis,
        drift=jnp.where(alarm, farthest, jnp.minimum(farthest, limit)) * sigma,
        threshold=limit * sigma,
    )
    restart = alarm | (state.grace == 1)
    rate = jnp.maximum(rules.volatility_alpha, 1.0 / scored)
    slow = jnp.maximum(LONG_RUN_MEMORY, 1.0 / scored)
    squared = jnp.square(error)
    after = MonitorState(
        scored=scored,
        variance=state.variance + rate * (squared - state.variance),
        long_variance=state.long_variance + slow * (squared - state.long_variance),
        residuals=residuals,
        upward=jnp.where(restart, 0.0, jnp.minimum(upward, limit)),
        downward=jnp.where(restart, 0.0, jnp.minimum(downward, limit)),
        grace=jnp.maximum(state.grace - 1, 0),
    )
    return after, reading
