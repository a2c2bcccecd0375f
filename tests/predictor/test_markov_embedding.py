"""The embedded diffusion moves in one tick as the regression says it does."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.kernels.markov import backward_equation as equation
from predictor.kernels.markov.coefficients import (
    DOMAIN,
    LOWER,
    MARGIN,
    UPPER,
    denormalise,
    diffusion,
    drift,
    into_range,
    normalise,
    relaxation,
    saturate,
)
from predictor.kernels.markov.embedding import embed, log_variance
from tests.predictor.markov_processes import ornstein_uhlenbeck

embed_in_one_call = jax.jit(embed)
into_range_in_one_call = jax.jit(into_range)
coordinates = st.lists(st.floats(-1.0, 1.0), min_size=7, max_size=7).map(np.array)


def one_step(coefficients, positions):
    """Mean and variance of the state one tick later, by finite differences: `[positions]`."""
    first, second = (
        equation.solve(coefficients, lambda x, k=k: x**k, points=801, steps=400) for k in (1, 2)
    )
    mean = np.interp(positions, first.positions, first.values[0])
    return mean, np.interp(positions, first.positions, second.values[0]) - mean**2


def regression_of(coefficients_of_truth, seed=1, ticks=200_000, substeps=20):
    """Simulate dX = b dt + σ dW finely, standardise, and regress as the kernel does:
    increments on 1, z, z², z³ `[4]`, and the variance of what is left."""
    drift_of, sigma = coefficients_of_truth
    random = np.random.default_rng(seed)
    lanes = 200
    state = random.normal(size=lanes)
    path = np.empty((ticks // lanes, lanes))
    for tick in range(path.shape[0]):
        for _ in range(substeps):
            noise = random.normal(size=lanes) * np.sqrt(1.0 / substeps)
            state = state + drift_of(state) / substeps + sigma(state) * noise
        path[tick] = state
    path = path[50:]
    z = (path - path.mean()) / path.std()
    now, increments = z[:-1].ravel(), np.diff(z, axis=0).ravel()
    powers = np.stack([now**k for k in range(4)], axis=1)
    fitted, *_ = np.linalg.lstsq(powers, increments, rcond=None)
    return fitted, float(np.var(increments - powers @ fitted)), now


@given(st.floats(0.0498, 0.994), st.floats(0.002, 1.15))
def test_ornstein_uhlenbeck_process_is_embedded_exactly(memory, variance):
    increment = np.array([0.0, memory - 1.0, 0.0, 0.0])

    coefficients, embeddable = embed_in_one_call(increment, np.array([np.log(variance), 0.0, 0.0]))

    rate = -np.log(memory)
    exact = ornstein_uhlenbeck(rate, variance / (1.0 - memory**2))
    assert bool(embeddable)
    np.testing.assert_allclose(coefficients, exact, rtol=1e-9, atol=1e-12)


DOUBLE_WELL = (lambda x: 0.3 * (x - x**3), lambda x: 0.35 + 0.0 * x)
FAST_DOUBLE_WELL = (lambda x: x - x**3, lambda x: 0.9 + 0.0 * x)
HARDENING = (lambda x: -0.5 * x**3, lambda x: 0.7 + 0.0 * x)
LINEAR = (lambda x: -0.5 * x, lambda x: 1.0 + 0.0 * x)


@pytest.mark.parametrize(
    ("truth", "tolerance"),
    [(LINEAR, 0.02), (HARDENING, 0.06), (DOUBLE_WELL, 0.12), (FAST_DOUBLE_WELL, 0.12)],
    ids=["linear", "hardening", "double well", "fast double well"],
)
def test_embedded_diffusion_has_the_one_step_law_of_the_regression(truth, tolerance):
    """In units of the standard deviation of one step: that is what a forecast is measured by."""
    increment, variance, states = regression_of(truth)
    coefficients, embeddable = embed_in_one_call(increment, np.array([np.log(variance), 0.0, 0.0]))
    positions = np.quantile(states, np.linspace(0.005, 0.995, 199))

    mean, spread = one_step(np.asarray(coefficients), positions)

    assert bool(embeddable)
    fitted = positions + sum(increment[k] * positions**k for k in range(4))
    error = np.sqrt(np.mean((mean - fitted) ** 2) / variance)
    assert error < tolerance
    assert np.mean(spread) == pytest.approx(variance, rel=0.1)


def test_without_the_continuation_a_fast_process_would_lose_half_its_variance():
    variance = 0.75
    naive = np.array([0.0, -0.5, 0.0, 0.0, np.log(variance), 0.0, 0.0])

    _, spread = one_step(naive, np.array([0.0]))

    assert spread[0] < 0.7 * variance


@pytest.mark.parametrize(
    "increment",
    [[0.0, -1.3, 0.0, 0.0], [0.0, -0.7, 0.0, -0.2]],
    ids=["at the mean", "on average"],
)
def test_oscillating_map_has_no_diffusion_but_coefficients_in_range(increment):
    coefficients, embeddable = embed_in_one_call(np.array(increment), np.zeros(3))

    assert not bool(embeddable)
    assert np.all(np.abs(normalise(coefficients)) <= 1.0 + 1e-9)


def test_random_walk_is_nearly_free_of_drift():
    coefficients, embeddable = embed_in_one_call(np.zeros(4), np.array([np.log(0.01), 0.0, 0.0]))

    assert bool(embeddable)
    positions = np.linspace(-3.0, 3.0, 7)
    assert np.max(np.abs(drift(coefficients, positions))) < 0.05
    np.testing.assert_allclose(diffusion(coefficients, positions), 0.01, rtol=0.02)


def test_state_dependent_variance_is_carried_over():
    level, tilt, bend = np.log(0.2), 0.25, -0.05

    coefficients, _ = embed_in_one_call(
        np.array([0.0, -0.4, 0.0, 0.0]), np.array([level, tilt, bend])
    )

    np.testing.assert_allclose(coefficients[5:], [tilt, bend], atol=1e-12)
    _, spread = one_step(np.asarray(coefficients), np.array([-1.0, 0.0, 1.0]))
    np.testing.assert_allclose(spread, np.exp([level - 0.3, level, level + 0.2]), rtol=0.12)


@given(st.floats(0.01, 10.0), st.floats(-0.3, 0.3), st.floats(-0.1, 0.2))
def test_logarithm_of_a_variance_runs_through_its_values(level, tilt, bend):
    polynomial = level * np.array([1.0, tilt, bend])

    log = log_variance(jnp.asarray(polynomial))

    for x in (-1.5, 0.0, 1.5):
        value = polynomial @ [1.0, x, x * x]
        assert float(jnp.exp(log @ jnp.array([1.0, x, x * x]))) == pytest.approx(value, rel=1e-9)


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3))
def test_logarithm_of_any_fitted_variance_is_finite(polynomial):
    assert np.all(np.isfinite(log_variance(jnp.array(polynomial))))


@given(coordinates)
def test_coordinates_and_coefficients_are_one_to_one(box):
    coefficients = denormalise(jnp.asarray(box))

    np.testing.assert_allclose(normalise(coefficients), box, atol=1e-9)
    np.testing.assert_allclose(into_range_in_one_call(coefficients), coefficients, atol=1e-9)
    natural = LOWER + (UPPER - LOWER) * (box + 1.0) / 2.0
    assert float(relaxation(coefficients)) == pytest.approx(np.exp(natural[0]), rel=1e-9)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=7, max_size=7))
def test_every_finite_input_has_coefficients_in_range(wild):
    coefficients = np.asarray(into_range_in_one_call(np.array(wild)))

    assert np.all(np.isfinite(coefficients))
    assert np.all(np.abs(normalise(jnp.asarray(coefficients))) <= 1.0 + 1e-6)


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=4, max_size=4),
    st.floats(-1e300, 1e300),
)
def test_every_finite_regression_has_an_embedding_in_range(increment, level):
    coefficients, _ = embed_in_one_call(np.array(increment), np.array([level, 0.0, 0.0]))

    assert np.all(np.abs(normalise(coefficients)) <= 1.0 + 1e-6)


@given(coordinates, st.floats(-1e12, 1e12))
def test_drift_and_diffusion_are_bounded_on_the_whole_line(box, position):
    coefficients = denormalise(jnp.asarray(box))

    assert abs(float(drift(coefficients, position))) < 100.0
    assert 0.0 < float(diffusion(coefficients, position)) < 1e3


def test_saturation_is_the_identity_on_the_domain_and_twice_differentiable():
    inside = np.linspace(-DOMAIN, DOMAIN, 81)
    np.testing.assert_array_equal(saturate(inside), inside)
    assert float(saturate(jnp.asarray(1e6))) == DOMAIN + MARGIN
    np.testing.assert_allclose(saturate(-inside * 2.0), -saturate(inside * 2.0))

    slope = jax.grad(lambda x: saturate(x))
    bend = jax.grad(slope)
    for edge in (-DOMAIN, DOMAIN):
        for side in (edge - 1e-7, edge + 1e-7):
            assert float(slope(side)) == pytest.approx(1.0, abs=1e-5)
            assert float(bend(side)) == pytest.approx(0.0, abs=1e-5)
