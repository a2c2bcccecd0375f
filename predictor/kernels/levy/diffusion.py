"""The diffusion between two ticks: a fitted drift, integrated by the scheme its stiffness needs.

The mean of the next increment given the level is a cubic, by Kramers–Moyal regression. Over a
whole tick that is not the drift of a stochastic differential equation, but what one tick of it
leads to: with φ the derivative of that map at the centre and θ = −ln φ, the drift is the
regression scaled by θ / (1 − φ), which is exact for an Ornstein–Uhlenbeck process. The forecast
is the mean of the equation one tick ahead, within one deviation of the regression: a cubic whose
leading term drives outwards has solutions that run away from what was fitted. Maps with φ ≤ 0
oscillate and are no diffusion at a fixed step; they are left to other members.

**Source:** Friedrich et al. (2011), *Approaching complexity by stochastic methods*, Physics
Reports 506, section 3, on finite sampling intervals.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from predictor import recursive_least_squares as rls
from predictor.config import PredictorConfig
from predictor.kernels.bank import Member
from predictor.kernels.base import KernelTick
from predictor.kernels.levy import record
from predictor.kernels.levy.record import SolverRecord
from predictor.kernels.levy.schemes import propagate_mean
from predictor.selection import choose
from predictor.types import Array

PRECISION = np.array([0.1, 0.1, 1.0, 1.0])
INPUT_LIMIT = 4.0
LEAST_MEMORY, MOST_MEMORY = 0.02, 0.995
"""Range of φ within which the map is embedded in a diffusion."""


class DiffusionState(NamedTuple):
    """The regression with its `features` `[4]`; the `volatility` of the tick before; what the
    solver did."""

    regression: rls.Regression
    features: Array
    volatility: Array
    record: SolverRecord


def _init(config: PredictorConfig) -> DiffusionState:
    del config
    return DiffusionState(rls.init(PRECISION), jnp.zeros(4), jnp.ones(()), record.init())


def _embedded(regression: rls.Regression, ratio: Array) -> tuple[Array, Array, Array]:
    """Drift `[4]` per tick and variance rate in level units, and whether they exist."""
    per_level = regression.coefficients / ratio
    memory = 1.0 + per_level[1]
    exists = (memory > LEAST_MEMORY) & (memory < MOST_MEMORY)
    bounded = jnp.clip(memory, LEAST_MEMORY, MOST_MEMORY)
    rate = -jnp.log(bounded)
    drift = per_level * (rate / (1.0 - bounded))
    noise = regression.variance / jnp.square(ratio)
    return drift, noise * 2.0 * rate / (1.0 - jnp.square(bounded)), exists


def _log_change(before: Array, now: Array) -> Array:
    """ln now − ln before; none where either has vanished."""
    known = (before > 0.0) & (now > 0.0)
    return jnp.log(jnp.where(known, now, 1.0)) - jnp.log(jnp.where(known, before, 1.0))


def _step(
    config: PredictorConfig, state: DiffusionState, tick: KernelTick
) -> tuple[DiffusionState, Array]:
    learned = rls.learn(
        state.regression, state.features, tick.target, config.levy.diffusion_memory, PRECISION
    )
    regression = choose(tick.learn, learned, state.regression)
    regression = choose(tick.change.restart, rls.init(PRECISION), regression)
    level = jnp.clip(tick.levels[0], -INPUT_LIMIT, INPUT_LIMIT)
    features = jnp.stack([jnp.ones(()), level, level**2, level**3])
    drift, variance_rate, exists = _embedded(regression, tick.ratio)
    step = propagate_mean(
        drift,
        level,
        variance_rate,
        tick.holder_exponent,
        volatility_change=_log_change(state.volatility, tick.volatility),
        low=config.levy.stiffness_low,
        high=config.levy.stiffness_high,
    )
    state = DiffusionState(
        regression, features, tick.volatility, record.noted(state.record, exists, step)
    )
    fitted = rls.predict(regression, features)
    reach = jnp.sqrt(regression.variance)
    increment = jnp.clip(tick.ratio * (step.mean - level), fitted - reach, fitted + reach)
    return state, jnp.where(exists, increment, 0.0)


def diffusion_member(name: str) -> Member:
    """Mean of the fitted diffusion one tick ahead."""
    return Member(name, _init, _step)
