"""Local level and local linear trend: banks of steady-state Kalman filters.

Each gain is the steady state of one ratio of signal to noise; the filters of a bank are
weighed by their discounted evidence, which is an estimate of that ratio. Innovations beyond
the limit move a filter no further than the limit: one jump is not a new level.

**Source:** Harvey (1989), *Forecasting, structural time series models and the Kalman filter*;
Holt (1957), *Forecasting seasonals and trends by exponentially weighted moving averages*.
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

LEVEL_GAINS = np.array([0.0, 0.003, 0.01, 0.02, 0.04, 0.07, 0.12, 0.2, 0.3, 0.45, 0.6, 0.8])
"""Gains of the local levels; 0 is the running mean, 1 would be persistence."""

TREND_GRID = np.array(
    [
        (level, trend)
        for level in (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
        for trend in (0.01, 0.05, 0.15, 0.4)
    ]
)
"""Pairs of gains, of the level and of the trend over that of the level."""

EVIDENCE_TICKS = 200.0
"""Errors count for at most this many independent ticks."""

FIRST_SCORED = 5
INNOVATION_LIMIT = 8.0
"""In typical increments."""


class FilterState(NamedTuple):
    """`levels` and `trends` `[k]` in level coordinates (per tick), discounted squared
    innovations `errors` `[k]` and their total discount `weight`."""

    levels: Array
    trends: Array
    errors: Array
    weight: Array


def _member(name: str, level_gains: np.ndarray, trend_gains: np.ndarray) -> Member:
    size = level_gains.size

    def init(config: PredictorConfig) -> FilterState:
        del config
        nothing = jnp.zeros(size)
        return FilterState(nothing, nothing, nothing, jnp.zeros(()))

    def step(
        config: PredictorConfig, state: FilterState, tick: KernelTick
    ) -> tuple[FilterState, Array]:
        stretch = tick.change.stretch
        state = FilterState(
            levels=stretch * state.levels + tick.change.shift,
            trends=stretch * state.trends,
            errors=jnp.square(stretch) * state.errors,
            weight=state.weight,
        )
        limit = INNOVATION_LIMIT / tick.ratio
        expected = state.levels + state.trends
        innovation = jnp.clip(tick.levels[0] - expected, -limit, limit)
        gains = jnp.maximum(level_gains, 1.0 / jnp.maximum(tick.accepted, 1.0))
        memory = jnp.where(tick.accepted > FIRST_SCORED, config.levy.levy_memory, 0.0)
        filtered = FilterState(
            levels=expected + gains * innovation,
            trends=state.trends + gains * trend_gains * innovation,
            errors=memory * state.errors + jnp.square(innovation),
            weight=memory * state.weight + 1.0,
        )
        state = choose(tick.learn, filtered, state)
        evidence = 0.5 * jnp.minimum(state.weight, EVIDENCE_TICKS)
        errors = state.errors + 1e-12
        weights = jnp.exp(-evidence * jnp.log(errors / jnp.min(errors)))
        weights = weights / jnp.sum(weights)
        level = jnp.sum(weights * (state.levels + state.trends))
        return state, tick.ratio * (level - tick.levels[0])

    return Member(name, init, step)


def local_level_member(name: str) -> Member:
    """A level under noise, at every ratio of the two."""
    return _member(name, LEVEL_GAINS, np.zeros(LEVEL_GAINS.size))


def local_trend_member(name: str) -> Member:
    """A level with a trend under noise."""
    return _member(name, TREND_GRID[:, 0], TREND_GRID[:, 1])
