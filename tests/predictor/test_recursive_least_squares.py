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
        # No error is beyond the limit: what is compared is least squares.
        return rls.learn(state, *tick, jnp.asarray(memory), prior, error_limit=1e9), None

    state, _ = fold(step, rls.init(prior), (features, targets))
    return state


def weighted_ridge(
    features: np.ndarray, targets: np.ndarray, prior: np.ndarray, memory: float
) -> np.ndarray:
    """Minimiser of Σ λ^(n-1-t) (y_t - x_t·β)² + λ^n β·diag(prior)·β, from the normal equations."""
    count = len(targets)
    weight = memory ** np.arange(count - 1, -1, -1)
    precision = (features * weight[:, None]).T @ features + memory**count * np.diag(prior)
    return np.linalg.solve(precision, features.T @ (weight * targets))


def inverse_of(state: rls.Regression) -> np.ndarray:
    root = np.asarray(state.root, np.float64)
    return root @ root.T


@pytest.mark.parametrize("memory", [1.0, 0.9995, 0.98, 0.9])
def test_recursion_equals_the_discounted_ridge_solution(memory):
    random = np.random.default_rng(1)
    features = random.normal(size=(400, 6))
    targets = features @ random.normal(size=6) + random.normal(size=400)
    prior = np.array([1.0, 10.0, 0.1, 1.0, 5.0, 1.0])

    state = learned(features, targets, prior, memory)

    expected = weighted_ridge(features, targets, prior, memory)
    # The root is kept in 32 bits.
    np.testing.assert_allclose(state.coefficients, expected, rtol=1e-5, atol=1e-6)


def test_root_is_that_of_the_inverse_discounted_normal_matrix():
    random = np.random.default_rng(2)
    features = random.normal(size=(300, 5))
    memory, prior = 0.99, np.full(5, 2.0)

    state = learned(features, np.zeros(300), prior, memory)

    weight = memory ** np.arange(299, -1, -1)
    precision = (features * weight[:, None]).T @ features + memory**300 * np.diag(prior)
    expected = np.linalg.inv(precision)
    np.testing.assert_allclose(inverse_of(state), expected, rtol=1e-4, atol=1e-7)


def test_nearly_dependent_features_leave_the_solution_and_its_digits():
    random = np.random.default_rng(3)
    base = random.normal(size=(3000, 1))
    features = np.hstack([base, base + 1e-4 * random.normal(size=(3000, 3))])
    targets = features @ np.array([1.0, -2.0, 3.0, 0.5]) + 0.1 * random.normal(size=3000)

    state = learned(features, targets, np.ones(4), 1.0)

    expected = weighted_ridge(features, targets, np.ones(4), 1.0)
    said, best = features @ np.asarray(state.coefficients), features @ expected
    assert np.max(np.abs(said - best)) < 1e-3


def test_wild_scales_never_make_a_coefficient_that_is_not_finite():
    random = np.random.default_rng(3)
    features = random.normal(size=(2000, 9)) * 10.0 ** random.uniform(-6, 6, size=(2000, 1))

    state = learned(features, random.normal(size=2000), np.ones(9), 0.97)

    assert np.all(np.isfinite(state.coefficients))
    assert np.all(np.isfinite(state.root))


def test_trace_never_exceeds_the_priors_without_excitation():
    features = np.zeros((5000, 4))
    features[:, 0] = 1.0

    state = learned(features, np.zeros(5000), np.ones(4), 0.98)

    # 0.98^-5000 is 1e44: without the cap the silent directions would have grown to that.
    assert float(np.trace(inverse_of(state))) <= 4 * (1 + 1e-3)


def test_the_cap_is_as_exact_after_a_long_life_as_at_its_beginning():
    random = np.random.default_rng(8)
    features = random.normal(size=(60_000, 3))
    memory, prior = 0.999, np.full(3, 0.5)

    state = learned(features, np.zeros(60_000), prior, memory)

    # Far below the cap: an error of the trace that grew by 1/λ per tick would be 1e26 by now,
    # and would have shrunk the root, or freed it from its cap.
    weight = memory ** np.arange(59_999, -1, -1)
    expected = np.linalg.inv((features * weight[:, None]).T @ features)
    np.testing.assert_allclose(inverse_of(state), expected, rtol=1e-3, atol=1e-7)


def test_error_beyond_the_limit_pulls_like_one_at_the_limit():
    random = np.random.default_rng(4)
    features = np.ones((401, 1))
    targets = random.normal(size=401)
    plain = targets.copy()
    targets[-1], plain[-1] = 1e6, targets[:-1].mean() + rls.ERROR_LIMIT * targets[:-1].std()

    def ends_at(values):
        def step(state, tick):
            return rls.learn(state, *tick, jnp.asarray(1.0), np.ones(1)), None

        return float(fold(step, rls.init(np.ones(1)), (features, values))[0].coefficients[0])

    assert ends_at(targets) == pytest.approx(ends_at(plain), abs=2e-3)


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_change_of_coordinates_leaves_every_forecast_and_every_later_lesson(levels):
    random = np.random.default_rng(5)
    features = np.hstack([np.ones((60, 1)), random.normal(size=(60, 4))])
    targets = random.normal(size=60)
    stretch, shift, gain = 0.5, 1.5, 3.0
    moved = features.copy()
    moved[:, 1 : 1 + levels] = stretch * features[:, 1 : 1 + levels] + shift
    moved[:, 1 + levels :] *= gain
    prior = np.ones(5)
    state = learned(features[:40], targets[:40], prior, 0.99)

    there = rls.transport(state, *(jnp.asarray(v) for v in (stretch, shift, gain)), levels=levels)

    for row in range(40, 60):
        here = gain * float(rls.predict(state, jnp.asarray(features[row])))
        assert float(rls.predict(there, jnp.asarray(moved[row]))) == pytest.approx(here, abs=1e-4)
        state = rls.learn(state, jnp.asarray(features[row]), targets[row], 1.0, prior, 1e9)
        there = rls.learn(
            there, jnp.asarray(moved[row]), gain * targets[row], 1.0, 1e-3 * prior, 1e9
        )


def test_no_forgetting_from_no_data_predicts_the_prior_mean():
    state = rls.init(np.ones(3))

    assert float(rls.predict(state, jnp.asarray([1.0, 2.0, 3.0]))) == 0.0
