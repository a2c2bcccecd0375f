"""Bernstein online aggregation: simplex, regret, and what it does after a swap."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from predictor import aggregation
from tests.predictor.streams import fold


def aggregate_step(state, errors):
    weights = aggregation.weights(state)
    mixed = jnp.sum(weights * errors)
    return aggregation.learn(state, errors, mixed), (weights, mixed)


def aggregate(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights `[T, k]` before each tick and the errors `[T]` of the aggregate."""
    _, (weights, mixed) = fold(aggregate_step, aggregation.init(errors.shape[1]), errors)
    return np.asarray(weights), np.asarray(mixed)


def expert_errors(seed: int, rows: int, spread: list[float]) -> np.ndarray:
    """A common noise of unit size, and a disturbance of each expert's own."""
    random = np.random.default_rng(seed)
    own = random.normal(size=(rows, len(spread))) * np.array(spread)
    return random.normal(size=(rows, 1)) + own


def test_uniform_without_evidence():
    np.testing.assert_allclose(aggregation.weights(aggregation.init(5)), 0.2)


def test_regret_to_the_best_expert_is_small_in_a_stationary_stream():
    errors = expert_errors(1, 4000, [0.2, 0.8, 1.5, 3.0])

    _, mixed = aggregate(errors)

    best = np.min(np.mean(np.square(errors), axis=0))
    # The mixture may beat the best expert; it may lose no more than 1 % to it.
    assert np.mean(np.square(mixed)) <= 1.01 * best


def test_weight_moves_to_the_other_expert_after_a_swap():
    first, second = expert_errors(2, 1500, [0.1, 2.0]), expert_errors(3, 1500, [2.0, 0.1])

    weights, _ = aggregate(np.concatenate([first, second]))

    assert weights[1499, 0] > 0.9
    assert weights[-1, 1] > 0.9


def test_expert_that_follows_bad_readings_is_overtaken_within_ten_of_them():
    # Where a reading is off by 20, the one that says it again errs by 20 at the next, and all
    # err by as much at the reading itself.
    random = np.random.default_rng(6)
    errors = 0.3 * random.normal(size=(400, 2))
    bad = np.arange(20, 400, 40)
    errors[bad] += 20.0
    errors[bad + 1, 1] -= 20.0

    weights, _ = aggregate(errors)

    assert weights[-1, 0] > 0.9


def test_equal_experts_keep_equal_weights():
    errors = np.repeat(expert_errors(4, 500, [0.5]), 3, axis=1)

    weights, _ = aggregate(errors)

    np.testing.assert_allclose(weights, 1.0 / 3.0, rtol=1e-12)


def test_weights_equal_a_plain_transcription_of_the_algorithm():
    errors = expert_errors(5, 200, [0.2, 1.0, 2.0])
    errors[50:150:20] += 12.0
    squared, regret = np.zeros(3), np.zeros(3)

    weights, mixed = aggregate(errors)

    for row, (said, error) in enumerate(zip(mixed, errors, strict=True)):
        rate = 1.0 / np.sqrt(np.maximum(squared, 1e-12))
        share = rate * np.exp(rate * regret - np.max(rate * regret))
        np.testing.assert_allclose(weights[row], share / share.sum(), rtol=1e-8)
        # r = -2 e (x - e) from the linearised loss; a regret counts less by η r².
        bound = aggregation.ERROR_LIMIT
        part = min(1.0, bound / abs(said))
        step = -2.0 * part * said * np.clip(part * (error - said), -bound, bound)
        squared = aggregation.MEMORY * squared + aggregation.VARIANCE_FACTOR * step**2
        regret = aggregation.MEMORY * regret + step - step**2 / np.sqrt(squared)


@given(arrays.arrays(np.float64, (40, 4), elements=st.floats(-1e300, 1e300)))
def test_weights_are_on_the_simplex_whatever_the_errors(errors):
    weights, _ = aggregate(errors)

    assert np.all(weights >= 0)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-10)
