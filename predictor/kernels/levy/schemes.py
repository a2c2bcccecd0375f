r"""The mean of a scalar diffusion over one tick, and which scheme integrates it.

The drift is a cubic, b(x) = c₀ + c₁x + c₂x² + c₃x³, in standardised units. Mean m and variance
v of a Gaussian closure obey

$$ \dot m = \mathrm E\, b(X) = b(m) + \tfrac12 b''(m) v, \qquad
   \dot v = 2 v\, \mathrm E\, b'(X) + \sigma^2, $$

which is exact for a linear drift and good where the law within the tick stays near a Gaussian:
not from the top of a barrier, whence paths part. No path is ever sampled.

**Source:** Särkkä and Solin (2019), *Applied Stochastic Differential Equations*, chapter 9,
for the closure.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp

from predictor.kernels.levy.solver import DriftImplicit, exponential_weights
from predictor.types import Array, Scalar

SUB_STEPS = 8
"""Steps per tick. The pair is of second order and exact on linear drifts."""

STIFFNESS_UNIT = 1000.0
"""Stiffness of an explicit Euler step at the end of its monotone range, h|b′| = 1. The
thresholds come from a ratio of eigenvalues, which is 1 for a scalar; in this unit their
defaults, 100 and 1000, read h|b′| = .1 and 1."""

LOW, HIGH = 100.0, 1000.0
LOW_PER_SMOOTHNESS, HIGH_PER_SMOOTHNESS = 25.0, 250.0
EXPONENT_GUARD = 1e-3

LARGEST_MEAN = 50.0
"""Bound on the mean, in standardised units: a cubic that grows may leave in finite time."""

LARGEST_VARIANCE = LARGEST_MEAN**2


class Scheme(IntEnum):
    """Which member of the pair gave the step."""

    EXPLICIT = 0
    MIXED = 1
    IMPLICIT = 2


class Thresholds(NamedTuple):
    """Stiffness below `low` is integrated explicitly, from `high` on implicitly."""

    low: Array
    high: Array


class MeanStep(NamedTuple):
    """Where a tick leads, all scalars.

    `mean` and `variance` one tick ahead; `stiffness`, dimensionless, and the `limits` that it was
    held against; `implicitness` in [0, 1]: share of the implicit step; `scheme`, a `Scheme`;
    `newton_iterations` that were needed, over all sub-steps, and the largest `residual` left in
    standardised units, both zero where the scheme is explicit.
    """

    mean: Array
    variance: Array
    stiffness: Array
    limits: Thresholds
    implicitness: Array
    scheme: Array
    newton_iterations: Array
    residual: Array


def cubic(x: Array, coefficients: Array) -> Array:
    """b(x) for `coefficients` `[4]`, constant first."""
    c0, c1, c2, c3 = (coefficients[power] for power in range(4))
    return c0 + x * (c1 + x * (c2 + x * c3))


def smeared(coefficients: Array, variance: Array) -> Array:
    """Coefficients `[4]` of E b(m + √v Z), Z standard normal, as a cubic in m."""
    c0, c1, c2, c3 = (coefficients[power] for power in range(4))
    return jnp.stack([c0 + c2 * variance, c1 + 3.0 * c3 * variance, c2, c3])


def slope(x: Array, coefficients: Array) -> Array:
    """b′(x)."""
    return coefficients[1] + x * (2.0 * coefficients[2] + x * 3.0 * coefficients[3])


def thresholds(holder_exponent: Scalar, low: Scalar = LOW, high: Scalar = HIGH) -> Thresholds:
    """θ_L = max(low, 25/(1 − α)²) and θ_H = max(high, 250/(1 − α)²).

    A smooth path (α → 1) leaves more to the explicit scheme. NaN counts as α = 0.
    """
    exponent = jnp.clip(jnp.nan_to_num(holder_exponent), 0.0, 1.0 - EXPONENT_GUARD)
    smoothness = 1.0 / jnp.square(1.0 - exponent)
    return Thresholds(
        jnp.maximum(low, LOW_PER_SMOOTHNESS * smoothness),
        jnp.maximum(high, HIGH_PER_SMOOTHNESS * smoothness),
    )


def stiffness_of(drift_slope: Array, step: Scalar, volatility_change: Scalar = 0.0) -> Array:
    """max(h |b′|, |d ln σ/dt| h) in units of 1/`STIFFNESS_UNIT`.

    **Arguments:** `drift_slope`: b′ per tick; `step`: h in ticks; `volatility_change`:
    |Δ ln σ| per tick.
    """
    rate = jnp.maximum(jnp.abs(drift_slope), jnp.abs(jnp.asarray(volatility_change)))
    return STIFFNESS_UNIT * step * rate


def implicitness_of(stiffness: Array, limits: Thresholds) -> Array:
    """Share of the implicit step: 0 below `low`, 1 from `high` on, linear in between.

    Whatever the thresholds, at least 1 − 1/(h|b′|): with less, an explicit Euler step would
    overshoot the equilibrium. Non-decreasing in `stiffness`.
    """
    mix = jnp.clip((stiffness - limits.low) / (limits.high - limits.low), 0.0, 1.0)
    monotone = 1.0 - STIFFNESS_UNIT / jnp.maximum(stiffness, STIFFNESS_UNIT)
    return jnp.maximum(mix, monotone)


def scheme_of(implicitness: Array) -> Array:
    """The `Scheme` of a share, int32."""
    mixed = jnp.where(implicitness < 1.0, jnp.int32(Scheme.MIXED), jnp.int32(Scheme.IMPLICIT))
    return jnp.where(implicitness > 0.0, mixed, jnp.int32(Scheme.EXPLICIT))


def propagate_mean(
    coefficients: Array,
    start: Array,
    variance_rate: Array,
    holder_exponent: Array,
    volatility_change: Scalar = 0.0,
    low: Scalar = LOW,
    high: Scalar = HIGH,
    sub_steps: int = SUB_STEPS,
) -> MeanStep:
    """Mean and variance of X one tick ahead of X = `start`.

    Steps of `DriftImplicit` with the variance held at the middle of each. The step and its
    explicit companion, exponential Euler, are mixed by the stiffness at the start. Both are
    exact on a linear drift and of second order in 1/`sub_steps` otherwise.

    **Arguments:**

    - `coefficients`: `[4]` of the drift per tick, constant first, in standardised units; the
      mean of jumps, intensity × mean size, belongs into the constant.
    - `start`: the present value; any finite number.
    - `variance_rate`: σ² per tick; 0 gives the flow of the drift.
    - `holder_exponent`: moves the thresholds; NaN is legal.
    - `volatility_change`: |Δ ln σ| per tick.

    **Returns:** `MeanStep`; `mean` lies within ±50, always finite for finite arguments.

    **Cost:** about 0.7 µs a lane in a tile of 32 on one core, no linear solve.
    """
    step = 1.0 / sub_steps
    stiffness = stiffness_of(slope(start, coefficients), step, volatility_change)
    limits = thresholds(holder_exponent, low, high)
    share = implicitness_of(stiffness, limits)
    solver = DriftImplicit()
    # Constant beyond the bound, so that a cubic that explodes still gives numbers.
    term = diffrax.ODETerm(lambda t, y, args: cubic(jnp.clip(y, -LARGEST_MEAN, LARGEST_MEAN), args))
    fresh = solver.init(term, 0.0, step, start, coefficients)

    def sub_step(index: Array, carry: _Progress) -> _Progress:
        mean, variance, iterations, residual = carry
        middle = _spread(coefficients, mean, variance, variance_rate, 0.5 * step)
        begin = index * step
        moved, error, _, newton, _ = solver.step(
            term,
            begin,
            begin + step,
            mean,
            smeared(coefficients, middle),
            fresh,
            made_jump=False,
        )
        moved = jnp.clip(moved - (1.0 - share) * error, -LARGEST_MEAN, LARGEST_MEAN)
        return _Progress(
            mean=moved,
            variance=_spread(coefficients, 0.5 * (mean + moved), variance, variance_rate, step),
            iterations=iterations + newton.iterations,
            residual=jnp.maximum(residual, newton.residual),
        )

    # A loop rather than a chain of eight: the compiler would fuse, and recompute, all of it.
    start_ = _Progress(start, jnp.zeros_like(start), *fresh)
    mean, variance, iterations, residual = jax.lax.fori_loop(0, sub_steps, sub_step, start_)
    scheme = scheme_of(share)
    solved = scheme != Scheme.EXPLICIT
    return MeanStep(
        mean=mean,
        variance=variance,
        stiffness=stiffness,
        limits=limits,
        implicitness=share,
        scheme=scheme,
        newton_iterations=jnp.where(solved, iterations, 0),
        residual=jnp.where(solved, residual, 0.0),
    )


class _Progress(NamedTuple):
    mean: Array
    variance: Array
    iterations: Array
    residual: Array


def _spread(
    coefficients: Array, mean: Array, variance: Array, variance_rate: Array, step: float
) -> Array:
    """The variance `step` later, with the drift's slope held."""
    rate = 2.0 * slope(mean, smeared(coefficients, variance))
    growth, _ = exponential_weights(step * rate)
    spread = variance + step * growth * (rate * variance + variance_rate)
    return jnp.clip(spread, 0.0, LARGEST_VARIANCE)
