"""Polynomials of the delay embedding: whitening, features, and the maps that they learn."""

from __future__ import annotations

from math import comb

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from predictor import anchors
from predictor.config import WINDOW, PredictorConfig
from predictor.kernels.hilbert import DILATED_EMBEDDING, SHORT_EMBEDDING, polynomial
from tests.predictor.streams import (
    asked,
    autoregression,
    kernel_tick,
    kernel_ticks,
    root_mean_square,
    told,
)

SHORT = polynomial.polynomial_member("polynomial", SHORT_EMBEDDING, 3, 0.1)


@pytest.mark.parametrize("size", [1, 3, 6])
def test_whitening_makes_the_vectors_uncorrelated_with_unit_variances(size):
    random = np.random.default_rng(size)
    vectors = random.normal(size=(100, size)) @ random.normal(size=(size, size)) + 3.0
    inside = random.random(100) < 0.7

    centre, whitening = jax.jit(polynomial.whitening_of)(jnp.asarray(vectors), jnp.asarray(inside))

    known = vectors[inside]
    np.testing.assert_allclose(centre, known.mean(axis=0))
    covariance = np.cov(known.T, bias=True).reshape(size, size)
    covariance += polynomial.SMALLEST_VARIANCE * np.eye(size)
    whitened = np.asarray(whitening) @ covariance @ np.asarray(whitening).T
    np.testing.assert_allclose(whitened, np.eye(size), atol=1e-9)
    assert np.array_equal(whitening, np.tril(whitening))
    assert np.all(np.diag(whitening) > 0.0)


def test_whitening_of_vectors_without_variance_is_finite():
    vectors = jnp.ones((50, 3))

    centre, whitening = jax.jit(polynomial.whitening_of)(vectors, jnp.ones(50, bool))

    np.testing.assert_allclose(centre, 1.0)
    largest = polynomial.SMALLEST_VARIANCE**-0.5
    np.testing.assert_allclose(np.diag(whitening), largest)
    assert np.all(np.isfinite(whitening))


@pytest.mark.parametrize("indices", [(0, 0), (0, 1), (0, 0, 0), (0, 0, 1), (0, 1, 2), (2, 2, 2)])
def test_size_of_a_monomial_is_its_root_mean_square_under_the_normal_law(indices):
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    weights = weights / weights.sum()
    # Coordinates are independent, so the expectation is a product over them.
    expected = 1.0
    for variable in set(indices):
        expected *= np.sum(weights * nodes ** (2 * indices.count(variable)))

    assert polynomial._gaussian_size(indices) == pytest.approx(np.sqrt(expected))


@pytest.mark.parametrize(("delays", "degree"), [(SHORT_EMBEDDING, 3), (DILATED_EMBEDDING, 3)])
def test_features_are_all_monomials_up_to_the_degree(delays, degree):
    member = polynomial.polynomial_member("p", delays, degree, 0.1)

    state = member.init(PredictorConfig())

    assert state.features.size == comb(len(delays) + degree, degree)


def test_features_of_a_fresh_state_are_the_scaled_powers_of_the_levels():
    levels = np.zeros(WINDOW)
    levels[:3] = 0.5, -2.0, 1.5

    state, _ = asked(SHORT, SHORT.init(PredictorConfig()), kernel_tick(levels, learn=False))

    a, b, c = levels[:3]
    squares = [a * a / 3**0.5, a * b, a * c, b * b / 3**0.5, b * c, c * c / 3**0.5]
    cubes = [a**3 / 15**0.5, a * a * b / 3**0.5, a * a * c / 3**0.5, a * b * b / 3**0.5, a * b * c]
    cubes += [a * c * c / 3**0.5, b**3 / 15**0.5, b * b * c / 3**0.5, b * c * c / 3**0.5]
    cubes += [c**3 / 15**0.5]
    np.testing.assert_allclose(state.features, [1.0, a, b, c, *squares, *cubes], rtol=1e-12)


def henon(rows: int) -> np.ndarray:
    """x ← 1 − 1.4 x² + 0.3 x₋₁, a quadratic of two delays."""
    values = np.zeros(rows)
    for row in range(2, rows):
        values[row] = 1.0 - 1.4 * values[row - 1] ** 2 + 0.3 * values[row - 2]
    return values


def test_map_that_is_a_polynomial_of_the_delays_becomes_known_to_half_a_percent():
    values = henon(2000)

    _, increments = told(SHORT, kernel_ticks(values))

    errors = (values[1:] - (values + increments)[:-1])[1000:]
    # What is left is the pull of the prior: on the attractor the features are nearly dependent.
    assert root_mean_square(errors) < 0.005 * values.std()


def test_map_of_a_higher_degree_does_not():
    values = np.full(2000, 0.3)
    for row in range(1, values.size):
        # T₅, whose leading term is 16 x⁵.
        x = values[row - 1]
        values[row] = 0.98 * (16.0 * x**5 - 20.0 * x**3 + 5.0 * x)

    _, increments = told(SHORT, kernel_ticks(values))

    errors = (values[1:] - (values + increments)[:-1])[1000:]
    assert root_mean_square(errors) > 0.1 * values.std()


def test_new_coordinates_whiten_the_delay_vectors_of_the_window_and_learn_anew():
    values = 2.0 + autoregression(np.random.default_rng(3), [1.4, -0.7], 300, 1)[:, 0]
    state, _ = told(SHORT, kernel_ticks(values))
    window = values[::-1][:WINDOW]
    change = anchors.Change(stretch=1.0, shift=0.0, gain=1.0, early=False, restart=True)

    after, increment = asked(SHORT, state, kernel_tick(window, change=change))

    vectors = np.stack([window[delay : WINDOW - 2 + delay] for delay in SHORT_EMBEDDING], axis=1)
    coordinates = (vectors - np.asarray(after.centre)) @ np.asarray(after.whitening).T
    np.testing.assert_allclose(coordinates.mean(axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(np.cov(coordinates.T, bias=True), np.eye(3), atol=1e-4)
    assert increment == 0.0
    assert float(after.regression.learned) == 0.0


def test_only_the_ticks_that_are_real_are_whitened():
    window = np.full(WINDOW, 5.0)
    window[:40] = np.random.default_rng(4).normal(size=40)
    change = anchors.Change(stretch=1.0, shift=0.0, gain=1.0, early=False, restart=True)
    tick = kernel_tick(window, change=change, accepted=40)

    after, _ = asked(SHORT, SHORT.init(PredictorConfig()), tick)

    expected = [window[delay : 38 + delay].mean() for delay in SHORT_EMBEDDING]
    np.testing.assert_allclose(after.centre, expected)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_forecast_stays_within_an_increment_of_what_the_window_has_seen(sign):
    levels = np.random.default_rng(5).normal(size=WINDOW)
    state = SHORT.init(PredictorConfig())
    regression = state.regression._replace(coefficients=state.regression.coefficients + 50.0 * sign)
    tick = kernel_tick(np.abs(levels), learn=False)

    _, increment = asked(SHORT, state._replace(regression=regression), tick)

    bound = tick.highest + 1.0 if sign > 0.0 else tick.lowest - 1.0
    assert increment == pytest.approx(float(bound))
