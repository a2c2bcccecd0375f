"""Series with known laws, and short ways to run them through the core."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg

from predictor import (
    FunctionalPredictor,
    Observation,
    PredictionResult,
    PredictorConfig,
    anchors,
    gates,
)
from predictor.config import WINDOW
from predictor.kernels.bank import Member
from predictor.kernels.base import KernelTick
from predictor.packing import layout_of, pack
from predictor.state import LaneState, init_lane
from predictor.types import Events

TILE = 8
PIECE = 100
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND

Host = np.ndarray[Any, Any]


class Compilations:
    """How many programs the backend compiled since the last `restart`."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def restart(self) -> None:
        self.count = 0

    def _hear(self, event: str, duration: float, **details: Any) -> None:
        del duration, details
        self.count += event.endswith("backend_compile_duration")


def clock(rows: int, spacing: int = SECOND, start: int = START) -> Host:
    """A regular grid of event times."""
    return start + spacing * np.arange(rows, dtype=np.int64)


def as_lanes(values: Any) -> Host:
    """`[T]` as `[T, 1]`; `[T, n]` as it is."""
    array = np.asarray(values, np.float64)
    return array[:, None] if array.ndim == 1 else array


def run(
    predictor: FunctionalPredictor, values: Any, times: Host | None = None, **optional: Any
) -> tuple[LaneState, PredictionResult]:
    """Fresh lanes over `values` `[T]` or `[T, n]`, by default one tick a second."""
    values = as_lanes(values)
    rows, lanes = values.shape
    stamps = clock(rows) if times is None else np.asarray(times)
    stamps = np.broadcast_to(stamps.reshape(rows, -1), (rows, lanes))
    return predictor.scan_batch(
        predictor.init_states(lanes), Observation(values, stamps, **optional)
    )


def kernel_tick(levels: Any, **changes: Any) -> KernelTick:
    """What a kernel is told of a window `[WINDOW]`, newest first, in units of one increment."""
    levels = np.asarray(levels, np.float64)
    increments = levels[:-1] - levels[1:]
    tick = KernelTick(
        levels=jnp.asarray(levels),
        increments=jnp.asarray(increments),
        target=jnp.asarray(increments[0]),
        change=anchors.unchanged(),
        ratio=jnp.ones(()),
        lowest=jnp.asarray(levels.min() - levels[0]),
        highest=jnp.asarray(levels.max() - levels[0]),
        holder_exponent=jnp.asarray(0.5),
        volatility=jnp.ones(()),
        regime=jnp.asarray(False),
        learn=jnp.asarray(True),
        accepted=jnp.asarray(1000, jnp.int64),
        position=jnp.asarray(1000, jnp.int64),
    )
    arrays = {name: jax.tree.map(jnp.asarray, value) for name, value in changes.items()}
    return tick._replace(**arrays)


def kernel_ticks(values: Any, ratio: float = 1.0) -> KernelTick:
    """What a kernel is told of a series `[T]`, `[T, ...]`, in coordinates that stand still: levels
    are the values, and an increment is `ratio` times their difference."""
    values = np.asarray(values, np.float64)
    rows = values.size
    places = np.maximum(np.arange(rows)[:, None] - np.arange(WINDOW + 1)[None, :], 0)
    levels = values[places]
    increments = ratio * (levels[:, :-1] - levels[:, 1:])
    count = np.arange(1, rows + 1, dtype=np.int64)
    return KernelTick(
        levels=levels[:, :-1],
        increments=increments[:, :-1],
        target=increments[:, 0],
        change=jax.tree.map(lambda leaf: np.repeat(leaf, rows), anchors.unchanged()),
        ratio=np.full(rows, ratio),
        lowest=ratio * (levels.min(axis=1) - values),
        highest=ratio * (levels.max(axis=1) - values),
        holder_exponent=np.full(rows, 0.5),
        volatility=np.ones(rows),
        regime=np.zeros(rows, bool),
        learn=count > 1,
        accepted=count,
        position=count,
    )


@functools.lru_cache(maxsize=32)
def _member_step(member: Member, config: PredictorConfig) -> Callable[[Any, Any], tuple[Any, Any]]:
    return functools.partial(member.step, config)


def told(member: Member, ticks: KernelTick) -> tuple[Any, Host]:
    """A member's state after the ticks, and the increments `[T]` that it forecast."""
    config = PredictorConfig()
    return fold(_member_step(member, config), member.init(config), ticks)


@functools.lru_cache(maxsize=32)
def _compiled_step(member: Member, config: PredictorConfig) -> Callable[..., tuple[Any, Any]]:
    return compiled(_member_step(member, config))


def asked(member: Member, state: Any, tick: KernelTick) -> tuple[Any, float]:
    """A member's state after one more tick, and the increment that it forecast."""
    after, increment = _compiled_step(member, PredictorConfig())(state, tick)
    return after, float(increment)


def ticks_with(result: PredictionResult, event: Events, lane: int = 0) -> list[int]:
    """Rows at which `event` happened."""
    return [int(row) for row in np.flatnonzero(result.events[:, lane] & event)]


@functools.lru_cache(maxsize=4)
def _packer(config: PredictorConfig) -> Callable[[LaneState], Any]:
    with jax.enable_x64(True):
        layout = layout_of(jax.eval_shape(lambda: init_lane(config)))
    return jax.jit(functools.partial(pack, layout))


def words(predictor: FunctionalPredictor, states: LaneState) -> Host:
    """States as rows of bits."""
    return np.asarray(_packer(predictor.config)(states))


def bits_of(result: PredictionResult) -> list[bytes]:
    """Every field as its bytes, so that NaN equals NaN and 0 differs from -0."""
    return [np.ascontiguousarray(leaf).tobytes() for leaf in result]


def lanes_of(result: PredictionResult, lanes: Any) -> PredictionResult:
    """The columns of some lanes."""
    picked: PredictionResult = jax.tree.map(lambda leaf: leaf[:, lanes], result)
    return picked


def repeated(lane: Any, count: int) -> Any:
    """A tree without lane axis, `count` times."""
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * count), lane)


def fold(step: Callable[[Any, Any], tuple[Any, Any]], state: Any, inputs: Any) -> tuple[Any, Any]:
    """Fold `step` over the leading axis of `inputs`.

    Compiled are a loop of a hundred rounds and one of a single round, which inputs of any length
    share.
    """
    rows, told = len(jax.tree.leaves(inputs)[0]), []
    whole = rows - rows % PIECE
    for first, last in itertools.pairwise([*range(0, whole, PIECE), *range(whole, rows + 1)]):
        piece = jax.tree.map(lambda leaf, rows=slice(first, last): leaf[rows], inputs)
        state, said = _fold(step, *_firmly_typed((state, piece)))
        told.append(jax.tree.map(np.asarray, said))
    return state, jax.tree.map(lambda *leaves: np.concatenate(leaves), *told)


@functools.partial(jax.jit, static_argnames="step")
def _fold(step: Callable[[Any, Any], tuple[Any, Any]], state: Any, inputs: Any) -> tuple[Any, Any]:
    return jax.lax.scan(step, state, inputs)


def compiled(step: Callable[..., Any]) -> Callable[..., Any]:
    """`step` compiled, once for all arguments of the same shapes."""
    program = jax.jit(step)
    return lambda *arguments: program(*_firmly_typed(arguments))


def _firmly_typed(tree: Any) -> Any:
    # What was made of a Python number has a weak type, for which another program is compiled.
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.asarray(leaf).dtype), tree)


class GateTrace(NamedTuple):
    """The verdicts of a stream, `[T]` each, with the state after it."""

    verdict: gates.Verdict
    state: gates.GateState


@functools.lru_cache(maxsize=8)
def _gate_step(config: PredictorConfig) -> Callable[[Any, Any], tuple[Any, Any]]:
    def step(carry: Any, tick: Any) -> tuple[Any, Any]:
        state, accepted, answered = carry
        state, verdict = gates.apply(config, state, accepted, answered, *tick)
        believed = ~verdict.refused & ~verdict.rejected
        return (state, accepted + believed, answered + ~verdict.refused), verdict

    return step


def judge(config: PredictorConfig, values: Any, times: Any = None, now: Any = None) -> GateTrace:
    """Verdicts of the gates alone over one series."""
    values = np.asarray(values, np.float64)
    times = clock(values.size) if times is None else np.asarray(times, np.int64)
    now = times if now is None else np.asarray(now, np.int64)
    count = jnp.zeros((), jnp.int64)
    start = (gates.init(), count, count)
    carry, verdicts = fold(_gate_step(config), start, (values, times, now))
    return GateTrace(verdicts, carry[0])


def rows_where(flags: Any) -> list[int]:
    """Indices of the set flags."""
    return [int(row) for row in np.flatnonzero(flags)]


def autoregression(
    random: np.random.Generator, coefficients: list[float], rows: int, lanes: int
) -> Host:
    """A stationary autoregression with unit innovations, `[rows, lanes]`."""
    burn = 500
    noise = random.normal(size=(rows + burn, lanes))
    values = np.zeros_like(noise)
    for row in range(len(coefficients), rows + burn):
        past = values[row - len(coefficients) : row][::-1]
        values[row] = noise[row] + np.tensordot(coefficients, past, 1)
    return values[burn:]


def bistable(random: np.random.Generator, rows: int, lanes: int) -> Host:
    """Euler chain of the double well dx = (x - x³) dt + .5 dW at dt = .2."""
    values = np.ones((rows, lanes))
    noise = 0.5 * np.sqrt(0.2) * random.normal(size=(rows, lanes))
    for row in range(1, rows):
        x = values[row - 1]
        values[row] = x + 0.2 * (x - x**3) + noise[row]
    return values


def logistic_map(random: np.random.Generator, rows: int, lanes: int) -> Host:
    """x ← 3.9 x (1 - x) from random starts."""
    values = np.empty((rows, lanes))
    values[0] = random.uniform(0.2, 0.8, size=lanes)
    for row in range(1, rows):
        values[row] = 3.9 * values[row - 1] * (1.0 - values[row - 1])
    return values


def local_level(random: np.random.Generator, rows: int, lanes: int, drift: float = 0.2) -> Host:
    """A random walk of step `drift` under unit noise."""
    level = np.cumsum(drift * random.normal(size=(rows, lanes)), axis=0)
    return level + random.normal(size=(rows, lanes))


def level_shifts(random: np.random.Generator, rows: int, lanes: int) -> Host:
    """Levels of spread 5 that hold for 100 ticks, under unit noise."""
    levels = 5.0 * random.normal(size=(-(-rows // 100), lanes))
    return np.repeat(levels, 100, axis=0)[:rows] + random.normal(size=(rows, lanes))


def fractional_noise(random: np.random.Generator, exponent: float, rows: int, lanes: int) -> Host:
    """Stationary fractional Gaussian noise, exact by the Cholesky factor of its covariance."""
    lag = np.arange(rows, dtype=float)
    power = 2.0 * exponent
    covariance = 0.5 * ((lag + 1) ** power - 2 * lag**power + np.abs(lag - 1) ** power)
    factor = np.linalg.cholesky(linalg.toeplitz(covariance))
    return factor @ random.normal(size=(rows, lanes))


def noisy_sine(random: np.random.Generator, rows: int, lanes: int) -> Host:
    """A slow wave of amplitude 3 under noise of .5."""
    phase = random.uniform(0.0, 2.0 * np.pi, size=lanes)
    time = np.arange(rows)[:, None]
    return 3.0 * np.sin(2.0 * np.pi * time / 40.0 + phase) + 0.5 * random.normal(size=(rows, lanes))


def root_mean_square(values: Any) -> float:
    """√ mean of squares."""
    return float(np.sqrt(np.mean(np.square(values))))


def skill(forecasts: Host, values: Host, after: int) -> float:
    """RMSE of one-step forecasts over that of persistence, once `after` ticks have passed."""
    error = values[after + 1 :] - forecasts[after:-1]
    return root_mean_square(error) / root_mean_square(np.diff(values[after:], axis=0))
