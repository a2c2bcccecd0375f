r"""What the networks need not learn: the terminal condition, the bounds and the linear case.

The value is V = tanh A with A the *certainty equivalent* g⁻¹(V) for g = tanh, in z-units: the
sure outcome that is worth as much as the uncertain one. So |V| < 1, as the comparison principle
demands of a solution that ends in tanh. The network N is one part of

    A(t, x; c) = A₀ + T(τ) N(features),   τ = 1 − t,   T(τ) = (1 − e^{−ρτ}) / ρ,

where T(0) = 0 and A₀(0) = x make the terminal condition exact. With the linear drift −ρx alone
the state at the end is normal with mean m = x e^{−ρτ} and variance w = σ²(x)(1 − e^{−2ρτ})/2ρ;
A₀ interpolates between the certainty equivalents of small variances, m − w tanh m, and of small
means, m / √(1 + πw/2).

**Source:** Sirignano and Spiliopoulos (2018), *DGM: a deep learning algorithm for solving
partial differential equations*, Journal of Computational Physics 375, for the method; the
hard constraint follows Lagaris, Likas and Fotiadis (1998), IEEE Transactions on Neural
Networks 9.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from predictor.kernels.markov.coefficients import diffusion, drift, normalise, relaxation
from predictor.types import Array

FEATURES = 15

_SMALL_MEAN = 1.54
"""Makes A₀ / m at m → 0 that of a normal state at w = 1."""


class Ansatz(NamedTuple):
    """A = `base` + `scale` × N(`features` `[15]`)."""

    base: Array
    scale: Array
    features: Array

    def certainty_equivalent(self, correction: Array) -> Array:
        """A for the network's output N."""
        return self.base + self.scale * correction


def ansatz(time: Array, position: Array, coefficients: Array) -> Ansatz:
    """The known part at one point.

    **Arguments:** `time` in [0, 1]; `position` in z-units; `coefficients` `[7]` in the
    training range.
    """
    rate = relaxation(coefficients)
    remaining = 1.0 - time
    memory = jnp.exp(-rate * remaining)
    scale = -jnp.expm1(-rate * remaining) / rate
    mean = position * memory
    local = diffusion(coefficients, position)
    variance = local * -jnp.expm1(-2.0 * rate * remaining) / (2.0 * rate)
    damping = 1.0 + _SMALL_MEAN * variance / (1.0 + 0.5 * mean * mean)
    base = mean - jnp.tanh(mean) * variance / damping
    nonlinear = drift(coefficients, position) + rate * position
    state = jnp.stack(
        [
            2.0 * scale - 1.0,
            0.5 * position,
            jnp.tanh(position),
            jnp.tanh(mean),
            0.5 * mean,
            0.5 * jnp.log(local),
            0.5 * jnp.arcsinh(nonlinear),
            2.0 / (1.0 + variance) - 1.0,
        ]
    )
    return Ansatz(base, scale, jnp.concatenate([state, normalise(coefficients)]))
