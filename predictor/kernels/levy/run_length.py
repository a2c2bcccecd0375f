"""Piecewise constant levels: how long has the present one lasted?

The filter keeps hypotheses about the time of the last jump of the level, each with the count
and the sum of the values since; a new one is born at every tick and replaces the least
probable. The forecast is the posterior mean over all of them.

**Source:** Adams and MacKay (2007), *Bayesian online changepoint detection*; Fearnhead and Liu
(2007), *On-line inference for multiple changepoint problems*.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from predictor.config import PredictorConfig
from predictor.kernels.bank import Member
from predictor.kernels.base import KernelTick
from predictor.selection import choose
from predictor.types import Array

HYPOTHESES = 32
HAZARD = 1.0 / 250.0
"""Prior probability of a jump of the level, per tick."""

LEVEL_VARIANCE = 9.0
"""Prior variance of a new level about the centre, in squared spreads."""

NOISE_MEMORY = 0.002
"""EWMA rate of the noise variance, per tick."""

OUTLYING = 12.0
"""Squared errors of more noise variances than this count as this many."""

FIRST_LEARNED = 6
SMALLEST_LOG = np.log(1e-30)


class RunLengthState(NamedTuple):
    """`log_weights` (up to a constant), `counts` and `sums` of the values since the jump, of
    each hypothesis `[HYPOTHESES]`; `noise` variance; all in level coordinates."""

    log_weights: Array
    counts: Array
    sums: Array
    noise: Array


def _init(config: PredictorConfig) -> RunLengthState:
    del config
    first = jnp.arange(HYPOTHESES) == 0
    nothing = jnp.zeros(HYPOTHESES)
    return RunLengthState(jnp.where(first, 0.0, SMALLEST_LOG), nothing, nothing, jnp.asarray(0.5))


def _posterior(state: RunLengthState) -> tuple[Array, Array]:
    """Mean and variance of the level under each hypothesis."""
    precision = 1.0 / LEVEL_VARIANCE + state.counts / state.noise
    return state.sums / (state.noise * precision), 1.0 / precision


def _learn(state: RunLengthState, value: Array, ticks: Array) -> RunLengthState:
    mean, level_variance = _posterior(state)
    variance = level_variance + state.noise
    squared = jnp.square(value - mean)
    log_weights = state.log_weights - 0.5 * (jnp.log(variance) + squared / variance)
    log_weights = log_weights - jnp.max(log_weights)
    weights = jnp.exp(log_weights)
    total = jnp.sum(weights)
    # What the level's own uncertainty adds to the error is not noise.
    noise = jnp.sum(weights * squared * state.noise / variance) / total
    rate = jnp.maximum(NOISE_MEMORY, 1.0 / (ticks + 1.0))
    rate = jnp.where(ticks >= FIRST_LEARNED, rate, 0.0)
    noise = state.noise + rate * (jnp.minimum(noise, OUTLYING * state.noise) - state.noise)
    survived = jnp.maximum(log_weights - jnp.log(total), SMALLEST_LOG) + np.log1p(-HAZARD)
    newborn = jnp.arange(HYPOTHESES) == jnp.argmin(survived)
    return RunLengthState(
        log_weights=jnp.where(newborn, np.log(HAZARD), survived),
        counts=jnp.where(newborn, 0.0, state.counts + 1.0),
        sums=jnp.where(newborn, 0.0, state.sums + value),
        noise=jnp.maximum(noise, 1e-8),
    )


def _step(
    config: PredictorConfig, state: RunLengthState, tick: KernelTick
) -> tuple[RunLengthState, Array]:
    del config
    stretch = tick.change.stretch
    state = state._replace(
        sums=stretch * state.sums + tick.change.shift * state.counts,
        noise=jnp.square(stretch) * state.noise,
    )
    learned = _learn(state, tick.levels[0], tick.accepted.astype(jnp.float64))
    state = choose(tick.learn, learned, state)
    mean, _ = _posterior(state)
    weights = jnp.exp(state.log_weights - jnp.max(state.log_weights))
    level = jnp.sum(weights * mean) / jnp.sum(weights)
    return state, tick.ratio * (level - tick.levels[0])


def run_length_member(name: str) -> Member:
    """Posterior mean of a piecewise constant level."""
    return Member(name, _init, _step)
