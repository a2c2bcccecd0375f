"""The Sinkhorn solver against its definition and an independent log-domain implementation."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp

from predictor import transport

solve = functools.partial(jax.jit, static_argnames="iterations")(transport.sinkhorn)


def log_domain_plan(
    cost: np.ndarray, source: np.ndarray, target: np.ndarray, epsilon: float
) -> np.ndarray:
    """The plan from potentials f, g with f = ε ln a - ε lse((g - C) / ε), run to rest."""
    f, g = np.zeros(4), np.zeros(4)
    for _ in range(20_000):
        before = f
        f = epsilon * (np.log(source) - logsumexp((g[None, :] - cost) / epsilon, axis=1))
        g = epsilon * (np.log(target) - logsumexp((f[:, None] - cost) / epsilon, axis=0))
        if np.max(np.abs(f - before)) < 1e-14:
            break
    return np.exp((f[:, None] + g[None, :] - cost) / epsilon)


def problem(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    points = random.uniform(-1.0, 1.0, size=4)
    cost = np.square(points[:, None] - points[None, :])
    return cost, random.dirichlet(np.ones(4)), random.dirichlet(np.ones(4))


def plan_of(result: transport.TransportResult, cost, target, epsilon) -> np.ndarray:
    """The plan that a row scaling stands for."""
    gibbs = np.exp(-cost / epsilon)
    u = np.asarray(result.scaling)
    return u[:, None] * gibbs * (target / (gibbs.T @ u))[None, :]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("epsilon", [0.3, 1.0])
def test_solution_agrees_with_an_independent_log_domain_solver(seed, epsilon):
    cost, source, target = problem(seed)

    result = solve(cost, source, target, epsilon, jnp.ones(4), iterations=200)

    plan = log_domain_plan(cost, source, target, epsilon)
    np.testing.assert_allclose(plan_of(result, cost, target, epsilon), plan, atol=1e-6)
    energy = np.sum(plan * cost) + epsilon * np.sum(plan * (np.log(plan) - 1.0))
    assert float(result.free_energy) == pytest.approx(energy, abs=1e-5)


def solve_to_rest(cost, source, target, epsilon) -> transport.TransportResult:
    """Solves that start where the last one ended, until one has converged."""
    scaling = jnp.ones(4)
    for _ in range(20):
        result = solve(cost, source, target, epsilon, scaling, iterations=200)
        if bool(result.converged):
            break
        scaling = result.scaling
    return result


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("epsilon", [0.03, 0.01])
def test_solution_at_little_regularisation_agrees_once_it_has_come_to_rest(seed, epsilon):
    cost, source, target = problem(seed)
    assert cost.max() / epsilon < transport.EXPONENT_LIMIT

    result = solve_to_rest(cost, source, target, epsilon)

    plan = log_domain_plan(cost, source, target, epsilon)
    np.testing.assert_allclose(plan_of(result, cost, target, epsilon), plan, atol=2e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("epsilon", [1e-2, 1e-3, 1e-4])
def test_marginals_hold_down_to_the_least_regularisation_that_can_be_configured(seed, epsilon):
    cost, source, target = problem(seed)

    result = solve_to_rest(cost, source, target, epsilon)

    assert bool(result.converged)
    cut = np.minimum(cost, transport.EXPONENT_LIMIT * epsilon)
    plan = plan_of(result, cut, target, epsilon)
    np.testing.assert_allclose(plan.sum(axis=1), source, atol=1e-6)
    np.testing.assert_allclose(plan.sum(axis=0), target, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_converged_plan_has_both_marginals(seed):
    cost, source, target = problem(seed)

    result = solve(cost, source, target, 0.5, jnp.ones(4), iterations=200)

    plan = plan_of(result, cost, target, 0.5)
    assert bool(result.converged)
    np.testing.assert_allclose(plan.sum(axis=1), source, atol=1e-6)
    np.testing.assert_allclose(plan.sum(axis=0), target, atol=1e-12)


def test_too_few_iterations_are_reported_as_not_converged():
    cost, source, target = problem(3)

    result = solve(cost * 100.0, source, target, 0.05, jnp.ones(4), iterations=1)

    assert not bool(result.converged)
    assert float(result.marginal_error) > transport.MARGINAL_TOLERANCE


def test_warm_start_needs_fewer_iterations():
    cost, source, target = problem(1)
    nearby = 0.99 * target + 0.01 * source

    cold = solve(cost, source, nearby, 0.2, jnp.ones(4), iterations=200)
    start = solve(cost, source, target, 0.2, jnp.ones(4), iterations=200).scaling
    warm = solve(cost, source, nearby, 0.2, start, iterations=200)

    assert int(warm.iterations) < int(cold.iterations)
    assert float(warm.free_energy) == pytest.approx(float(cold.free_energy), abs=1e-5)


def test_large_regularisation_gives_the_product_plan():
    cost, source, target = problem(2)

    result = solve(cost, source, target, 1e4, jnp.ones(4), iterations=20)

    plan = plan_of(result, cost, target, 1e4)
    np.testing.assert_allclose(plan, np.outer(source, target), rtol=2e-3)


@pytest.mark.parametrize("spread", [1.0, 10.0])
def test_large_regularisation_spreads_equal_weights_evenly_whatever_the_cost(spread):
    cost = spread * problem(4)[0]
    equal = np.full(4, 0.25)

    result = solve(cost, equal, equal, 1e4, jnp.ones(4), iterations=20)

    np.testing.assert_allclose(plan_of(result, cost, equal, 1e4), 1.0 / 16.0, rtol=0.01)


def test_equal_marginals_without_distance_cost_nothing_but_entropy():
    weights = np.full(4, 0.25)

    result = solve(np.zeros((4, 4)), weights, weights, 0.1, jnp.ones(4), iterations=20)

    # The plan is 1/16 everywhere: ε Σ P (ln P - 1) = 0.1 (ln(1/16) - 1).
    assert float(result.free_energy) == pytest.approx(0.1 * (np.log(1 / 16) - 1.0), abs=1e-12)


@given(
    points=st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4),
    weights=st.lists(st.floats(0.0, 1.0), min_size=8, max_size=8),
    epsilon=st.floats(1e-4, 1e3),
    scaling=st.lists(st.floats(1e-200, 1e200), min_size=4, max_size=4),
)
def test_scaling_to_start_from_next_time_is_positive_and_finite(points, weights, epsilon, scaling):
    source, target = np.array(weights[:4]) + 1e-12, np.array(weights[4:]) + 1e-12
    cost = transport.kernel_cost(jnp.asarray(points), jnp.asarray(1.0), jnp.asarray(False), 1.0)

    result = solve(
        cost,
        source / source.sum(),
        target / target.sum(),
        epsilon,
        np.array(scaling),
        iterations=20,
    )

    assert np.all(np.isfinite(result.scaling))
    assert np.all(np.asarray(result.scaling) > 0)


def test_cost_is_the_squared_standardised_distance():
    forecasts = jnp.asarray([0.0, 2.0, -4.0, 2.0])

    cost = transport.kernel_cost(forecasts, jnp.asarray(2.0), jnp.asarray(False), 1.0)

    distance = np.subtract.outer(np.asarray(forecasts), np.asarray(forecasts)) / 2.0
    np.testing.assert_allclose(cost, distance**2)


def test_robust_cost_is_hubers_and_joins_smoothly():
    distance = np.array([0.0, 0.5, 1.5, 1.5 + 1e-9, 10.0])
    forecasts = jnp.asarray(distance[:4])

    def row(values):
        return transport.kernel_cost(values, jnp.asarray(1.0), jnp.asarray(True), 1.5)[0]

    np.testing.assert_allclose(row(forecasts), distance[:4] ** 2, rtol=1e-8)
    far = row(jnp.asarray([0.0, 10.0, 3.0, 1.0]))
    np.testing.assert_allclose(far[1:3], [1.5 * (20.0 - 1.5), 1.5 * (6.0 - 1.5)])
