"""The Sinkhorn solver against its definition and an independent log-domain implementation."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize
from scipy.special import logsumexp

from predictor import transport

sinkhorn = functools.partial(jax.jit, static_argnames="iterations")(transport.sinkhorn)
FRESH = jnp.zeros(4)


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


def dual_bound(
    cost: np.ndarray, source: np.ndarray, target: np.ndarray, epsilon: float, rows: np.ndarray
) -> float:
    """The dual objective at the potential of the rows: no plan has less free energy."""
    columns = epsilon * (np.log(target) - logsumexp((rows[:, None] - cost) / epsilon, axis=0))
    plan = np.exp((rows[:, None] + columns[None, :] - cost) / epsilon)
    return float(rows @ source + columns @ target - epsilon * plan.sum())


def least_cost(cost: np.ndarray, source: np.ndarray, target: np.ndarray) -> float:
    """Of the plan without regularisation, by linear programming."""
    rows, columns = np.kron(np.eye(4), np.ones(4)), np.kron(np.ones(4), np.eye(4))
    found = optimize.linprog(
        cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([source, target])
    )
    return float(found.fun)


def problem(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    points = random.uniform(-1.0, 1.0, size=4)
    cost = np.square(points[:, None] - points[None, :])
    return cost, random.dirichlet(np.ones(4)), random.dirichlet(np.ones(4))


def energy_of(plan: np.ndarray, cost: np.ndarray, epsilon: float) -> float:
    logarithm = np.log(np.maximum(plan, 1e-300))
    return float(np.sum(plan * cost) + epsilon * np.sum(plan * (logarithm - 1.0)))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("epsilon", [0.3, 1.0])
def test_solution_agrees_with_an_independent_log_domain_solver(seed, epsilon):
    cost, source, target = problem(seed)

    result = sinkhorn(cost, source, target, epsilon, FRESH, iterations=200)

    expected = log_domain_plan(cost, source, target, epsilon)
    plan = transport.plan_of(cost, source, target, epsilon, result.potential)
    np.testing.assert_allclose(plan, expected, atol=1e-6)
    assert float(result.free_energy) == pytest.approx(energy_of(expected, cost, epsilon), abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("epsilon", [1e-1, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("spread", [1.0, 10.0])
def test_problem_run_to_rest_agrees_down_to_the_least_regularisation(seed, epsilon, spread):
    cost, source, target = problem(seed)
    cost = spread**2 * cost

    result = transport.solve(cost, source, target, epsilon)

    assert result.converged
    plan = np.asarray(transport.plan_of(cost, source, target, epsilon, result.potential))
    if spread == 1.0 and epsilon >= 1e-2:
        np.testing.assert_allclose(plan, log_domain_plan(cost, source, target, epsilon), atol=1e-5)
    np.testing.assert_allclose(plan.sum(axis=1), source, atol=1e-8)
    np.testing.assert_allclose(plan.sum(axis=0), target, atol=1e-12)
    # A plan and a potential of equal value are both the best.
    bound = dual_bound(cost, source, target, epsilon, result.potential)
    assert energy_of(plan, cost, epsilon) == pytest.approx(bound, abs=1e-8 * spread**2)
    # The entropy of a plan of 16 cells is worth at most ln 16 of the regularisation.
    cheapest = least_cost(cost, source, target)
    least = cheapest - 1e-8 * spread**2
    assert least <= np.sum(plan * cost) <= cheapest + epsilon * np.log(16.0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", [1.0, 30.0, 300.0])
@pytest.mark.parametrize("iterations", [1, 7, 20, 50])
def test_scaling_between_logarithmic_steps_changes_none_of_them(seed, spread, iterations):
    cost, source, target = problem(seed)
    cost, epsilon = spread**2 * cost, 0.15
    source = np.array([1e-12, 0.3, 0.3, 0.4]) if seed == 4 else source
    start = spread * np.random.default_rng(seed).normal(size=4)

    result = sinkhorn(cost, source, target, epsilon, start, iterations=iterations)

    f = start
    for _ in range(iterations):
        g = epsilon * (np.log(target) - logsumexp((f[:, None] - cost) / epsilon, axis=0))
        f = epsilon * (np.log(source) - logsumexp((g[None, :] - cost) / epsilon, axis=1))
    np.testing.assert_allclose(result.potential, f - f.mean(), rtol=1e-7, atol=1e-7 * spread)


def test_forecasts_thirty_deviations_apart_are_transported_at_their_whole_cost():
    forecasts = np.array([0.0, 10.0, 20.0, 31.0])
    cost = np.square(np.subtract.outer(forecasts, forecasts))
    source, target = np.array([0.7, 0.1, 0.1, 0.1]), np.array([0.1, 0.1, 0.1, 0.7])

    result = transport.solve(cost, source, target, 0.15)
    within = sinkhorn(cost, source, target, 0.15, result.potential, iterations=20)

    assert bool(within.converged)
    assert float(within.free_energy) == pytest.approx(float(result.free_energy), rel=1e-9)
    assert float(result.free_energy) == pytest.approx(least_cost(cost, source, target), abs=0.6)


@pytest.mark.parametrize("seed", range(5))
def test_converged_plan_has_both_marginals(seed):
    cost, source, target = problem(seed)

    result = sinkhorn(cost, source, target, 0.5, FRESH, iterations=200)

    plan = np.asarray(transport.plan_of(cost, source, target, 0.5, result.potential))
    assert bool(result.converged)
    np.testing.assert_allclose(plan.sum(axis=1), source, atol=1e-6)
    np.testing.assert_allclose(plan.sum(axis=0), target, atol=1e-12)


def test_too_few_iterations_are_reported_as_not_converged():
    cost, source, target = problem(3)

    result = sinkhorn(cost * 100.0, source, target, 0.05, FRESH, iterations=1)

    assert not bool(result.converged)
    assert float(result.marginal_error) > transport.MARGINAL_TOLERANCE


def test_warm_start_needs_fewer_iterations():
    cost, source, target = problem(1)
    nearby = 0.99 * target + 0.01 * source

    cold = sinkhorn(cost, source, nearby, 0.2, FRESH, iterations=200)
    start = sinkhorn(cost, source, target, 0.2, FRESH, iterations=200).potential
    warm = sinkhorn(cost, source, nearby, 0.2, start, iterations=200)

    assert int(warm.iterations) < int(cold.iterations)
    assert float(warm.free_energy) == pytest.approx(float(cold.free_energy), abs=1e-5)


def test_large_regularisation_gives_the_product_plan():
    cost, source, target = problem(2)

    result = sinkhorn(cost, source, target, 1e4, FRESH, iterations=20)

    plan = transport.plan_of(cost, source, target, 1e4, result.potential)
    np.testing.assert_allclose(plan, np.outer(source, target), rtol=2e-3)


@pytest.mark.parametrize("spread", [1.0, 10.0])
def test_large_regularisation_spreads_equal_weights_evenly_whatever_the_cost(spread):
    cost = spread * problem(4)[0]
    equal = np.full(4, 0.25)

    result = sinkhorn(cost, equal, equal, 1e4, FRESH, iterations=20)

    plan = transport.plan_of(cost, equal, equal, 1e4, result.potential)
    np.testing.assert_allclose(plan, 1.0 / 16.0, rtol=0.01)


def test_equal_marginals_without_distance_cost_nothing_but_entropy():
    weights = np.full(4, 0.25)

    result = sinkhorn(np.zeros((4, 4)), weights, weights, 0.1, FRESH, iterations=20)

    # The plan is 1/16 everywhere: ε Σ P (ln P - 1) = 0.1 (ln(1/16) - 1).
    assert float(result.free_energy) == pytest.approx(0.1 * (np.log(1 / 16) - 1.0), abs=1e-12)


@given(
    points=st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4),
    weights=st.lists(st.floats(0.0, 1.0), min_size=8, max_size=8),
    epsilon=st.floats(1e-4, 1e3),
    potential=st.lists(st.floats(-1e9, 1e9), min_size=4, max_size=4),
)
def test_potential_to_start_from_next_time_is_finite(points, weights, epsilon, potential):
    source, target = np.array(weights[:4]) + 1e-12, np.array(weights[4:]) + 1e-12
    cost = transport.kernel_cost(jnp.asarray(points), jnp.asarray(1.0), jnp.asarray(False), 1.0)

    result = sinkhorn(
        cost,
        source / source.sum(),
        target / target.sum(),
        epsilon,
        np.array(potential),
        iterations=20,
    )

    assert np.all(np.isfinite(result.potential))
    assert np.isfinite(result.free_energy)


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
