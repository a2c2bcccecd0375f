"""Members that are one regression on features of the past.

When the coordinates change while the window still holds all ticks, a regression is learned anew
on them. Later on linear ones are carried over exactly; the others begin again. The forecasts of
these stay near what the window has seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from predictor import recursive_least_squares as rls
from predictor.anchors import EARLY_TICKS
from predictor.config import PredictorConfig
from predictor.kernels.bank import Member
from predictor.kernels.base import KernelTick, where_it_has_been
from predictor.selection import choose, only_where
from predictor.types import Array, Scalar

LAST_EARLY = EARLY_TICKS[-1]
"""Most ticks on which a regression is learned anew."""

Features = Callable[[KernelTick], Array]
Memory = Callable[[PredictorConfig], Scalar]


class RegressionState(NamedTuple):
    """Regression and the features `[d]` behind the forecast that is still to be scored."""

    regression: rls.Regression
    features: Array


def _init(precision: np.ndarray) -> RegressionState:
    return RegressionState(rls.init(precision), jnp.zeros(precision.size))


def _learned(
    state: RegressionState, tick: KernelTick, memory: Scalar, precision: np.ndarray
) -> rls.Regression:
    learned = rls.learn(state.regression, state.features, tick.target, memory, precision)
    return choose(tick.learn, learned, state.regression)


def _past(tick: KernelTick, age: Array) -> KernelTick:
    """The window as it was `age` ticks ago, up to `LAST_EARLY`, in the present coordinates."""

    def earlier(values: Array) -> Array:
        filled = jnp.concatenate([values, jnp.full(LAST_EARLY, values[-1])])
        return lax.dynamic_slice(filled, (age,), values.shape)

    return tick._replace(levels=earlier(tick.levels), increments=earlier(tick.increments))


def learned_again(
    regression: rls.Regression,
    features: Features,
    precision: np.ndarray,
    memory: Scalar,
    tick: KernelTick,
) -> rls.Regression:
    """`regression`, but where the window still holds all ticks, learned anew on them in the
    present coordinates: in the units of the first few increments the prior meant something else."""

    def again(
        known: rls.Regression,
        levels: Array,
        increments: Array,
        accepted: Array,
        forgetting: Array,
    ) -> rls.Regression:
        del known
        seen = tick._replace(levels=levels, increments=increments)

        def learn(number: Array, learned: rls.Regression) -> rls.Regression:
            age = accepted - 1 - number
            before = features(_past(seen, age))
            return rls.learn(learned, before, increments[age - 1], forgetting, precision)

        learned: rls.Regression = lax.fori_loop(0, accepted - 1, learn, rls.init(precision))
        return learned

    given = (tick.levels, tick.increments, tick.accepted, jnp.asarray(memory))
    return only_where(tick.change.early, again, regression, *given)


def linear_member(
    name: str, features: Features, precision: np.ndarray, memory: Memory, levels: int = 1
) -> Member:
    """Regression of the next increment on a constant, `levels` levels and increments, in that
    order; `precision` `[d]` is how many ticks of unit energy each prior at zero weighs."""

    def step(
        config: PredictorConfig, state: RegressionState, tick: KernelTick
    ) -> tuple[RegressionState, Array]:
        regression = _learned(state, tick, memory(config), precision)
        change = tick.change
        regression = rls.transport(regression, change.stretch, change.shift, change.gain, levels)
        regression = learned_again(regression, features, precision, memory(config), tick)
        now = features(tick)
        return RegressionState(regression, now), rls.predict(regression, now)

    return Member(name, lambda config: _init(precision), step)


def autoregression(name: str, levels: int, increments: int, memory: Memory) -> Member:
    """Regression of the next increment on a constant, the last `levels` levels, and the last
    `increments` increments."""

    def features(tick: KernelTick) -> Array:
        past = [tick.levels[:levels], tick.increments[:increments]]
        return jnp.concatenate([jnp.ones(1), *past])

    return linear_member(name, features, np.ones(1 + levels + increments), memory, levels)


def nonlinear_member(
    name: str, features: Features, precision: np.ndarray, memory: Memory
) -> Member:
    """Regression of the next increment on any features `[d]`."""

    def step(
        config: PredictorConfig, state: RegressionState, tick: KernelTick
    ) -> tuple[RegressionState, Array]:
        regression = _learned(state, tick, memory(config), precision)
        regression = choose(tick.change.restart, rls.init(precision), regression)
        regression = learned_again(regression, features, precision, memory(config), tick)
        now = features(tick)
        increment = rls.predict(regression, now)
        return RegressionState(regression, now), where_it_has_been(tick, increment)

    return Member(name, lambda config: _init(precision), step)
