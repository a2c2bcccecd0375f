r"""The scalar diffusion behind the backward equation: seven coefficients and their range.

    dX = b(X) dt + σ(X) dW,   b(x) = b₀ + b₁u + b₂u² + b₃u³,   ln σ²(x) = s₀ + s₁u + s₂u²

in the units of the standardised series (z) and of one tick; u is x, saturated smoothly beyond
`DOMAIN`, so that drift and diffusion are bounded and the equation is well posed on the whole
line. Coefficients are arrays `[7]` in the order of the formula.

A network can only be trained on a bounded range. It is a box in coordinates in which a
standardised stationary series sits near the middle (`LOWER`, `UPPER`):

    b(x) = −ρu + q (β₀ + β₂(u² − 1) + β₃(u³ − 3u)),   q = ρ / (1 + ρ)²
    σ²(x) = 2ρ/(1 − e^{−2ρ}) · exp(γ₀ + γ₁u + γ₂(u² − 1))

ρ is the rate at which a Gaussian state of variance one relaxes (the Hermite polynomials leave
that slope alone, so a bistable drift has a positive one too), and exp(γ₀) the variance of one
step at |u| = 1. Faster processes are nearer to linear: their map over one tick shows nothing
of the curvature.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from predictor.types import Array

COEFFICIENTS = 7

DOMAIN = 4.0
"""States up to this distance from the mean are in the domain of the network, in z-units."""

MARGIN = 0.5
"""How far the saturated state runs on beyond the domain."""

LOWER = np.array([np.log(0.005), -1.0, -0.5, -0.9, np.log(0.001), -0.3, -0.08])
UPPER = np.array([np.log(3.0), 1.0, 0.5, 0.1, np.log(1.2), 0.3, 0.08])
"""Training range of (ln ρ, β₀, β₂, β₃, γ₀, γ₁, γ₂)."""

SLOWEST, FASTEST = float(np.exp(LOWER[0])), float(np.exp(UPPER[0]))


def saturate(position: Array) -> Array:
    """The identity on the domain, twice differentiable, at most `DOMAIN + MARGIN` beyond."""
    beyond = jnp.maximum(jnp.abs(position) - DOMAIN, 0.0)
    inside = jnp.clip(position, -DOMAIN, DOMAIN)
    return inside + jnp.sign(position) * MARGIN * jnp.tanh(beyond / MARGIN)


def drift(coefficients: Array, position: Array) -> Array:
    """b(x) of coefficients `[7]`, in z-units per tick; any shape of `position`."""
    u = saturate(position)
    b0, b1, b2, b3 = (coefficients[k] for k in range(4))
    return b0 + u * (b1 + u * (b2 + u * b3))


def diffusion(coefficients: Array, position: Array) -> Array:
    """σ²(x) of coefficients `[7]`, in z-units squared per tick; any shape of `position`."""
    u = saturate(position)
    return jnp.exp(coefficients[4] + u * (coefficients[5] + u * coefficients[6]))


def relaxation(coefficients: Array) -> Array:
    """ρ, minus the mean slope of the drift under a standard normal state, inside its range."""
    return jnp.clip(-(coefficients[1] + 3.0 * coefficients[3]), SLOWEST, FASTEST)


def _curvature_unit(rate: Array) -> Array:
    return rate / jnp.square(1.0 + rate)


def _log_variance_rate(rate: Array) -> Array:
    """ln of the diffusion over the variance of one step, for a linear drift."""
    return jnp.log(2.0 * rate / -jnp.expm1(-2.0 * rate))


def normalise(coefficients: Array) -> Array:
    """Coordinates `[7]` in which the training range is [−1, 1] for each of them."""
    b0, _, b2, b3, s0, s1, s2 = (coefficients[k] for k in range(COEFFICIENTS))
    rate = relaxation(coefficients)
    unit = _curvature_unit(rate)
    natural = jnp.stack(
        [
            jnp.log(rate),
            (b0 + b2) / unit,
            b2 / unit,
            b3 / unit,
            s0 + s2 - _log_variance_rate(rate),
            s1,
            s2,
        ]
    )
    lower, upper = LOWER.astype(natural.dtype), UPPER.astype(natural.dtype)
    return (2.0 * natural - (lower + upper)) / (upper - lower)


def denormalise(coordinates: Array) -> Array:
    """Coefficients `[7]` at coordinates `[7]`; inverse of `normalise`."""
    lower, upper = LOWER.astype(coordinates.dtype), UPPER.astype(coordinates.dtype)
    natural = lower + (upper - lower) * (coordinates + 1.0) / 2.0
    rate = jnp.exp(natural[0])
    unit = _curvature_unit(rate)
    beta0, beta2, beta3 = (unit * natural[k] for k in (1, 2, 3))
    gamma0, gamma1, gamma2 = natural[4], natural[5], natural[6]
    return jnp.stack(
        [
            beta0 - beta2,
            -rate - 3.0 * beta3,
            beta2,
            beta3,
            _log_variance_rate(rate) + gamma0 - gamma2,
            gamma1,
            gamma2,
        ]
    )


def into_range(coefficients: Array) -> Array:
    """The coefficients with every coordinate clipped to the training range; finite for every
    finite input."""
    return denormalise(jnp.clip(normalise(coefficients), -1.0, 1.0))
