"""The one loop that every inference runs: up to `ROUNDS` ticks per lane over one tile.

Library and worker call this function and no other, with the same shapes. Its body is then
one computation of the compiled program, whatever stands around it, and the same ticks give
the same bits however they are cut into calls.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from predictor.blocks import Columns, columns_of, empty_block, flatten, width_of
from predictor.config import PredictorConfig, Tunables, bind, tunables
from predictor.state import LaneState, init_lane
from predictor.step import step_lane
from predictor.types import Array, LaneTick, PredictionResult


class Tile(NamedTuple):
    """A tile of a structure: where results lie in a row of their table, and the step of all its
    lanes, `(tunables, states, ticks) -> (states, results)` with leading axes `[tile]`."""

    columns: Columns
    step: Any


@functools.lru_cache(maxsize=8)
def tile_of(structure: PredictorConfig) -> Tile:
    """The tile of a configuration reduced to its structure, under 64-bit floats."""

    def step(
        values: Tunables, states: LaneState, ticks: LaneTick
    ) -> tuple[LaneState, PredictionResult]:
        config = bind(structure, values)
        return jax.vmap(functools.partial(step_lane, config))(states, ticks)

    # A function of its own: whoever asks for its shapes or calls it in a loop shares one trace,
    # and tracing is most of a warm start.
    shared = jax.jit(step)
    states = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((structure.tile, *leaf.shape), leaf.dtype),
        jax.eval_shape(lambda: init_lane(structure)),
    )
    ticks = LaneTick._make(leaf[0] for leaf in empty_block(structure.tile))
    results = jax.eval_shape(shared, tunables(structure), states, ticks)[1]
    return Tile(columns_of(results), shared)


def advance_tile(
    tile: Tile, values: Tunables, states: LaneState, ticks: LaneTick, rounds: Array
) -> tuple[LaneState, Array]:
    """Fold rounds 0 to `rounds` − 1 of `ticks` into a tile.

    **Arguments:** `states` with leading axis `[tile]`; `ticks` `[ROUNDS, tile]`; `rounds` a
    traced int32, so that short calls cost what they hold and long ones recompile nothing.

    **Returns:** the states, and the results as a table `[ROUNDS, tile, width]`; rows from
    `rounds` on are zero: not `answered`, and without an event.
    """

    def body(index: Array, carry: tuple[LaneState, Array]) -> tuple[LaneState, Array]:
        current, table = carry
        row: LaneTick = jax.tree.map(
            lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), ticks
        )
        after, results = tile.step(values, current, row)
        return after, jax.lax.dynamic_update_index_in_dim(table, flatten(results), index, 0)

    empty = jnp.zeros((*ticks.present.shape, width_of(tile.columns)))
    advanced: tuple[LaneState, Array] = jax.lax.fori_loop(
        jnp.int32(0), rounds, body, (states, empty)
    )
    return advanced
