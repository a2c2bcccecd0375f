"""A bank of members: who is heard, and what becomes of one that sleeps."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from predictor import PredictorConfig
from predictor.kernels.bank import Member, bank_kernel
from tests.predictor import streams

CONFIG = PredictorConfig()
WAKES = 150


def knowing(error: float, wakes: int | None = None) -> Member:
    """A member that errs by `error` on the alternating series below; until it `wakes` it says
    something absurd."""

    def step(config, state, tick):
        del config
        after = state + 1
        said = -2.0 * tick.levels[0] + error
        return after, said if wakes is None else jnp.where(after > wakes, said, 9.0)

    awake = None if wakes is None else lambda state: state > wakes
    return Member("knowing", lambda config: jnp.zeros((), jnp.int64), step, awake=awake)


def told(members: list[Member], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights `[rows, 1 + members]` and forecasts `[rows]` along an alternating series."""
    kernel = bank_kernel("bank", members)
    values = (-1.0) ** np.arange(rows) + 0.1 * np.random.default_rng(1).normal(size=rows)

    def step(state, tick):
        after, forecast = kernel.step(CONFIG, state, tick)
        return after, (after.evidence.weights, forecast.increment)

    out = streams.fold(step, kernel.init(CONFIG), streams.kernel_ticks(values))[1]
    return tuple(np.asarray(leaf) for leaf in out)


def test_member_that_sleeps_is_not_heard_and_keeps_its_weight():
    weights, increments = told([knowing(0.5), knowing(0.0, WAKES)], WAKES)
    _, alone = told([knowing(0.5)], WAKES)

    np.testing.assert_allclose(weights[:, 2], 1.0 / 3.0)
    # Nothing of the 9 that it says: persistence and the other are heard in their proportion.
    np.testing.assert_allclose(increments[50:], alone[50:], atol=0.05)


def test_member_that_wakes_with_the_truth_is_believed_within_twenty_ticks():
    weights, _ = told([knowing(0.5), knowing(0.0, WAKES)], WAKES + 40)

    assert weights[WAKES + 20, 2] > 0.8


def test_bank_without_anyone_awake_says_persistence():
    _, increments = told([knowing(0.0, WAKES)], WAKES - 1)

    assert np.all(increments == pytest.approx(0.0))
