"""Run the predictor over the scenarios and score it against what was knowable."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import jax.numpy as jnp
import numpy as np

from predictor import FunctionalPredictor, Observation, PredictionResult, PredictorConfig, step
from predictor.functional import _compiled
from predictor.kernels import KERNEL_MODULES, markov
from predictor.kernels.bank import Member, bank_kernel
from predictor.kernels.base import Kernel, KernelForecast, KernelTick
from predictor.tile import tile_of
from predictor.types import KERNEL_NAMES
from tests.quality.processes import SCENARIOS, Truth

START, SECOND = 1_700_000_000_000_000_000, 1_000_000_000
Array = np.ndarray

MISS = 2.0 / 0.05
"""What the Winkler score adds per unit by which an interval of 95 % is missed."""


@dataclass(frozen=True)
class Size:
    """Ticks per series, series per scenario, and the ticks before the scoring begins."""

    rows: int
    lanes: int
    settled: int = 500


TEST_SIZE = Size(rows=1500, lanes=8)
FULL_SIZE = Size(rows=4000, lanes=32)


@dataclass(frozen=True)
class Score:
    """Means over a scenario, after it has settled; `start_over_best` on ticks 20 to 99."""

    over_best: float
    over_persistence: float
    over_autoregression: float
    over_best_kernel: float
    start_over_best: float
    coverage: float
    width_over_exact: float
    winkler_over_exact: float
    alarms_per_thousand: float


def root_mean_square(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def winkler(lower: Array, upper: Array, target: Array) -> float:
    """Mean interval score: width, and the misses at their price (Winkler 1972)."""
    missed = np.maximum(lower - target, 0.0) + np.maximum(target - upper, 0.0)
    return float(np.mean(upper - lower + MISS * missed))


AUTOREGRESSION_ORDER, AUTOREGRESSION_MEMORY = 8, 0.9995


def autoregression(values: Array) -> Array:
    """What AR(8) with an intercept says of the next value `[rows, lanes]`, by recursive least
    squares with forgetting, in the covariance form of the textbooks."""
    rows, lanes = values.shape
    size = AUTOREGRESSION_ORDER + 1
    coefficients = np.zeros((lanes, size))
    covariance = np.tile(1e4 * np.eye(size), (lanes, 1, 1))
    features = np.zeros((lanes, size))
    said = values.copy()
    for row in range(AUTOREGRESSION_ORDER - 1, rows):
        if row >= AUTOREGRESSION_ORDER:
            error = values[row] - said[row - 1]
            projected = np.einsum("nij,nj->ni", covariance, features)
            norm = AUTOREGRESSION_MEMORY + np.sum(features * projected, axis=1)
            gain = projected / norm[:, None]
            coefficients = coefficients + gain * error[:, None]
            covariance = covariance - gain[:, :, None] * projected[:, None, :]
            covariance = covariance / AUTOREGRESSION_MEMORY
        lags = values[row - AUTOREGRESSION_ORDER + 1 : row + 1][::-1].T
        features = np.concatenate([np.ones((lanes, 1)), lags], axis=1)
        said[row] = np.sum(coefficients * features, axis=1)
    return said


def scored(truth: Truth, result: PredictionResult, settled: int) -> Score:
    """Compare forecasts with the value that followed each of them."""
    target, best, half = truth.values[1:], truth.best[:-1], truth.half_width[:-1]
    error = target - result.reference_prediction[:-1]
    lower = np.asarray(result.confidence_lower)[:-1]
    upper = np.asarray(result.confidence_upper)[:-1]
    of_autoregression = target - autoregression(truth.values)[:-1]
    of_kernels = target[:, :, None] - result.kernel_predictions[:-1]
    late, early = slice(settled, None), slice(20, 100)
    rmse = root_mean_square(error[late])
    inside = (lower <= target) & (target <= upper)
    exact = winkler((best - half)[late], (best + half)[late], target[late])
    return Score(
        over_best=rmse / root_mean_square((target - best)[late]),
        over_persistence=rmse / root_mean_square(np.diff(truth.values, axis=0)[late]),
        over_autoregression=rmse / root_mean_square(of_autoregression[late]),
        over_best_kernel=rmse
        / min(root_mean_square(of_kernels[late, :, kernel]) for kernel in range(4)),
        start_over_best=root_mean_square(error[early]) / root_mean_square((target - best)[early]),
        coverage=float(inside[late].mean()),
        width_over_exact=float((upper - lower)[late].mean() / (2.0 * half[late].mean())),
        winkler_over_exact=winkler(lower[late], upper[late], target[late]) / exact,
        alarms_per_thousand=1000.0 * float(result.regime_change_detected[late].mean()),
    )


def run(size: Size, seed: int = 0, config: PredictorConfig | None = None) -> dict[str, Score]:
    """All scenarios side by side, in one batch."""
    truths = [
        scenario.process(np.random.default_rng([1000 + seed, number]), size.rows, size.lanes)
        for number, scenario in enumerate(SCENARIOS.values())
    ]
    values = np.concatenate([truth.values for truth in truths], axis=1)
    times = np.broadcast_to(START + SECOND * np.arange(size.rows)[:, None], values.shape)
    predictor = FunctionalPredictor(config)
    states = predictor.init_states(values.shape[1])
    _, result = predictor.scan_batch(states, Observation(values, times))
    out = {}
    for number, (name, truth) in enumerate(zip(SCENARIOS, truths, strict=True)):
        lanes = slice(number * size.lanes, (number + 1) * size.lanes)
        part = PredictionResult(*(leaf[:, lanes] for leaf in result))
        out[name] = scored(truth, part, size.settled)
    return out


PARTS = (*KERNEL_NAMES, "value function")
"""What can be left out: a kernel, or the deep Galerkin solution as a member of markov."""


@contextlib.contextmanager
def without(name: str) -> Iterator[None]:
    """The predictor with one of the `PARTS` silent: it says persistence and learns nothing."""
    if name == "value function":
        spoken = markov.KERNEL
        silent = bank_kernel(
            "markov",
            [_silent(each) if each.name == "value_function" else each for each in markov.MEMBERS],
        )
    else:
        spoken = next(kernel for kernel in KERNEL_MODULES if kernel.name == name)

        def say_nothing(
            config: PredictorConfig, state: Any, tick: KernelTick
        ) -> tuple[Any, KernelForecast]:
            return state, KernelForecast(jnp.zeros(()), jnp.asarray(False), jnp.asarray(jnp.nan))

        silent = Kernel(name, spoken.init, say_nothing)
    modules = tuple(silent if each is spoken else each for each in KERNEL_MODULES)
    _forget_programs()
    with mock.patch.object(step, "KERNEL_MODULES", modules):
        yield
    _forget_programs()


def _silent(member: Member) -> Member:
    return member._replace(step=lambda config, state, tick: (state, jnp.zeros(())))


def _forget_programs() -> None:
    _compiled.cache_clear()
    tile_of.cache_clear()
