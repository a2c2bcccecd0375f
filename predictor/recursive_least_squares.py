"""Exponentially forgetting recursive least squares, one regression per lane.

The inverse of the information is kept as a square root S, with S Sᵀ the inverse, in 32 bits,
in which its products and its update are computed too: that is part of the definition. Its
condition is the square root of that of the inverse, so that nearly dependent features leave
enough digits, and S Sᵀ is never indefinite, whatever is rounded.

A tick far from its forecast, in standard deviations of the regression's own errors, weighs
less: beyond `ERROR_LIMIT` its pull on the coefficients is that of an error at the limit
(Huber's loss, by one reweighted step).

**Source:** Potter's update, in Bierman (1977), *Factorization methods for discrete sequential
estimation*, chapter 2; Haykin, *Adaptive Filter Theory*, chapter 10; Huber (1981), *Robust
statistics*. Rank-one updates only: the compiled step holds no matrix factorisation.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from predictor.selection import only_where
from predictor.types import Array, Scalar

ERROR_LIMIT = 6.0
ERROR_MEMORY = 0.005
"""EWMA rate of the squared error behind the limit, per tick."""

FIRST_LIMITED = 10.0
"""Errors are limited after so many ticks: by fewer, all that follow could look far too large."""


class Regression(NamedTuple):
    """State: `coefficients` `[d]`; `root` `[d, d]` (float32) of the inverse information;
    `variance` of the errors; ticks `learned`."""

    coefficients: Array
    root: Array
    variance: Array
    learned: Array


def init(prior_precision: np.ndarray) -> Regression:
    """Zero coefficients under independent Gaussian priors of the given precisions `[d]`."""
    zero = jnp.zeros(())
    return Regression(
        coefficients=jnp.zeros(prior_precision.size),
        root=jnp.asarray(np.diag(1.0 / np.sqrt(prior_precision)), jnp.float32),
        variance=zero,
        learned=zero,
    )


def predict(state: Regression, features: Array) -> Array:
    """The regression's value at `features` `[d]`."""
    return jnp.sum(state.coefficients * features)


def learn(
    state: Regression,
    features: Array,
    target: Array,
    memory: Scalar,
    prior_precision: np.ndarray,
    error_limit: float = ERROR_LIMIT,
) -> Regression:
    """One tick: `features` `[d]` met `target` under the forgetting factor `memory`.

    The trace of the inverse information never exceeds the prior's: directions without
    excitation grow by 1/λ at every tick, and would wind up until one noisy value moves a
    coefficient without limit.

    **Cost:** O(d²), four passes over the root.
    """
    error = target - predict(state, features)
    learned = state.learned + 1.0
    known = (state.variance > 0.0) & (state.learned >= FIRST_LIMITED)
    limit = error_limit * jnp.sqrt(state.variance)
    size = jnp.maximum(jnp.abs(error), 1e-300)
    weight = jnp.where(known, jnp.minimum(1.0, limit / size), 1.0)
    memory = 1.0 - (1.0 - memory) * weight
    noise = memory / jnp.maximum(weight, 1e-9)

    narrow = jnp.dot(features.astype(jnp.float32), state.root, precision=lax.Precision.HIGHEST)
    seen = narrow.astype(jnp.float64)
    gain = jnp.dot(state.root, narrow, precision=lax.Precision.HIGHEST).astype(jnp.float64)
    energy = jnp.sum(jnp.square(seen))
    total = noise + energy
    step = 1.0 / (total + jnp.sqrt(noise * total))
    length = jnp.sum(jnp.square(gain))
    # Followed from tick to tick instead, its error would grow by 1/λ each time.
    flat = jnp.ravel(state.root)
    trace = jnp.vdot(flat, flat, precision=lax.Precision.HIGHEST).astype(jnp.float64)
    trace = (trace - 2.0 * step * length + jnp.square(step) * length * energy) / memory
    cap = float(np.sum(1.0 / prior_precision))
    shrinkage = jnp.minimum(1.0, cap / jnp.maximum(trace, 1e-300))
    factor = jnp.sqrt(shrinkage / memory).astype(jnp.float32)
    updated = (state.root - (step * gain).astype(jnp.float32)[:, None] * narrow[None, :]) * factor

    squared = jnp.square(error)
    squared = jnp.where(known, jnp.minimum(squared, jnp.square(limit)), squared)
    rate = jnp.maximum(ERROR_MEMORY, 1.0 / learned)
    return Regression(
        coefficients=state.coefficients + gain * (error / total),
        root=updated,
        variance=state.variance + rate * (squared - state.variance),
        learned=learned,
    )


def transport(
    state: Regression, stretch: Array, shift: Array, gain: Array, levels: int = 1
) -> Regression:
    """The same regression in other units of features and target.

    Feature 0 is the constant, the next `levels` become `stretch · x + shift`, the others
    `gain · x`, and the target `gain · y`: forecasts are unchanged but for the unit. The prior
    moves along, so the information of every tick is kept.
    """
    changed = (stretch != 1.0) | (shift != 0.0) | (gain != 1.0)
    moved = functools.partial(_transported, levels=levels)
    return only_where(changed, moved, state, stretch, shift, gain)


def _transported(
    state: Regression, stretch: Array, shift: Array, gain: Array, levels: int
) -> Regression:
    size = state.coefficients.shape[0]
    # With x' = A x coefficients and root move by A⁻ᵀ, whose only off-diagonal row is the first.
    scale = jnp.concatenate(
        [jnp.ones(1), jnp.full(levels, 1.0 / stretch), jnp.full(size - 1 - levels, 1.0 / gain)]
    )
    first = jnp.arange(size) == 0
    rows = slice(1, 1 + levels)
    ratio = shift / stretch
    moved = state.coefficients - first * (ratio * jnp.sum(state.coefficients[rows]))
    root = state.root.astype(jnp.float64)
    mixed = ratio * jnp.sum(root[rows], axis=0)
    root = (root - first[:, None] * mixed[None, :]) * scale[:, None]
    return Regression(
        coefficients=gain * scale * moved,
        root=root.astype(jnp.float32),
        variance=jnp.square(gain) * state.variance,
        learned=state.learned,
    )
