"""Members that are one regression on features of the past.

Linear ones are carried through a change of coordinates exactly. The others begin again, and
their forecasts stay near what the window has seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from predictor import recursive_least_squares as rls
from predictor.config import PredictorConfig
from predictor.kernels.bank import Member
from predictor.kernels.base import KernelTick, where_it_has_been
from predictor.selection import choose
from predictor.types import Array, Scalar

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
        now = features(tick)
        return RegressionState(regression, now), rls.predict(regression, now)

    return Member(name, lambda config: _init(precision), step)


def nonlinear_member(
    name: str, features: Features, precision: np.ndarray, memory: Memory
) -> Member:
    """Regression of the next increment on any features `[d]`."""

    def step(
        config: PredictorConfig, state: RegressionState, tick: KernelTick
    ) -> tuple[RegressionState, Array]:
        regression = _learned(state, tick, memory(config), precision)
        regression = choose(tick.change.restart, rls.init(precision), regression)
        now = features(tick)
        increment = rls.predict(regression, now)
        return RegressionState(regression, now), where_it_has_been(tick, increment)

    return Member(name, lambda config: _init(precision), step)
