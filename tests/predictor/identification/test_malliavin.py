"""Malliavin derivatives and the Clark-Ocone formula in closed form."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from predictor.identification.malliavin import bismut_elworthy_li, clark_ocone, derivative
from predictor.kernels.markov import backward_equation as equation
from predictor.kernels.markov.coefficients import diffusion, drift
from tests.predictor.markov_processes import coefficients_in_range

PATHS, STEPS = 4000, 16
STEP = 1.0 / STEPS


@pytest.fixture(scope="module")
def shocks() -> np.ndarray:
    return np.sqrt(STEP) * np.random.default_rng(1).normal(size=(PATHS, STEPS))


def test_derivative_of_a_forecast_is_its_gradient():
    past = np.array([0.5, -1.0, 2.0])

    found = derivative(lambda x: jnp.tanh(x[2]) + 0.3 * x[1] ** 2, past)

    np.testing.assert_allclose(found, [0.0, -0.6, 1.0 - np.tanh(2.0) ** 2], atol=1e-15)


def test_linear_functional_is_represented_without_rest(shocks):
    weights = np.linspace(1.0, 2.0, STEPS)

    found = clark_ocone(lambda w: jnp.sum(jnp.asarray(weights) * w), shocks)

    np.testing.assert_allclose(found.integrand, np.tile(weights, (PATHS, 1)), atol=1e-9)
    # What remains is the sampling error of the mean, the same on every path.
    assert np.std(found.residual) < 1e-9


def test_square_of_brownian_motion_has_twice_the_path_as_integrand(shocks):
    found = clark_ocone(lambda w: jnp.sum(w) ** 2, shocks)

    before = np.cumsum(shocks, axis=1) - shocks
    # E[2 W₁ | F_t] = 2 W_t + 2 E ΔW; the regression scatters by about 2/√4000 per power.
    error = found.integrand - 2.0 * before
    assert np.sqrt(np.mean(error**2)) < 0.15
    assert found.mean == pytest.approx(1.0, abs=0.08)


def test_rest_of_a_nonlinear_functional_vanishes_with_the_step():
    random = np.random.default_rng(2)
    rests = []
    for steps in (4, 16, 64):
        shocks = random.normal(size=(PATHS, steps)) / np.sqrt(steps)
        found = clark_ocone(lambda w: jnp.exp(jnp.sum(w) - 0.5), shocks)
        rests.append(np.var(found.residual) / (np.e - 1.0))

    # Var(F) = e − 1; the share that is not represented falls like the step.
    assert rests[0] > 2.0 * rests[1] > 4.0 * rests[2]
    assert rests[2] < 0.1


def test_other_features_may_know_more_of_the_path(shocks):
    # ∫ W dt depends on when a shock came: D_t F = 1 − t, which the default represents too; a
    # maximum-like functional needs its own features.
    def functional(w):
        path = jnp.cumsum(w)
        return path[3] * path[-1]

    default = clark_ocone(functional, shocks)
    informed = clark_ocone(
        functional,
        shocks,
        lambda known: np.column_stack(
            [np.ones(len(known)), known[:, :4].sum(axis=1), known.sum(axis=1)]
        ),
    )

    assert np.var(informed.residual) < 0.8 * np.var(default.residual)


def test_weights_give_the_slope_of_a_jump_in_the_payoff():
    rate, volatility, start, level = 0.8, 0.5, 0.3, 0.2
    shocks = np.random.default_rng(3).normal(size=(40_000, 64))

    found = bismut_elworthy_li(lambda x: -rate * x, lambda x: volatility, start, 1.0, shocks)
    slope, error = found.slope_of((found.endings > level).astype(float))

    memory = np.exp(-rate)
    deviation = volatility * np.sqrt((1.0 - memory**2) / (2.0 * rate))
    exact = memory * stats.norm.pdf((level - start * memory) / deviation) / deviation
    # The step leaves (b′ h / 2) of it, less than a hundredth.
    assert abs(slope - exact) < 3.0 * error + 0.01 * exact
    assert error < 0.02 * exact


def test_weights_of_brownian_motion_are_its_end_over_the_time():
    shocks = np.random.default_rng(4).normal(size=(100, 8))

    found = bismut_elworthy_li(lambda x: 0.0, lambda x: 1.0, 5.0, 2.0, shocks)

    np.testing.assert_allclose(found.weights, (found.endings - 5.0) / 2.0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_slope_of_the_backward_equation_is_the_one_by_weights(seed):
    coefficients = coefficients_in_range(seed, 1)[0]
    solution = equation.solve(coefficients, points=801, steps=400)
    shocks = np.random.default_rng(5).normal(size=(20_000, 64))
    middle = 420

    found = bismut_elworthy_li(
        lambda x: drift(jnp.asarray(coefficients), x),
        lambda x: jnp.sqrt(diffusion(jnp.asarray(coefficients), x)),
        float(solution.positions[middle]),
        1.0,
        shocks,
    )
    slope, error = found.slope_of(np.tanh(found.endings))

    exact = np.gradient(solution.values[0], solution.positions)[middle]
    assert abs(slope - exact) < 3.0 * error + 0.02 * abs(exact)
