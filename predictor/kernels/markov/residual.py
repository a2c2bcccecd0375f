"""How far a function is from solving the backward equation V_t + b V_x + ½ σ² V_xx = 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from predictor.kernels.markov.coefficients import diffusion, drift
from predictor.types import Array

Field = Callable[[Array, Array], Array]
"""A scalar function of time and position."""


class Derivatives(NamedTuple):
    """A field at one point with its derivatives."""

    value: Array
    time: Array
    slope: Array
    curvature: Array


def differentiate(field: Field, time: Array, position: Array) -> Derivatives:
    """Exact derivatives in forward mode: two nested directions in x, one in t."""
    one_x, one_t = jnp.ones_like(position), jnp.ones_like(time)

    def along(x: Array) -> tuple[Array, Array]:
        return jax.jvp(lambda y: field(time, y), (x,), (one_x,))

    (value, slope), (_, curvature) = jax.jvp(along, (position,), (one_x,))
    _, velocity = jax.jvp(lambda s: field(s, position), (time,), (one_t,))
    return Derivatives(value, velocity, slope, curvature)


def value_residual(value: Field, time: Array, position: Array, coefficients: Array) -> Array:
    """V_t + b V_x + ½ σ² V_xx at one point, per tick."""
    at = differentiate(value, time, position)
    spread = 0.5 * diffusion(coefficients, position)
    return at.time + drift(coefficients, position) * at.slope + spread * at.curvature


def certainty_residual(
    certainty: Field, time: Array, position: Array, coefficients: Array
) -> tuple[Array, Array]:
    """The residual of V = tanh A from A, and sech² A, the factor from A's residual to V's.

    In the variables of A the equation is A_t + b A_x + ½ σ² (A_xx − 2 tanh A · A_x²) = 0; it
    keeps its digits where V is within rounding of ±1.
    """
    at = differentiate(certainty, time, position)
    value = jnp.tanh(at.value)
    spread = 0.5 * diffusion(coefficients, position)
    bend = at.curvature - 2.0 * value * at.slope * at.slope
    own = at.time + drift(coefficients, position) * at.slope + spread * bend
    factor = 1.0 - value * value
    return factor * own, factor
