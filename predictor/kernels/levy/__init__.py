"""levy: drift, diffusion and jumps of an Itô–Lévy process, by filtering.

An increment beyond the threshold, in units of the bipower volatility, is a jump; the rest
is drift and diffusion. The forecast is the mean of a bank of filters, weighted by their
discounted evidence: local levels with gains from slow to fast, which see the value as a
level under noise, and the drift with the mean jump, which see it as a random walk. A jump
moves the levels no more than the threshold would. Where the next tick does not take it
back, the level filters restart at the new level and average until their gain is reached.

No jump is ever sampled into the forecast: that would add its variance to the error.

**Source:** Barndorff-Nielsen and Shephard (2004), *Power and bipower variation with
stochastic volatility and jumps*, Journal of Financial Econometrics 2, 1-37; Harvey (1989),
*Forecasting, structural time series models and the Kalman filter*.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from predictor.config import WARM_UP_TICKS, PredictorConfig
from predictor.kernels.base import Kernel, KernelForecast, KernelTick
from predictor.selection import choose
from predictor.types import Array

GAINS = np.array([0.02, 0.05, 0.1, 0.2, 0.4])
"""Steady-state Kalman gains of the local levels; 1 would be persistence."""

DRIFT_MEMORY = 0.01
"""EWMA rate of drift, jump intensity and jump size, per tick."""

BIPOWER_MEMORY = 0.03
"""EWMA rate of the bipower variation, per tick."""

MEMBERS = GAINS.size + 1
EVIDENCE_TICKS = 50.0
"""Errors count for at most this many independent ticks when members are weighed, so that
the bank keeps listening to members that were right long ago."""


class LevyState(NamedTuple):
    """Filters of one lane, in units of the typical increment.

    `offsets` `[G]`: level minus present value; `age`: ticks since the levels restarted;
    `jumped`: the last increment if it was a jump, else zero; `drift`: mean diffusive
    increment; `jump_mean`: mean increment contributed by jumps per tick; `bipower`: variance
    of the diffusive part; `previous`: last absolute diffusive increment; `errors`
    `[MEMBERS]`: discounted squared errors; `weight`: their total discount; `forecasts`
    `[MEMBERS]`: what each member said about the next increment.
    """

    offsets: Array
    drift: Array
    jump_mean: Array
    bipower: Array
    previous: Array
    jumped: Array
    age: Array
    errors: Array
    weight: Array
    forecasts: Array


def _init(config: PredictorConfig) -> LevyState:
    del config
    zero = jnp.zeros(())
    return LevyState(
        offsets=jnp.zeros(GAINS.size),
        drift=zero,
        jump_mean=zero,
        bipower=jnp.ones(()),
        previous=jnp.ones(()),
        jumped=zero,
        age=zero,
        errors=jnp.zeros(MEMBERS),
        weight=zero,
        forecasts=jnp.zeros(MEMBERS),
    )


def _learn(config: PredictorConfig, state: LevyState, tick: KernelTick) -> LevyState:
    increment = tick.target
    volatility = jnp.sqrt(jnp.maximum(state.bipower, 1e-12))
    limit = config.levy.levy_jump_threshold * volatility
    jump = jnp.abs(increment) > limit
    clipped = jnp.clip(increment, -limit, limit)
    # E|Z| E|Z'| = 2/π for independent standard normals: the product of neighbours estimates
    # the diffusive variance even when one of them is a jump.
    product = 0.5 * np.pi * jnp.abs(clipped) * jnp.minimum(state.previous, limit)
    # A level filter's error is the increment seen from the level rather than from the value.
    error = increment - state.offsets
    age = state.age + 1.0
    gains = jnp.maximum(jnp.asarray(GAINS), 1.0 / age)
    offsets = state.offsets + gains * jnp.clip(error, -limit, limit)
    # The last jump is kept where this tick did not take it back.
    kept = (state.jumped != 0.0) & (jnp.abs(state.jumped + increment) > 0.5 * jnp.abs(state.jumped))
    offsets = jnp.where(kept, 0.5 * increment, offsets)
    age = jnp.where(kept, 2.0, age)
    discount = config.levy.levy_memory
    squared = jnp.square(jnp.clip(increment - state.forecasts, -2.0 * limit, 2.0 * limit))
    return state._replace(
        offsets=offsets,
        age=age,
        jumped=jnp.where(jump, increment, 0.0),
        drift=state.drift + DRIFT_MEMORY * (jnp.where(jump, 0.0, increment) - state.drift),
        jump_mean=state.jump_mean
        + DRIFT_MEMORY * (jnp.where(jump, increment, 0.0) - state.jump_mean),
        bipower=state.bipower + BIPOWER_MEMORY * (product - state.bipower),
        previous=jnp.abs(clipped),
        errors=discount * state.errors + squared,
        weight=discount * state.weight + 1.0,
    )


def _follow(state: LevyState, tick: KernelTick) -> LevyState:
    """Express the filters about the present value and in the present unit."""
    unit = tick.rescale
    return state._replace(
        offsets=(state.offsets - tick.moved) * unit,
        jumped=state.jumped * unit,
        drift=state.drift * unit,
        jump_mean=state.jump_mean * unit,
        bipower=state.bipower * jnp.square(unit),
        previous=state.previous * unit,
        errors=state.errors * jnp.square(unit),
    )


def _step(
    config: PredictorConfig, state: LevyState, tick: KernelTick
) -> tuple[LevyState, KernelForecast]:
    state = _follow(choose(tick.learn, _learn(config, state, tick), state), tick)
    forecasts = jnp.concatenate([state.offsets, (state.drift + state.jump_mean)[None]])
    mean_squares = (state.errors + 1e-12) / jnp.maximum(state.weight, 1.0)
    half_ticks = 0.5 * jnp.minimum(state.weight, EVIDENCE_TICKS)
    log_weights = -half_ticks * jnp.log(mean_squares / jnp.min(mean_squares))
    weights = jnp.exp(log_weights)
    mean = jnp.sum(weights * forecasts) / jnp.sum(weights)
    ready = tick.accepted >= WARM_UP_TICKS
    return state._replace(forecasts=forecasts), KernelForecast(mean, ready)


KERNEL = Kernel("levy", _init, _step)
