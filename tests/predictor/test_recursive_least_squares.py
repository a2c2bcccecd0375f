"""Recursive least squares against the batch solution, and its numerical invariants."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from predictor import recursive_least_squares as rls
from tests.predictor.streams import fold


def learned(
    features: np.ndarray, targets: np.ndarray, prior: np.ndarray, memory: float
) -> rls.Regression:
    def step(state, tick):
        return rls.learn(state, *tick, jnp.asarray(memory)), None

    state, _ = fold(step, rls.init(jnp.asarray(prior)), (features, targets))
    return state


def weighted_ridge(
    features: np.ndarray, targets: np.ndarray, prior: np.ndarray, memory: float
) -> np.ndarray:
    """Minimiser of Σ λ^(n-1-t) (y_t - x_t·β)² + λ^n β·diag(prior)·β, from the normal equations."""
    count = len(targets)
    weight = memory ** np.arange(count - 1, -1, -1)
    precision = (features * weight[:, None]).T @ features + memory**count * np.diag(prior)
    return np.linalg.solve(precision, features.T @ (weight * targets))


@pytest.mark.parametrize("memory", [1.0, 0.9995, 0.98, 0.9])
def test_recursion_equals_the_discounted_ridge_solution(memory):
    random = np.random.default_rng(1)
    features = random.normal(size=(400, 6))
    targets = features @ random.normal(size=6) + random.normal(size=400)
    prior = np.array([1.0, 10.0, 0.1, 1.0, 5.0, 1.0])

    state = learned(features, targets, prior, memory)

    expected = weighted_ridge(features, targets, prior, memory)
    np.testing.assert_allclose(state.coefficients, expected, rtol=1e-9)


def test_covariance_is_the_inverse_of_the_discounted_normal_matrix():
    random = np.random.default_rng(2)
    features = random.normal(size=(300, 5))
    memory, prior = 0.99, np.full(5, 2.0)

    state = learned(features, np.zeros(300), prior, memory)

    weight = memory ** np.arange(299, -1, -1)
    precision = (features * weight[:, None]).T @ features + memory**300 * np.diag(prior)
    np.testing.assert_allclose(state.covariance, np.linalg.inv(precision), rtol=1e-9)


def test_covariance_stays_symmetric_to_the_last_bit():
    random = np.random.default_rng(3)
    features = random.normal(size=(2000, 9)) * 10.0 ** random.uniform(-6, 6, size=(2000, 1))

    state = learned(features, random.normal(size=2000), np.ones(9), 0.97)

    covariance = np.asarray(state.covariance)
    assert np.array_equal(covariance, covariance.T)


def test_cap_on_the_trace_bounds_wind_up_without_excitation():
    features = np.zeros((5000, 4))
    features[:, 0] = 1.0

    state = learned(features, np.zeros(5000), np.ones(4), 0.98)

    # 0.98^-5000 is 1e44: without the cap the silent directions would have grown to that.
    assert float(np.trace(state.covariance)) <= 4 * rls.TRACE_CAP * (1 + 1e-12)


def test_first_noisy_value_after_silence_moves_a_coefficient_by_a_bounded_step():
    features = np.zeros((3001, 2))
    features[:, 0] = 1.0
    features[-1, 1] = 1e-9
    targets = np.zeros(3001)
    targets[-1] = 1.0

    state = learned(features, targets, np.ones(2), 0.99)

    # Kalman gain P x / (λ + x·P·x) ≤ 2e6 · 1e-9 / λ at the cap of the trace.
    assert abs(float(state.coefficients[1])) < 2.1e-3


def test_no_forgetting_from_no_data_predicts_the_prior_mean():
    state = rls.init(jnp.ones(3))

    assert float(rls.predict(state, jnp.asarray([1.0, 2.0, 3.0]))) == 0.0
