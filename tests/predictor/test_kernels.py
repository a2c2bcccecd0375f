"""All kernels under the shared contract, and what is peculiar to one of them."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from predictor import FunctionalPredictor, PredictorConfig
from predictor.config import Signature
from predictor.kernels import signature
from tests.predictor import streams
from tests.predictor.kernels_contract import KernelContract
from tests.predictor.kernels_contract import random_walk as random_walk


class TestKernels(KernelContract):
    pass


@pytest.mark.parametrize(
    ("depth", "words", "members"), [(2, 15, 2), (3, 21, 3), (4, 27, 4), (5, 32, 4)]
)
def test_signature_depth_sets_the_words(depth, words, members):
    config = PredictorConfig(signature=Signature(signature_depth=depth))

    state, *others = signature.KERNEL.init(config).members

    assert len(others) == members - 1
    # A constant, the level, the words, and an increment where that makes the number even.
    assert state.features.shape == (2 + words + words % 2,)


def test_deeper_words_know_a_map_that_quadratic_ones_do_not():
    values = streams.logistic_map(np.random.default_rng(10), 1000, 1)[:, 0]
    ticks = streams.kernel_ticks(values, ratio=1.0 / np.abs(np.diff(values)).mean())

    def error_at(depth: int) -> float:
        config = PredictorConfig(signature=Signature(signature_depth=depth))
        step = functools.partial(signature.KERNEL.step, config)
        _, said = streams.fold(step, signature.KERNEL.init(config), ticks)
        return streams.root_mean_square((ticks.target[1:] - said.increment[:-1])[400:])

    shallow, deep, deepest = map(error_at, (3, 4, 5))
    assert deep < 0.75 * shallow
    assert deepest < 0.75 * deep


def test_signature_alone_follows_a_law_that_changes(predictor: FunctionalPredictor):
    random = np.random.default_rng(9)
    before = streams.autoregression(random, [0.8], 1500, 8)
    after = streams.autoregression(random, [-0.7], 300, 8)
    values = np.concatenate([before, after])

    _, result = streams.run(predictor, values)

    late = slice(1600, -1)
    error = values[1601:] - result.kernel_predictions[late, :, 3]
    # The noise is one; persistence errs by 1.85.
    assert streams.root_mean_square(error) < 1.10


def test_reference_is_what_the_forecast_aims_at(predictor: FunctionalPredictor):
    values = streams.autoregression(np.random.default_rng(4), [0.5], 800, 1)

    _, result = streams.run(predictor, values, reference=values + 3.0)

    error = values[401:] + 3.0 - result.reference_prediction[400:-1]
    assert abs(error.mean()) < 0.25
    assert streams.root_mean_square(error) < 1.15
