"""Entropic optimal transport between two weightings of the kernels.

Four parts with four names: the *geometry* is the cost between kernels, the *problem* two
points of the simplex, the *solver* warm-started Sinkhorn scaling, the *result* its plan's
free energy with the marginal error that is left.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from predictor.types import Array, Scalar

WEIGHT_FLOOR = 1e-12
MARGINAL_TOLERANCE = 1e-6

EXPONENT_LIMIT = 600.0
"""exp(−600) is still a normal float64; a larger cost-to-regularisation ratio is cut there."""


class TransportResult(NamedTuple):
    """`scaling` `[k]` is the row scaling to start the next solve from."""

    scaling: Array
    free_energy: Array
    marginal_error: Array
    iterations: Array
    converged: Array


def kernel_cost(forecasts: Array, sigma: Array, robust: Array, huber_delta: Scalar) -> Array:
    """Cost `[k, k]` of moving weight between kernels: squared standardised distance of their
    forecasts, or its Huber form where `robust`."""
    distance = jnp.abs(forecasts[:, None] - forecasts[None, :]) / jnp.where(sigma > 0, sigma, 1.0)
    distance = jnp.minimum(distance, 1e3)
    squared = jnp.square(distance)
    huber = jnp.where(
        distance <= huber_delta, squared, huber_delta * (2.0 * distance - huber_delta)
    )
    return jnp.where(robust, huber, squared)


def sinkhorn(
    cost: Array, source: Array, target: Array, epsilon: Array, scaling: Array, iterations: int
) -> TransportResult:
    """Scale exp(−cost / ε) to the marginals `source` and `target`, both `[k]`.

    The scaling form is used rather than the log-domain one because k is four and the exponent
    is bounded: it costs k² exponentials per solve instead of per iteration. Free energy is
    ⟨P, C⟩ + ε Σ P (ln P − 1).

    **Source:** Peyré and Cuturi (2019), *Computational optimal transport*, chapter 4.
    """
    a = jnp.maximum(source, WEIGHT_FLOOR)
    b = jnp.maximum(target, WEIGHT_FLOOR)
    a, b = a / jnp.sum(a), b / jnp.sum(b)
    gibbs = jnp.exp(-jnp.minimum(cost / epsilon, EXPONENT_LIMIT))
    u = scaling
    needed = jnp.zeros((), jnp.int32)
    for _ in range(iterations):
        v = b / jnp.sum(gibbs * u[:, None], axis=0)
        image = jnp.sum(gibbs * v[None, :], axis=1)
        error = jnp.max(jnp.abs(u * image - a))
        needed = needed + (error > MARGINAL_TOLERANCE)
        u = a / image
    v = b / jnp.sum(gibbs * u[:, None], axis=0)
    plan = u[:, None] * gibbs * v[None, :]
    error = jnp.max(jnp.abs(jnp.sum(plan, axis=1) - a))
    entropy = jnp.sum(jnp.where(plan > 0, plan * (jnp.log(jnp.maximum(plan, 1e-300)) - 1.0), 0.0))
    usable = jnp.all(jnp.isfinite(u)) & jnp.all(u > 0)
    return TransportResult(
        scaling=jnp.where(usable, u, jnp.ones_like(u)),
        free_energy=jnp.sum(plan * cost) + epsilon * entropy,
        marginal_error=error,
        iterations=needed,
        converged=error <= MARGINAL_TOLERANCE,
    )
