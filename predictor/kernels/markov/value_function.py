"""The deep Galerkin solution as a member: a forecast, an entropy and the size of the network.

A cubic Kramers–Moyal regression and a quadratic one of its squared errors are embedded in a
diffusion; the trained network gives the value V(0, x) = E tanh z' of its backward equation, whose
certainty equivalent A is a level. The forecast is a regression of the increment on the distance
A − x, since the sure level that is worth as much as the uncertain one lies nearer to the centre
than the mean does. Where the map over one tick falls there is no diffusion: the member says
persistence, and what remains is the entropy of the nearest diffusion in range.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from predictor import recursive_least_squares as rls
from predictor.config import WARM_UP_TICKS, PredictorConfig
from predictor.kernels.bank import Member
from predictor.kernels.base import KernelTick, where_it_has_been
from predictor.kernels.markov import galerkin
from predictor.kernels.markov.embedding import embed, log_variance
from predictor.kernels.markov.ladder import SHAPES
from predictor.selection import choose
from predictor.types import Array

INPUT_LIMIT = 4.0
DRIFT_PRECISION = np.array([0.1, 0.1, 1.0, 1.0])
VARIANCE_PRECISION = np.array([5.0, 20.0, 20.0])
FORECAST_PRECISION = np.ones(2)
SQUARE_LIMIT = 16.0
"""Squared errors count for at most this many times their mean."""


class ValueState(NamedTuple):
    """Regressions of the increment on 1, x, x², x³, of its squared error on 1, x, x², and of the
    increment on 1 and A − x, with the `level` and the `distance` behind the last forecast; the
    Galerkin state; the last reading: `entropy` in nats (NaN while unknown), `warning` of a mode
    collapse, `scaled`, `ratio` κ."""

    drift: rls.Regression
    variance: rls.Regression
    forecast: rls.Regression
    level: Array
    distance: Array
    galerkin: galerkin.GalerkinState
    entropy: Array
    warning: Array
    scaled: Array
    ratio: Array


def _init(config: PredictorConfig) -> ValueState:
    zero, no = jnp.zeros(()), jnp.asarray(False)
    return ValueState(
        drift=rls.init(DRIFT_PRECISION),
        variance=rls.init(VARIANCE_PRECISION),
        forecast=rls.init(FORECAST_PRECISION),
        level=zero,
        distance=zero,
        galerkin=galerkin.init(config.markov),
        entropy=jnp.asarray(jnp.nan),
        warning=no,
        scaled=no,
        ratio=jnp.ones(()),
    )


def _powers(level: Array, degree: int) -> Array:
    return jnp.stack([level**power for power in range(degree + 1)])


def _distances(distance: Array) -> Array:
    return jnp.stack([jnp.ones(()), distance])


def _learned(config: PredictorConfig, state: ValueState, target: Array) -> ValueState:
    memory = config.markov.markov_memory
    cubic = _powers(state.level, 3)
    error = target - rls.predict(state.drift, cubic)
    known = state.drift.variance > 0.0
    limit = jnp.where(known, SQUARE_LIMIT * state.drift.variance, jnp.inf)
    square = jnp.minimum(jnp.square(error), limit)
    return state._replace(
        drift=rls.learn(state.drift, cubic, target, memory, DRIFT_PRECISION),
        variance=rls.learn(
            state.variance, _powers(state.level, 2), square, memory, VARIANCE_PRECISION
        ),
        forecast=rls.learn(
            state.forecast, _distances(state.distance), target, memory, FORECAST_PRECISION
        ),
    )


def _step(config: PredictorConfig, state: ValueState, tick: KernelTick) -> tuple[ValueState, Array]:
    state = choose(tick.learn, _learned(config, state, tick.target), state)
    fresh = _init(config)
    anew = state._replace(drift=fresh.drift, variance=fresh.variance, forecast=fresh.forecast)
    state = choose(tick.change.restart, anew, state)
    level = jnp.clip(tick.levels[0], -INPUT_LIMIT, INPUT_LIMIT)
    per_level = state.drift.coefficients / tick.ratio
    noise = state.variance.coefficients / jnp.square(tick.ratio)
    coefficients, embeddable = embed(per_level, log_variance(noise))
    after, said = galerkin.follow(
        config.markov,
        state.galerkin,
        coefficients,
        level,
        learn=tick.learn & (tick.accepted > WARM_UP_TICKS),
        embeddable=embeddable,
        volatility=tick.volatility,
        regime=tick.regime,
    )
    usable = embeddable & jnp.isfinite(said.certainty_equivalent)
    distance = jnp.where(usable, tick.ratio * (said.certainty_equivalent - level), 0.0)
    increment = rls.predict(state.forecast, _distances(distance))
    state = state._replace(
        level=level,
        distance=distance,
        galerkin=after,
        entropy=said.entropy,
        warning=said.collapse_warning,
        scaled=said.scaled,
        ratio=said.ratio,
    )
    return state, jnp.where(usable, where_it_has_been(tick, increment), 0.0)


class ValueReading(NamedTuple):
    """What is published: `entropy` H in nats and its `ratio` κ, NaN while unknown; `warning` of a
    collapse; `scaled` at this tick; `width` and `depth` of the network in use."""

    entropy: Array
    ratio: Array
    warning: Array
    scaled: Array
    width: Array
    depth: Array


def reading(state: ValueState) -> ValueReading:
    """The last reading, with the shape of the network."""
    shapes = jnp.asarray(np.array(SHAPES, np.int32))[state.galerkin.member]
    return ValueReading(
        entropy=state.entropy,
        ratio=jnp.where(jnp.isnan(state.entropy), jnp.nan, state.ratio),
        warning=state.warning,
        scaled=state.scaled,
        width=shapes[0],
        depth=shapes[1],
    )


def value_function_member(name: str) -> Member:
    """The certainty equivalent of the backward equation one tick ahead."""
    return Member(name, _init, _step)
