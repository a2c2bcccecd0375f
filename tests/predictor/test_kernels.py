"""All kernels under the shared contract, and what is peculiar to one of them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from predictor import FunctionalPredictor, PredictorConfig
from predictor.config import Signature
from predictor.kernels import hilbert, levy, markov, signature
from tests.predictor import streams
from tests.predictor.kernels_contract import CONFIG, KernelContract, compiled, some_tick
from tests.predictor.kernels_contract import random_walk as random_walk


class TestKernels(KernelContract):
    pass


def test_hilbert_has_all_monomials_up_to_degree_three_and_five_lags():
    # C(3 + 3, 3) = 20 monomials with the constant.
    assert hilbert.features(some_tick(1)).shape == (20 + 5,)


def test_markov_sees_the_present_level_only():
    tick = some_tick(1)
    other = some_tick(2)._replace(levels=some_tick(2).levels.at[0].set(tick.levels[0]))

    assert np.array_equal(markov.features(tick), markov.features(other))


@pytest.mark.parametrize(("depth", "words"), [(2, 15), (3, 21)])
def test_signature_depth_sets_the_number_of_words(depth, words):
    config = PredictorConfig(signature=Signature(signature_depth=depth))

    state = signature.KERNEL.init(config)

    assert state.features.shape == (words + 2,)


def levels_after(increments: list[float]) -> np.ndarray:
    """Levels of the levy filters, counted from the start, after these increments."""
    state = levy.KERNEL.init(CONFIG)
    calm = np.random.default_rng(3).normal(size=100)
    position = 0.0
    for increment in [*np.diff(calm, prepend=0.0), *increments]:
        position += increment
        tick = some_tick(1)._replace(target=jnp.asarray(increment), moved=jnp.asarray(increment))
        state, _ = compiled(levy.KERNEL)(state, tick)
    return np.asarray(state.offsets) + position


def test_jump_that_is_kept_restarts_the_levels_at_the_new_one():
    np.testing.assert_allclose(levels_after([30.0, 0.5]), levels_after([30.0, 0.5])[0])
    assert np.all(np.abs(levels_after([30.0, 0.5]) - 30.0) < 5.0)


def test_jump_that_is_taken_back_leaves_the_levels_near_the_old_one():
    assert np.all(np.abs(levels_after([30.0, -30.0])) < 4.0)


def test_levels_average_after_a_restart_until_their_gain_is_reached():
    slowest = levels_after([30.0, 1.0, 1.0, 1.0])[0]

    start = levels_after([30.0])[0] * 0.0 + np.random.default_rng(3).normal(size=100)[-1] + 30.0
    assert slowest == pytest.approx(start + np.mean([0.0, 1.0, 2.0, 3.0]), abs=1e-9)


def test_level_follows_the_reference_while_the_series_moves_elsewhere():
    state = levy.KERNEL.init(CONFIG)
    for seed in range(400):
        # The value returns to zero at each tick, the reference is one above it.
        moved = np.random.default_rng(seed).normal(scale=0.1)
        tick = some_tick(seed)._replace(target=jnp.asarray(moved + 1.0), moved=jnp.asarray(moved))
        state, forecast = compiled(levy.KERNEL)(state, tick)

    assert float(forecast.increment) == pytest.approx(1.0, abs=0.4)


def test_reference_is_what_the_forecast_aims_at(predictor: FunctionalPredictor):
    values = streams.autoregression(np.random.default_rng(4), [0.5], 800, 1)

    _, result = streams.run(predictor, values, reference=values + 3.0)

    error = values[401:] + 3.0 - result.reference_prediction[400:-1]
    assert abs(error.mean()) < 0.25
    assert streams.root_mean_square(error) < 1.15
