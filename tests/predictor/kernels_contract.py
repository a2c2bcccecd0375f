"""What every kernel must keep, whatever its mathematics; run by `test_kernels.py`.

To hold a new kernel to it, list the kernel in `predictor.kernels` and its claim in `CLAIMS`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from predictor import FunctionalPredictor, PredictionResult, PredictorConfig, anchors
from predictor.config import WINDOW
from predictor.kernels import KERNEL_MODULES
from predictor.kernels.base import Kernel, KernelTick
from predictor.types import KERNEL_NAMES
from tests.predictor import streams

ROWS, LANES, SETTLED = 1200, 4, 400
CONFIG = PredictorConfig()

Make = Callable[[np.random.Generator], np.ndarray]

CLAIMS: dict[str, dict[str, tuple[Make, float]]] = {
    "hilbert": {
        "logistic map": (lambda r: streams.logistic_map(r, ROWS, LANES), 0.05),
        "oscillating AR(2)": (
            lambda r: streams.autoregression(r, [1.2, -0.7], ROWS, LANES),
            0.80,
        ),
    },
    "markov": {
        "mean reversion": (lambda r: streams.autoregression(r, [0.6], ROWS, LANES), 0.92),
        "double well": (lambda r: streams.bistable(r, ROWS, LANES), 1.0),
    },
    "levy": {
        "local level": (lambda r: streams.local_level(r, ROWS, LANES), 0.81),
        "level shifts": (lambda r: streams.level_shifts(r, ROWS, LANES), 0.87),
    },
    "signature": {
        "fractional noise": (lambda r: streams.fractional_noise(r, 0.8, ROWS, LANES), 0.95),
        "noisy sine": (lambda r: streams.noisy_sine(r, ROWS, LANES), 0.85),
    },
}
"""Per kernel: series that it is for, and the RMSE over persistence that it must reach."""

each_kernel = pytest.mark.parametrize("kernel", KERNEL_MODULES, ids=lambda kernel: kernel.name)


@functools.lru_cache(maxsize=8)
def compiled(kernel: Kernel) -> Any:
    return streams.compiled(functools.partial(kernel.step, CONFIG))


def some_tick(seed: int, learn: bool = True) -> KernelTick:
    levels = np.random.default_rng(seed).normal(size=WINDOW)
    return streams.kernel_tick(levels, learn=learn, accepted=100 + seed)


def drawn_change(data: st.DataObject) -> anchors.Change:
    factor = st.floats(0.05, 20.0)
    return anchors.Change(
        stretch=jnp.asarray(data.draw(factor)),
        shift=jnp.asarray(data.draw(st.floats(-50.0, 50.0))),
        gain=jnp.asarray(data.draw(factor)),
        early=jnp.asarray(False),
        restart=jnp.asarray(data.draw(st.booleans())),
    )


def taught(kernel: Kernel, ticks: int = 30) -> Any:
    state = kernel.init(CONFIG)
    for seed in range(ticks):
        state, _ = compiled(kernel)(state, some_tick(seed))
    return state


def same_bits(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


class KernelContract:
    """Deterministic, silent where it may not learn, finite, and never far below persistence."""

    @each_kernel
    def test_same_ticks_give_the_same_bits(self, kernel):
        assert same_bits(taught(kernel), taught(kernel))

    @each_kernel
    def test_fresh_kernel_says_persistence_and_is_not_ready(self, kernel):
        tick = some_tick(0)._replace(accepted=jnp.asarray(1, jnp.int64), learn=jnp.asarray(False))

        _, forecast = compiled(kernel)(kernel.init(CONFIG), tick)

        assert not bool(forecast.ready)
        assert abs(float(forecast.increment)) <= abs(float(tick.target))

    @each_kernel
    def test_ticks_that_may_not_be_learned_leave_what_is_said_of_the_same_past(self, kernel):
        silent = {"learn": jnp.asarray(False)}
        question = some_tick(50)._replace(**silent)
        state = taught(kernel)
        _, before = compiled(kernel)(state, question)

        for seed in range(60, 70):
            wild = some_tick(seed)._replace(target=jnp.asarray(50.0), **silent)
            state, _ = compiled(kernel)(state, wild)

        _, after = compiled(kernel)(state, question)
        np.testing.assert_allclose(before.increment, after.increment, rtol=1e-12, atol=1e-12)

    @each_kernel
    @given(data=st.data())
    def test_bounded_input_never_makes_a_number_that_is_not_finite(self, kernel, data):
        inside = st.floats(-50.0, 50.0)
        state = kernel.init(CONFIG)

        for _ in range(6):
            increments = data.draw(arrays.arrays(np.float64, WINDOW - 1, elements=inside))
            tick = some_tick(1)._replace(
                levels=jnp.asarray(data.draw(arrays.arrays(np.float64, WINDOW, elements=inside))),
                increments=jnp.asarray(increments),
                target=jnp.asarray(data.draw(inside)),
                ratio=jnp.asarray(data.draw(st.floats(0.5, 100.0))),
                lowest=-jnp.asarray(data.draw(st.floats(0.0, 50.0))),
                highest=jnp.asarray(data.draw(st.floats(0.0, 50.0))),
                change=drawn_change(data),
            )
            state, forecast = compiled(kernel)(state, tick)
            assert np.isfinite(forecast.increment)

        # NaN in a state means "not known yet", infinity would be a number gone wild.
        assert not any(np.any(np.isinf(leaf)) for leaf in jax.tree.leaves(state))

    def test_forecasts_scale_with_the_series(self, predictor: FunctionalPredictor):
        values = streams.local_level(np.random.default_rng(1), 300, LANES)

        _, plain = streams.run(predictor, values)
        _, scaled = streams.run(predictor, 1000.0 * values)

        expected = 1000.0 * plain.kernel_predictions
        np.testing.assert_allclose(scaled.kernel_predictions, expected, rtol=1e-7, atol=1e-6)

    @each_kernel
    def test_random_walk_costs_next_to_nothing_over_persistence(self, kernel, random_walk):
        values, result = random_walk

        index = KERNEL_NAMES.index(kernel.name)

        said = result.kernel_predictions[..., index]
        assert streams.skill(said, values, SETTLED) < 1.01

    @pytest.mark.parametrize(
        ("name", "process"), [(name, process) for name in CLAIMS for process in CLAIMS[name]]
    )
    def test_claimed_process_is_forecast_better_than_by_persistence(
        self, name, process, predictor: FunctionalPredictor
    ):
        make, limit = CLAIMS[name][process]
        values = make(np.random.default_rng(11))

        _, result = streams.run(predictor, values)

        said = result.kernel_predictions[..., KERNEL_NAMES.index(name)]
        assert streams.skill(said, values, SETTLED) < limit

    def test_every_kernel_has_its_claims(self):
        assert tuple(CLAIMS) == KERNEL_NAMES
        assert tuple(kernel.name for kernel in KERNEL_MODULES) == KERNEL_NAMES
        assert all(CLAIMS.values())


@pytest.fixture(scope="session")
def random_walk(predictor: FunctionalPredictor) -> tuple[np.ndarray, PredictionResult]:
    values = np.cumsum(np.random.default_rng(12).normal(size=(ROWS, LANES)), axis=0)
    return values, streams.run(predictor, values)[1]
