"""The part of each kernel in the cost of a tick and in the state of an asset."""

from __future__ import annotations

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pipeline.config import Config
from predictor.anchors import unchanged
from predictor.config import ROUNDS, WINDOW, PredictorConfig
from predictor.kernels import KERNEL_MODULES
from predictor.kernels.base import Kernel, KernelTick

EXPERIENCED = 1000
"""Accepted ticks that the kernels are told of, so that nothing in them is still asleep."""


class KernelCost(NamedTuple):
    """A kernel by itself, over one tile: processor time per tick, bytes of its state."""

    kernel: str
    core_us_per_tick: float
    state_bytes: int


def measure_kernels(config: Config, seconds_per_case: float) -> list[KernelCost]:
    """Time every kernel alone on random walks, state kept on the device.

    The parts do not add up to the whole: in the step the compiler shares work between kernels,
    and gates, monitors, fusion, interval and the moving of states come on top.
    """
    return [_cost(kernel, config, seconds_per_case) for kernel in KERNEL_MODULES]


def _cost(kernel: Kernel, config: Config, seconds: float) -> KernelCost:
    tile = config.device.tile
    fresh = kernel.init(config.predictor)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(jax.tree.map(jnp.asarray, fresh)))
    state = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (tile, *jnp.shape(leaf))), fresh)
    rng = np.random.default_rng(config.seed)

    def walks() -> np.ndarray:
        # New ones each time: what a kernel learns from the same few ticks for ever is degenerate.
        steps = rng.standard_normal((tile, WINDOW + ROUNDS))
        return np.ascontiguousarray(np.cumsum(steps, axis=1)[:, ::-1])

    compiled = jax.jit(functools.partial(_rounds, kernel, config.predictor))
    state, _ = jax.block_until_ready(compiled(state, walks()))
    used: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(used) < 3 or time.perf_counter() < deadline:
        fresh_walks = walks()
        before = time.process_time()
        state, _ = jax.block_until_ready(compiled(state, fresh_walks))
        used.append(time.process_time() - before)
    per_tick = 1e6 / (tile * ROUNDS)
    return KernelCost(kernel.name, round(float(np.median(used)) * per_tick, 2), size)


def _rounds(kernel: Kernel, config: PredictorConfig, state: Any, walks: Any) -> tuple[Any, Any]:
    step = functools.partial(_step, kernel, config)

    def body(index: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        state, total = carry
        start = ROUNDS - 1 - index
        windows = jax.lax.dynamic_slice_in_dim(walks, start, WINDOW + 1, axis=1)
        state, increments = jax.vmap(step)(state, windows)
        return state, total + increments

    return jax.lax.fori_loop(0, ROUNDS, body, (state, jnp.zeros(walks.shape[0])))


def _step(kernel: Kernel, config: PredictorConfig, state: Any, walk: Any) -> tuple[Any, Any]:
    """One lane whose walk `[WINDOW + 1]`, newest first, moves by one unit per tick."""
    one = jnp.ones(())
    over_present = walk[:WINDOW] - walk[0]
    tick = KernelTick(
        levels=over_present / jnp.sqrt(WINDOW),
        increments=walk[: WINDOW - 1] - walk[1:WINDOW],
        target=walk[0] - walk[1],
        change=unchanged(),
        ratio=jnp.sqrt(one * WINDOW),
        lowest=jnp.min(over_present),
        highest=jnp.max(over_present),
        holder_exponent=0.5 * one,
        volatility=one,
        regime=jnp.asarray(False),
        learn=jnp.asarray(True),
        accepted=jnp.asarray(EXPERIENCED),
        position=jnp.asarray(EXPERIENCED),
    )
    state, forecast = kernel.step(config, state, tick)
    return state, forecast.increment
