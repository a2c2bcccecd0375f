"""What a kernel is: a state, `init` and `step`.

A kernel forecasts the next increment of the series in units of the typical increment. It
learns from the data alone, holds its own coefficients and the features behind its last
forecast, and contains persistence (an increment of zero) as the special case it starts from.

To add or replace a kernel, write one module with a `Kernel` value and list it in
`predictor/kernels/__init__.py`; state, snapshots, step and records follow from that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from predictor.anchors import Change
from predictor.config import PredictorConfig
from predictor.types import Array


class KernelTick(NamedTuple):
    """What a kernel sees of one lane at one tick, in the coordinates of `predictor.anchors`.

    - `levels`: `[WINDOW]`, past values, newest first, as (y − centre) / spread.
    - `increments`: `[WINDOW - 1]`, past increments, newest first, in the unit of an increment.
    - `target`: what the previous forecast should have said, as an increment over the value at
      that tick, in the unit that was in force then.
    - `change`: how the coordinates changed since then.
    - `ratio`: spread over unit, which turns a difference of levels into increments.
    - `lowest`, `highest`: of the window, as increments over the present value.
    - `holder_exponent`: of the window, NaN while unknown.
    - `volatility`: recent over long-run standard deviation of the forecast errors.
    - `regime`: whether an alarm was raised at this tick.
    - `learn`: whether `target` may be learned from; False on the first ticks, on rejected
      and on frozen ones.
    - `accepted`: ticks accepted so far.
    - `position`: of the newest value in the series as the window sees it, rejected ticks included.
    """

    levels: Array
    increments: Array
    target: Array
    change: Change
    ratio: Array
    lowest: Array
    highest: Array
    holder_exponent: Array
    volatility: Array
    regime: Array
    learn: Array
    accepted: Array
    position: Array


def where_it_has_been(tick: KernelTick, increment: Array) -> Array:
    """`increment`, no more than one beyond the values of the window: a nonlinear function says
    nothing about where it has not been."""
    return jnp.clip(increment, tick.lowest - 1.0, tick.highest + 1.0)


class KernelForecast(NamedTuple):
    """Expected next increment in units of the typical increment, and whether to trust it;
    `variance` of the increment about it where the kernel has a law for that, else NaN."""

    increment: Array
    ready: Array
    variance: Array


class Kernel(NamedTuple):
    """The two verbs of a kernel, both for a single lane; the step batches them.

    - `init(config) -> state`
    - `step(config, state, tick) -> (state, KernelForecast)`: first learn from `tick.target`
      what the stored features should have said, then forecast. Where `tick.learn` is False
      coefficients do not move.
    """

    name: str
    init: Callable[[PredictorConfig], Any]
    step: Callable[[PredictorConfig, Any, KernelTick], tuple[Any, KernelForecast]]
