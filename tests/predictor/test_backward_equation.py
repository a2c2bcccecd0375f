"""The references for the backward equation against closed forms and against each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from predictor.kernels.markov import backward_equation as equation
from predictor.kernels.markov.residual import certainty_residual, differentiate, value_residual
from tests.predictor.markov_processes import coefficients_in_range, ornstein_uhlenbeck

INSIDE = 3.0
"""Where boundary and saturation of the grid, at 8 and 4, are out of reach."""


def error_of(coefficients, points: int, exact) -> float:
    solution = equation.solve(coefficients, points=points, steps=points - 1)
    inside = np.abs(solution.positions) <= INSIDE
    return float(np.max(np.abs(solution.values[0] - exact(solution.positions))[inside]))


@pytest.mark.parametrize(("rate", "variance"), [(0.1, 1.0), (0.7, 0.5), (1.5, 0.1)])
def test_differences_converge_to_the_ornstein_uhlenbeck_solution_at_first_order(rate, variance):
    coefficients = ornstein_uhlenbeck(rate, variance)

    def exact(positions):
        return equation.ornstein_uhlenbeck_value(0.0, positions, rate, 0.0, 2.0 * rate * variance)

    errors = [error_of(coefficients, points, exact) for points in (101, 201, 401)]

    assert errors[-1] < 0.003
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert np.all(orders > 0.9)


@pytest.mark.parametrize("diffusion", [0.05, 0.5])
def test_differences_converge_to_the_solution_of_the_heat_equation(diffusion):
    coefficients = np.array([0.0, 0.0, 0.0, 0.0, np.log(diffusion), 0.0, 0.0])

    def exact(positions):
        return equation.ornstein_uhlenbeck_value(0.0, positions, 0.0, 0.0, diffusion)

    errors = [error_of(coefficients, points, exact) for points in (101, 201, 401)]

    assert errors[-1] < 1e-3
    assert np.all(np.log2(np.array(errors[:-1]) / np.array(errors[1:])) > 0.9)


def test_the_scheme_prices_a_call_as_black_and_scholes_do():
    rate, volatility, strike = 0.05, 0.2, 1.0
    positions = np.linspace(0.0, 4.0, 801)
    generator = equation.generator_matrix(
        rate * positions, (volatility * positions) ** 2, positions[1]
    )

    values = equation.march_back(generator, np.maximum(positions - strike, 0.0), 400)[0]

    inside = (positions > 0.5) & (positions < 2.0)
    spot = positions[inside]
    d1 = (np.log(spot / strike) + rate + volatility**2 / 2.0) / volatility
    price = spot * stats.norm.cdf(d1) - strike * np.exp(-rate) * stats.norm.cdf(d1 - volatility)
    np.testing.assert_allclose(np.exp(-rate) * values[inside], price, atol=2e-4)


@pytest.mark.parametrize("seed", range(5))
def test_differences_on_a_nonlinear_drift_converge_to_one_limit(seed):
    coefficients = coefficients_in_range(seed, 1)[0]
    coarse, fine, finer = (
        equation.solve(coefficients, points=points, steps=points - 1).values[
            0, :: (points - 1) // 200
        ]
        for points in (201, 401, 801)
    )

    step, next_step = np.max(np.abs(fine - coarse)), np.max(np.abs(finer - fine))

    assert next_step < 0.01
    assert np.log2(step / next_step) > 0.5


@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(0.0, 1e3)), min_size=3, max_size=30),
    st.floats(0.01, 10.0),
    st.floats(1e-4, 1e4),
)
def test_every_step_is_monotone_and_keeps_constants(cells, spacing, step):
    drifts, diffusions = (np.array(column) for column in zip(*cells, strict=True))
    generator = equation.generator_matrix(drifts, diffusions, spacing)
    off_diagonal = generator - np.diag(np.diag(generator))

    assert np.all(off_diagonal >= 0.0)
    np.testing.assert_allclose(generator.sum(axis=1), 0.0, atol=1e-9 * np.abs(generator).max())
    matrix = np.eye(drifts.size) - step * generator
    # Its inverse is not negative, up to what inverting it rounds.
    rounding = 100.0 * np.finfo(float).eps * np.abs(matrix).max()
    assert np.min(np.linalg.inv(matrix)) > -max(rounding, 1e-9)


@given(st.integers(0, 50))
def test_a_larger_terminal_value_gives_a_larger_solution(seed):
    random = np.random.default_rng(seed)
    coefficients = coefficients_in_range(seed, 1)[0]
    low, gap = random.normal(size=101), random.exponential(size=101)

    below = equation.solve(coefficients, lambda x: low, points=101, steps=20).values
    above = equation.solve(coefficients, lambda x: low + gap, points=101, steps=20).values

    assert np.all(above >= below - 1e-12)
    assert np.min(below) >= low.min() - 1e-12
    assert np.max(below) <= low.max() + 1e-12


@pytest.mark.parametrize("mean", [-2.0, 0.0, 0.7, 3.0])
@pytest.mark.parametrize("variance", [1e-4, 0.3, 2.0, 7.0])
def test_quadrature_agrees_with_adaptive_integration(mean, variance):
    law = stats.norm(mean, np.sqrt(variance))
    expected, _ = integrate.quad(
        lambda x: np.tanh(x) * law.pdf(x), law.ppf(1e-14), law.isf(1e-14), epsabs=1e-12, limit=500
    )

    value = equation.normal_value(np.array(mean), np.array(variance))

    assert value == pytest.approx(expected, abs=1e-6)


def test_residual_of_exact_solutions_is_zero():
    rate, diffusion = 0.8, 0.6
    coefficients = jnp.asarray(ornstein_uhlenbeck(rate, diffusion / (2.0 * rate)))

    def second_moment(time, position):
        memory = jnp.exp(-2.0 * rate * (1.0 - time))
        return position**2 * memory + diffusion * (1.0 - memory) / (2.0 * rate)

    def mean(time, position):
        return position * jnp.exp(-rate * (1.0 - time))

    for field in (mean, second_moment):
        for position in (-2.0, 0.1, 3.0):
            size = value_residual(field, jnp.asarray(0.3), jnp.asarray(position), coefficients)
            assert float(size) == pytest.approx(0.0, abs=1e-12)


def test_derivatives_are_those_of_the_function():
    at = differentiate(lambda t, x: t**3 * jnp.sin(2.0 * x), jnp.asarray(0.5), jnp.asarray(0.3))

    expected = (
        0.125 * np.sin(0.6),
        0.75 * np.sin(0.6),
        0.25 * np.cos(0.6),
        -0.5 * np.sin(0.6),
    )
    np.testing.assert_allclose(at, expected, rtol=1e-12)


@given(st.floats(-3.9, 3.9), st.floats(0.0, 1.0), st.integers(0, 20))
def test_residual_of_the_value_is_that_of_its_certainty_equivalent(position, time, seed):
    coefficients = jnp.asarray(coefficients_in_range(seed, 1)[0])

    def certainty(t, x):
        return 0.5 * x + (1.0 - t) * jnp.sin(x)

    t, x = jnp.asarray(time), jnp.asarray(position)
    direct = value_residual(lambda s, y: jnp.tanh(certainty(s, y)), t, x, coefficients)
    through_certainty, factor = certainty_residual(certainty, t, x, coefficients)

    np.testing.assert_allclose(through_certainty, direct, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(factor, 1.0 - np.tanh(certainty(t, x)) ** 2, rtol=1e-9)


def test_forward_mode_agrees_with_reverse_mode():
    coefficients = jnp.asarray(coefficients_in_range(3, 1)[0])

    def field(t, x):
        return jnp.tanh(x * jnp.exp(-t * x))

    at = differentiate(field, jnp.asarray(0.4), jnp.asarray(1.1))

    np.testing.assert_allclose(at.time, jax.grad(field, 0)(0.4, 1.1), rtol=1e-12)
    np.testing.assert_allclose(at.slope, jax.grad(field, 1)(0.4, 1.1), rtol=1e-12)
    np.testing.assert_allclose(at.curvature, jax.grad(jax.grad(field, 1), 1)(0.4, 1.1), rtol=1e-9)
    assert np.isfinite(value_residual(field, jnp.asarray(0.4), jnp.asarray(1.1), coefficients))
