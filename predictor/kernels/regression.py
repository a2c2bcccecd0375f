"""A kernel that is one regression on features of the past; what hilbert, markov and
signature share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from predictor import recursive_least_squares as rls
from predictor.config import WARM_UP_TICKS, PredictorConfig
from predictor.kernels.base import Kernel, KernelForecast, KernelTick
from predictor.selection import choose
from predictor.types import Array, Scalar

TARGET_LIMIT = 8.0
"""Increments beyond this many typical ones teach no more than this: one jump must not
overwrite what a thousand ticks have taught."""


class RegressionState(NamedTuple):
    """Regression and the features `[d]` behind the forecast that is still to be scored."""

    regression: rls.Regression
    features: Array


def soft_clip(values: Array, limit: float) -> Array:
    """Odd, smooth, bounded by `limit`, and the identity near zero."""
    return limit * jnp.tanh(values / limit)


def regression_kernel(
    name: str,
    features: Callable[[KernelTick], Array],
    prior_precision: Callable[[PredictorConfig], Array],
    memory: Callable[[PredictorConfig], Scalar],
) -> Kernel:
    """A kernel that regresses the next increment on `features(tick)` `[d]`.

    `prior_precision(config)` `[d]` is how many ticks of unit energy each coefficient's prior
    at zero weighs; `memory(config)` is the forgetting factor.
    """

    def init(config: PredictorConfig) -> RegressionState:
        regression = rls.init(prior_precision(config))
        return RegressionState(regression, jnp.zeros_like(regression.coefficients))

    def step(
        config: PredictorConfig, state: RegressionState, tick: KernelTick
    ) -> tuple[RegressionState, KernelForecast]:
        target = jnp.clip(tick.target, -TARGET_LIMIT, TARGET_LIMIT)
        learned = rls.learn(state.regression, state.features, target, memory(config))
        regression = choose(tick.learn, learned, state.regression)
        now = features(tick)
        forecast = KernelForecast(rls.predict(regression, now), tick.accepted >= WARM_UP_TICKS)
        return RegressionState(regression, now), forecast

    return Kernel(name, init, step)
