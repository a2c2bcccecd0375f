r"""α-stable random numbers by Chambers, Mallows and Stuck.

S(α, β) in the parametrisation of the classical characteristic function

$$ \log \mathrm E e^{itX} = -|t|^\alpha (1 - i \beta \operatorname{sign}(t) \tan \tfrac{\pi\alpha}2)
   \quad (\alpha \ne 1), \qquad
   -|t| (1 + i \beta \tfrac2\pi \operatorname{sign}(t) \log |t|) \quad (\alpha = 1), $$

so that α = 2 is a Gaussian of variance 2 and β has no effect there.

**Source:** Chambers, Mallows, Stuck (1976), *A method for simulating stable random variables*,
Journal of the American Statistical Association 71, 340; the skew formula with the correction of
Weron (1996), Statistics and Probability Letters 28, 165.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from predictor.types import Array, Scalar

SMALLEST_EXPONENTIAL = 2.0**-53
"""Resolution of the uniform behind the exponential; zero would be an infinite jump."""


def standard_stable(key: Array, alpha: Scalar, beta: Scalar, shape: tuple[int, ...] = ()) -> Array:
    """Draws of S(α, β) with unit scale and zero location, float64 where 64 bits are enabled.

    **Arguments:** `alpha` in (0, 2], `beta` in [−1, 1], both may be traced.

    **Returns:** finite numbers for α ≥ 0.5; below, single draws can leave the range of floats.
    """
    alpha, beta = jnp.asarray(alpha, float), jnp.asarray(beta, float)
    angle_key, wait_key = jax.random.split(key)
    edge = 0.5 * jnp.pi
    angle = jax.random.uniform(angle_key, shape, float, -edge, edge)
    wait = jnp.maximum(jax.random.exponential(wait_key, shape, float), SMALLEST_EXPONENTIAL)
    cosine = jnp.maximum(jnp.cos(angle), jnp.finfo(float).tiny)
    cauchy = alpha == 1.0
    index = jnp.where(cauchy, 1.5, alpha)
    skew = beta * jnp.tan(edge * index)
    shift = jnp.arctan(skew) / index
    turned = index * (angle + shift)
    scale = (1.0 + jnp.square(skew)) ** (0.5 / index)
    # Rounding can put the argument of this cosine a hair outside of (−π/2, π/2).
    ahead = jnp.maximum(jnp.cos(angle - turned), jnp.finfo(float).tiny)
    general = scale * jnp.sin(turned) * cosine ** (-1.0 / index)
    general = general * (ahead / wait) ** ((1.0 - index) / index)
    slant = edge + beta * angle
    logarithm = jnp.log(edge * wait * cosine / jnp.maximum(slant, jnp.finfo(float).tiny))
    special = (slant * jnp.tan(angle) - beta * logarithm) / edge
    return jnp.where(cauchy, special, general)


def stable_increments(
    key: Array, alpha: Scalar, beta: Scalar, scale: Scalar, step: Scalar, shape: tuple[int, ...]
) -> Array:
    """Increments over `step` of stable Lévy motion whose increment over 1 has scale `scale`.

    The characteristic exponent over h is h |scale t|^α (1 − …): self-similarity makes the width
    w = scale · h^{1/α}, and for α = 1 with β ≠ 0 the location β (2/π) w log w as well.
    """
    alpha, beta = jnp.asarray(alpha, float), jnp.asarray(beta, float)
    width = jnp.asarray(scale, float) * jnp.asarray(step, float) ** (1.0 / alpha)
    draws = width * standard_stable(key, alpha, beta, shape)
    drift = jnp.where(alpha == 1.0, beta * (2.0 / jnp.pi) * width * jnp.log(width), 0.0)
    return draws + drift
