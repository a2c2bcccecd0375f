r"""From a regression over one tick to the diffusion that moves like it.

The Kramers–Moyal regression E[z' − z | z = x] = m(x) over one tick is not the drift of a
diffusion: a slope of −0.5 per tick comes from e^{−θ} = 0.5, not from θ = 0.5. Exact for the
Ornstein–Uhlenbeck process, and for others up to their curvature within a tick:

    b = m · θ / (1 − φ),                φ = 1 + m'(0),  θ = −ln φ,
    σ² = s² · 2ρ / (1 − e^{−2ρ}),       ρ = −E[b'(Z)],  Z standard normal:

the drift is continued from its slope at the mean, and the diffusion is such that the
embedded process, statistically linearised, has the conditional variance s² after one tick.

**Source:** Friedrich et al. (2011), *Approaching complexity by stochastic methods*, Physics
Reports 506; Shoji and Ozaki (1998), *Estimation for nonlinear stochastic differential
equations by a local linearization method*, for the continuation by the local slope.
"""

from __future__ import annotations

import math

import jax.numpy as jnp

from predictor.kernels.markov.coefficients import FASTEST, into_range, relaxation
from predictor.types import Array

SMALLEST_VARIANCE = 1e-12
LARGEST_SLOPE = 2.0
"""φ beyond this is no faster: a series that doubles every tick is not in any range."""

VARIANCE_NODE = 1.5
"""The quadratic of ln s² runs through its values at the mean and at this distance from it."""

VARIANCE_FLOOR = 0.05
"""A fitted conditional variance counts as at least this share of that at the mean."""


def log_variance(polynomial: Array) -> Array:
    """ln s²(x) as a quadratic `[3]` from s²(x) as a quadratic `[3]` fitted to squared residuals,
    which may be negative somewhere."""
    center = jnp.maximum(polynomial[0], SMALLEST_VARIANCE)
    even = polynomial[0] + VARIANCE_NODE**2 * polynomial[2]
    odd = VARIANCE_NODE * polynomial[1]
    above = jnp.log(jnp.maximum(even + odd, VARIANCE_FLOOR * center))
    below = jnp.log(jnp.maximum(even - odd, VARIANCE_FLOOR * center))
    middle = jnp.log(center)
    return jnp.stack(
        [
            middle,
            (above - below) / (2.0 * VARIANCE_NODE),
            (above + below - 2.0 * middle) / (2.0 * VARIANCE_NODE**2),
        ]
    )


def embed(increment: Array, log_variance: Array) -> tuple[Array, Array]:
    """Coefficients `[7]` of the embedded diffusion, and whether there is one.

    **Arguments:** `increment` `[4]`, coefficients of 1, x, x², x³ in E[z' − z | z = x];
    `log_variance` `[3]`, those of 1, x, x² in ln Var[z' | z = x]; all finite, in z-units.

    **Returns:** coefficients in the training range always; and False where the map over one
    tick falls, at the mean or on average: no scalar diffusion oscillates.
    """
    slope = 1.0 + increment[1]
    mean_slope = slope + 3.0 * increment[3]
    bounded = jnp.clip(slope, math.exp(-FASTEST), LARGEST_SLOPE)
    step = bounded - 1.0
    near = jnp.abs(step) < 1e-6
    rate_ratio = jnp.where(near, 1.0, jnp.log1p(step) / jnp.where(near, 1.0, step))
    drift = rate_ratio * increment
    rate = relaxation(drift)
    variance_ratio = jnp.log(2.0 * rate / -jnp.expm1(-2.0 * rate))
    diffusion = jnp.stack([log_variance[0] + variance_ratio, log_variance[1], log_variance[2]])
    return into_range(jnp.concatenate([drift, diffusion])), (slope > 0.0) & (mean_slope > 0.0)
