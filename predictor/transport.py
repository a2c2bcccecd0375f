"""Entropic optimal transport between two weightings of the kernels.

Four parts with four names: the *geometry* is the cost between kernels, the *problem* two
points of the simplex, the *solver* Sinkhorn's iteration in the logarithmic domain, the *result*
its plan's free energy with the marginal error that is left. Inside the step a fixed number of
iterations starts from the potential of the last tick; `solve` runs one problem to rest.

**Source:** Peyré and Cuturi (2019), *Computational optimal transport*, chapter 4.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from predictor.types import Array, Scalar

WEIGHT_FLOOR = 1e-12
MARGINAL_TOLERANCE = 1e-6
DISTANCE_LIMIT = 1e3
"""Standard deviations beyond which two forecasts are no further apart."""

BLOCK = 20
"""Steps from one in the logarithmic domain to the next."""

SMALLEST = 1e-300
"""What the logarithm of an empty cell of a plan is taken of."""

DESCENT = 0.5
"""Factor of the regularisation from one stage of `solve` to the next, down to the asked one."""

MOST_ASCENTS = 200
"""Steps of one stage."""

Host = np.ndarray[Any, Any]


class TransportResult(NamedTuple):
    """`potential` `[k]`, of the rows and in the unit of the cost, is what the next solve starts
    from; `iterations` were needed until the marginals were met."""

    potential: Array
    free_energy: Array
    marginal_error: Array
    iterations: Array
    converged: Array


def kernel_cost(forecasts: Array, sigma: Array, robust: Array, huber_delta: Scalar) -> Array:
    """Cost `[k, k]` of moving weight between kernels: squared standardised distance of their
    forecasts, or its Huber form where `robust`."""
    distance = jnp.abs(forecasts[:, None] - forecasts[None, :]) / jnp.where(sigma > 0, sigma, 1.0)
    distance = jnp.minimum(distance, DISTANCE_LIMIT)
    squared = jnp.square(distance)
    huber = jnp.where(
        distance <= huber_delta, squared, huber_delta * (2.0 * distance - huber_delta)
    )
    return jnp.where(robust, huber, squared)


class _Problem(NamedTuple):
    """The cost over the regularisation `[k, k]` and the marginals `[k]`."""

    cost: Array
    source: Array
    target: Array


def _problem(cost: Array, source: Array, target: Array, epsilon: Scalar) -> _Problem:
    a, b = jnp.maximum(source, WEIGHT_FLOOR), jnp.maximum(target, WEIGHT_FLOOR)
    return _Problem(cost / epsilon, a / jnp.sum(a), b / jnp.sum(b))


def _log_sum(exponents: Array, axis: int) -> Array:
    """ln Σ exp along an axis of finite exponents."""
    most = jnp.max(exponents, axis=axis, keepdims=True)
    total = jnp.sum(jnp.exp(exponents - most), axis=axis)
    return jnp.squeeze(most, axis) + jnp.log(total)


def _columns(problem: _Problem, rows: Array) -> Array:
    """The potential of the columns that meets their marginals, over the regularisation."""
    return jnp.log(problem.target) - _log_sum(rows[:, None] - problem.cost, 0)


def _plan(problem: _Problem, rows: Array) -> Array:
    """The plan of a potential of the rows, over the regularisation; its columns meet the target."""
    return jnp.exp(rows[:, None] + _columns(problem, rows)[None, :] - problem.cost)


def sinkhorn(
    cost: Array, source: Array, target: Array, epsilon: Array, potential: Array, iterations: int
) -> TransportResult:
    """At most `iterations` steps towards the plan between `source` and `target` `[k]`.

    Every `BLOCK` steps one is taken in the logarithmic domain, f = ε ln a − ε ln Σ exp((g − C)/ε)
    and g alike; those between scale the plan reached, which is the same and takes no exponentials:
    weights of at least 1e-12 cannot scale it out of range within a block.

    **Arguments:** `cost` `[k, k]`; `epsilon`, the regularisation, in its unit; `potential` `[k]` of
    the rows to start from, zeros where none is known.

    **Returns:** the free energy ⟨P, C⟩ + ε Σ P (ln P − 1) of the plan reached, and whether its
    marginals are met.
    """
    problem = _problem(cost, source, target, epsilon)
    rows = potential / epsilon
    plan = jnp.zeros_like(cost)
    needed = jnp.zeros((), jnp.int32)
    for start in range(0, iterations, BLOCK):
        rows, plan, missed = _block(problem, rows, min(BLOCK, iterations - start))
        needed = needed + missed
    error = jnp.max(jnp.abs(jnp.sum(plan, axis=1) - problem.source))
    logarithm = jnp.log(jnp.maximum(plan, SMALLEST))
    # A potential is defined up to a constant; without its mean it stays near zero.
    centred = epsilon * (rows - jnp.mean(rows))
    return TransportResult(
        potential=jnp.where(jnp.all(jnp.isfinite(centred)), centred, 0.0),
        free_energy=jnp.sum(plan * (cost + epsilon * (logarithm - 1.0))),
        marginal_error=error,
        iterations=needed,
        converged=error <= MARGINAL_TOLERANCE,
    )


def _block(problem: _Problem, rows: Array, steps: int) -> tuple[Array, Array, Array]:
    """The potential of the rows after `steps` steps, the plan, and how many of them began with its
    marginals missed."""
    columns = _columns(problem, rows)
    image = _log_sum(columns[None, :] - problem.cost, 1)
    error = jnp.max(jnp.abs(jnp.exp(rows + image) - problem.source))
    missed = (error > MARGINAL_TOLERANCE).astype(jnp.int32)
    rows = jnp.log(problem.source) - image
    plan = _plan(problem, rows)
    u, v = jnp.ones_like(rows), jnp.ones_like(rows)
    for _ in range(steps - 1):
        sums = jnp.sum(plan * v[None, :], axis=1)
        error = jnp.max(jnp.abs(u * sums - problem.source))
        missed = missed + (error > MARGINAL_TOLERANCE)
        u = problem.source / sums
        v = problem.target / jnp.sum(plan * u[:, None], axis=0)
    return rows + jnp.log(u), u[:, None] * plan * v[None, :], missed


def plan_of(cost: Array, source: Array, target: Array, epsilon: Scalar, potential: Array) -> Array:
    """The plan `[k, k]` that a potential of the rows stands for; its columns meet the target."""
    return _plan(_problem(cost, source, target, epsilon), potential / epsilon)


def solve(cost: Host, source: Host, target: Host, epsilon: float) -> TransportResult:
    """The plan of one problem, run until its marginals are met to 1e-9, on the host.

    The regularisation descends from the largest cost to `epsilon`. At each, steps of Newton on the
    dual or of Sinkhorn are taken, whichever ascends more: where little regularisation is left mass
    hardly moves between parts of the plan, and Sinkhorn alone takes iterations without number.

    **Arguments and result:** those of `sinkhorn`, as NumPy arrays.

    **Source:** Brauer, Clason, Lorenz, Wirth (2017), *A Sinkhorn–Newton method for entropic optimal
    transport*, for the steps.
    """
    source, target = (np.maximum(part, WEIGHT_FLOOR) for part in (source, target))
    dual = _Dual(cost, source / source.sum(), target / target.sum())
    regularisation = max(float(np.max(cost)), epsilon)
    rows, iterations = np.zeros(source.size), 0
    while True:
        for _ in range(MOST_ASCENTS):
            excess = dual.excess(rows, regularisation)
            if np.max(np.abs(excess)) <= 1e-3 * MARGINAL_TOLERANCE:
                break
            rows, iterations = dual.ascend(rows, excess, regularisation), iterations + 1
        if regularisation <= epsilon:
            break
        regularisation = max(DESCENT * regularisation, epsilon)
    plan = dual.plan(rows, epsilon)
    error = np.max(np.abs(dual.source - np.sum(plan, axis=1)))
    logarithm = np.log(np.maximum(plan, SMALLEST))
    energy = np.sum(plan * (cost + epsilon * (logarithm - 1.0)))
    met = error <= MARGINAL_TOLERANCE
    host: Any = (rows - np.mean(rows), energy, error, np.int32(iterations), met)
    return TransportResult(*host)


class _Dual(NamedTuple):
    """The dual of a problem in the potential of its rows, that of the columns eliminated."""

    cost: Host
    source: Host
    target: Host

    def columns(self, rows: Host, epsilon: float) -> Host:
        reach = np.logaddexp.reduce((rows[:, None] - self.cost) / epsilon, axis=0)
        return epsilon * (np.log(self.target) - reach)

    def plan(self, rows: Host, epsilon: float) -> Host:
        columns = self.columns(rows, epsilon)
        return np.exp((rows[:, None] + columns[None, :] - self.cost) / epsilon)

    def excess(self, rows: Host, epsilon: float) -> Host:
        """The gradient: what the rows of the plan lack."""
        return self.source - np.sum(self.plan(rows, epsilon), axis=1)

    def value(self, rows: Host, epsilon: float) -> float:
        return float(rows @ self.source + self.columns(rows, epsilon) @ self.target)

    def ascend(self, rows: Host, excess: Host, epsilon: float) -> Host:
        """The step of Newton, shortened until it ascends more than the step of Sinkhorn does, or
        that one."""
        columns = self.columns(rows, epsilon)
        reach = np.logaddexp.reduce((columns[None, :] - self.cost) / epsilon, axis=1)
        plain = epsilon * (np.log(self.source) - reach)
        plan = self.plan(rows, epsilon)
        shared = (plan / self.target) @ plan.T / epsilon
        np.fill_diagonal(shared, 0.0)
        # The curvature is a graph's Laplacian; a constant, which changes nothing, is kept out.
        curvature = np.diag(shared.sum(axis=1)) - shared + np.mean(shared.sum(axis=1))
        direction = np.linalg.lstsq(curvature, excess, rcond=None)[0]
        least = self.value(plain, epsilon)
        for halvings in range(30):
            candidate = rows + 0.5**halvings * direction
            if self.value(candidate, epsilon) > least:
                return candidate
        return plain
