"""Shift of the mean: a generalised likelihood ratio on prewhitened innovations.

The series about the mean since the last shift is prewhitened by an autoregression of order
two. For each k up to the window, the last k innovations are matched with the trace that a
shift k ticks ago leaves in them, against the mean of those before; the largest ratio is
tested.

**Source:** Willsky and Jones (1976), *A generalized likelihood ratio approach to the
detection and estimation of jumps in linear systems*; Romano et al. (2023), *Fast online
changepoint detection via functional pruning CUSUM statistics*.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from predictor import recursive_least_squares as rls
from predictor.config import PredictorConfig
from predictor.selection import choose
from predictor.types import Array

ORDER = 2
PRECISION = np.full(ORDER, 20.0)
CLIP = 3.5
MEMORY = 0.9995
VARIANCE_MEMORY = 0.01
MEAN_TICKS = 400.0
SMALLEST_LASTING = 0.05

SURPASSED = 0.3
"""Forecasts with less than this part of the innovations' variance know the series better."""

SETTLING_TICKS = 30
MINIMUM_BEFORE = 20.0

SMALLEST_VARIANCE = 1e-4
"""Floor of the innovation variance, in mean squared increments of the window: after a constant
stretch the bounded variance would need thousands of ticks to grow back from nothing."""


class ShiftState(NamedTuple):
    """`mean` (unit of y) and `length` since the last shift; the prewhitening regression;
    `variance` of its innovations; `innovations`, standardised and clipped, newest first;
    `total` and number (`since`) of them since the last shift."""

    seen: Array
    mean: Array
    length: Array
    regression: rls.Regression
    variance: Array
    innovations: Array
    total: Array
    since: Array


def init(config: PredictorConfig) -> ShiftState:
    """State before the first tick."""
    zero = jnp.zeros(())
    return ShiftState(
        seen=jnp.zeros((), jnp.int64),
        mean=zero,
        length=zero,
        regression=rls.init(PRECISION),
        variance=zero,
        innovations=jnp.zeros(config.monitoring.shift_window),
        total=zero,
        since=zero,
    )


class _Pattern(NamedTuple):
    """For each length of the run after a shift: innovations `matched` with what the shift
    leaves in them, the `total` and the `energy` of that."""

    matched: Array
    total: Array
    energy: Array


def _pattern(coefficients: Array, lengths: Array, innovations: Array, after_sum: Array) -> _Pattern:
    """A unit shift enters the innovations with 1, then 1 − φ₁, then 1 − φ₁ − φ₂ for ever."""
    lasting = jnp.clip(1.0 - coefficients[0] - coefficients[1], SMALLEST_LASTING, 2.0)
    second = 1.0 - coefficients[0]
    has_second = (lengths >= 2.0).astype(jnp.float64)
    older = jnp.concatenate([innovations[:1], innovations[:-1]])
    matched = lasting * after_sum + (1.0 - lasting) * innovations
    matched = matched + (second - lasting) * has_second * older
    total = lasting * lengths + (1.0 - lasting) + (second - lasting) * has_second
    later = jnp.maximum(lengths - 2.0, 0.0)
    energy = 1.0 + has_second * jnp.square(second) + later * jnp.square(lasting)
    return _Pattern(matched, total, energy)


def is_informed(state: ShiftState, forecast_variance: Array) -> Array:
    """Whether the innovations say what the forecasts do not: False where the error variance of
    the forecasts (unit of y squared) is a small part of that of the innovations."""
    return forecast_variance > SURPASSED * state.variance


def detect(config: PredictorConfig, state: ShiftState, window: Array) -> tuple[ShiftState, Array]:
    """Fold in the newest of `window` (values, newest first) and say whether the mean shifted."""
    size = config.monitoring.shift_window
    y = window[0]
    first = state.seen == 0
    mean = jnp.where(first, y, state.mean)
    floor = SMALLEST_VARIANCE * jnp.mean(jnp.square(window[1:] - window[:-1]))
    variance = jnp.maximum(jnp.maximum(state.variance, floor), 1e-300)
    unit = jnp.sqrt(variance)
    lags = jnp.clip((window[1 : 1 + ORDER] - mean) / unit, -1e3, 1e3)
    target = jnp.clip((y - mean) / unit, -1e3, 1e3)
    error = target - rls.predict(state.regression, lags)
    innovation = jnp.clip(error, -CLIP, CLIP)
    innovations = jnp.concatenate([innovation[None], state.innovations[:-1]])
    total = state.total + innovation
    count = state.since + 1.0
    lengths = jnp.arange(1, size + 1, dtype=jnp.float64)
    after_sum = jnp.cumsum(innovations)
    before = count - lengths
    known = jnp.maximum(before, 1.0)
    pattern = _pattern(state.regression.coefficients, lengths, innovations, after_sum)
    mean_before = (total - after_sum) / known
    excess = jnp.square(pattern.matched - mean_before * pattern.total)
    ratio = excess / (pattern.energy + jnp.square(pattern.total) / known)
    ratio = jnp.where(before >= MINIMUM_BEFORE, ratio, 0.0)
    best = jnp.argmax(ratio)
    settled = state.seen >= SETTLING_TICKS
    shifted = settled & (ratio[best] > config.monitoring.shift_threshold)

    newer = lengths <= lengths[best]
    new_mean = jnp.sum(jnp.where(newer, window[:size], 0.0)) / lengths[best]
    length = jnp.where(shifted, lengths[best], jnp.minimum(state.length + 1.0, MEAN_TICKS))
    followed = mean + (y - mean) / jnp.maximum(length, 1.0)
    bounded_target = rls.predict(state.regression, lags) + innovation
    learned = rls.learn(state.regression, lags, bounded_target, MEMORY, PRECISION)
    started = state.seen >= ORDER + 1
    rate = jnp.maximum(VARIANCE_MEMORY, 1.0 / (state.seen + 1.0))
    raw = jnp.square(y - mean - rls.predict(state.regression, lags) * unit)
    bounded_square = jnp.where(settled, jnp.minimum(raw, 16.0 * variance), raw)
    scaled = state.variance + rate * (bounded_square - state.variance)
    regression = choose(started, learned, state.regression)
    state = ShiftState(
        seen=state.seen + 1,
        mean=jnp.where(shifted, new_mean, followed),
        length=length,
        regression=regression,
        variance=jnp.where(first, 0.0, scaled),
        innovations=innovations,
        total=jnp.where(shifted, after_sum[best], total),
        since=jnp.where(shifted, lengths[best], count),
    )
    return state, shifted
