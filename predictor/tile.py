"""The one loop that every inference runs: up to `ROUNDS` ticks per lane over one tile.

Library and worker call this function and no other, with the same shapes. Its body is then
one computation of the compiled program, whatever stands around it, and the same ticks give
the same bits however they are cut into calls.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from predictor.config import ROUNDS, PredictorConfig, Tunables, bind
from predictor.state import LaneState
from predictor.step import step_lane
from predictor.types import Array, LaneTick, PredictionResult


@functools.lru_cache(maxsize=8)
def _batch_step(structure: PredictorConfig) -> Any:
    """The step of all lanes of a tile, as a function of its own: whoever asks for its shapes or
    calls it in a loop shares one trace, and tracing is most of a warm start."""

    def batch_step(
        values: Tunables, states: LaneState, ticks: LaneTick
    ) -> tuple[LaneState, PredictionResult]:
        config = bind(structure, values)
        return jax.vmap(functools.partial(step_lane, config))(states, ticks)

    return jax.jit(batch_step)


def advance_tile(
    structure: PredictorConfig,
    values: Tunables,
    states: LaneState,
    ticks: LaneTick,
    rounds: Array,
) -> tuple[LaneState, PredictionResult]:
    """Fold rounds 0 to `rounds` − 1 of `ticks` into a tile.

    **Arguments:** `states` with leading axis `[tile]`; `ticks` `[ROUNDS, tile]`; `rounds` a
    traced int32, so that short calls cost what they hold and long ones recompile nothing.

    **Returns:** the states, and results `[ROUNDS, tile, ...]`; rows from `rounds` on are not
    `answered` and carry no event.
    """
    batch_step = functools.partial(_batch_step(structure), values)

    def row(index: Array) -> LaneTick:
        picked: LaneTick = jax.tree.map(
            lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), ticks
        )
        return picked

    def body(
        index: Array, carry: tuple[LaneState, PredictionResult]
    ) -> tuple[LaneState, PredictionResult]:
        current, results = carry
        current, result = batch_step(current, row(index))
        results = jax.tree.map(
            lambda all_rows, new: jax.lax.dynamic_update_index_in_dim(all_rows, new, index, 0),
            results,
            result,
        )
        return current, results

    shapes = jax.eval_shape(batch_step, states, row(jnp.int32(0)))[1]
    empty = jax.tree.map(lambda leaf: jnp.zeros((ROUNDS, *leaf.shape), leaf.dtype), shapes)
    advanced: tuple[LaneState, PredictionResult] = jax.lax.fori_loop(
        jnp.int32(0), rounds, body, (states, empty)
    )
    return advanced
