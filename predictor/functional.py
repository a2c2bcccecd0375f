"""The stateless predictor: arrays in, arrays out, for any number of lanes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from predictor.blocks import Columns, empty_block
from predictor.config import ROUNDS, PredictorConfig, structure, tunables
from predictor.state import LaneState, init_lanes
from predictor.tile import Tile, advance_tile, tile_of
from predictor.types import LaneTick, Observation, PredictionResult


@functools.lru_cache(maxsize=8)
def _compiled(shape: PredictorConfig) -> tuple[Tile, Any]:
    tile = tile_of(shape)
    return tile, jax.jit(functools.partial(advance_tile, tile))


class FunctionalPredictor:
    """`init_states`, `step`, `step_batch` and `scan_batch` over explicit states.

    Every call runs the same compiled loop at the configured tile, padding the lanes, so that
    one lane or many, a scan or single steps, this library or the worker give the same bits
    (for one jaxlib, one device kind and one tile). Arithmetic is in 64-bit floats inside the
    calls; the caller's global JAX settings are not touched.

    **Failure:** `ValueError` naming the field where shapes disagree. No value of a tick
    raises: what cannot be believed is flagged in the result.
    """

    def __init__(self, config: PredictorConfig | None = None) -> None:
        self.config = config or PredictorConfig()
        self._shape = structure(self.config)
        with jax.enable_x64(True):
            self._values = tunables(self.config)

    @functools.cached_property
    def _program(self) -> tuple[Tile, Any]:
        # At the first tick: it takes a trace of the step, which states and shapes do without.
        return _compiled(self._shape)

    def init_states(self, n: int, asset_ids: Sequence[str] | None = None) -> LaneState:
        """Fresh states `[n]`, named after their assets where `asset_ids` is given."""
        with jax.enable_x64(True):
            return init_lanes(self.config, n, asset_ids)

    def step(self, state: LaneState, obs: Observation) -> tuple[LaneState, PredictionResult]:
        """One tick of one lane: a state without lane axis, an observation of scalars."""
        row = jax.tree.map(lambda leaf: np.asarray(leaf)[None], obs)
        with jax.enable_x64(True):
            lane = _with_lane_axis(state)
        states, result = self.step_batch(lane, row)
        with jax.enable_x64(True):
            state = _without_lane_axis(states)
        return state, jax.tree.map(lambda leaf: leaf[0], result)

    def step_batch(self, states: LaneState, obs: Observation) -> tuple[LaneState, PredictionResult]:
        """One tick per lane: observation arrays `[n]`, results `[n, ...]`."""
        rows = jax.tree.map(lambda leaf: np.asarray(leaf)[None], obs)
        states, results = self.scan_batch(states, rows)
        return states, jax.tree.map(lambda leaf: leaf[0], results)

    def scan_batch(self, states: LaneState, obs: Observation) -> tuple[LaneState, PredictionResult]:
        """Ticks in order: observation arrays `[T, n]`, results `[T, n, ...]` on the host."""
        ticks = _complete(obs, int(states.accepted.shape[0]))
        rows, lanes = ticks.magnitude.shape
        if rows == 0 or lanes == 0:
            raise ValueError("magnitude: the observation has no rows or no lanes")
        size = self.config.tile
        pieces: list[LaneState] = []
        with jax.enable_x64(True):
            tile, advance = self._program
            results = _room_for(tile.columns, rows, lanes)
            for start in range(0, lanes, size):
                stop = min(start + size, lanes)
                part = _padded(self._shape, states, start, stop - start)
                for first in range(0, rows, ROUNDS):
                    last = min(first + ROUNDS, rows)
                    block = _block(ticks, first, last, start, stop, size)
                    part, table = advance(self._values, part, block, np.int32(last - first))
                    told = np.asarray(table)[: last - first, : stop - start]
                    for column, kept in zip(tile.columns.values(), results, strict=True):
                        kept[first:last, start:stop] = column.of(told)
                pieces.append(part)
            after: LaneState = _joined(tuple(pieces), lanes)
        return after, results


# Compiled, because a state has some seventy leaves and a call per leaf costs more than a step.


@functools.partial(jax.jit, static_argnames=("shape", "size"))
def _padded(shape: PredictorConfig, states: LaneState, start: Any, size: int) -> LaneState:
    """Lanes from `start` on, `size` of them, with fresh ones up to the tile."""
    part: LaneState = jax.tree.map(
        lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), states
    )
    spare = shape.tile - size
    if spare == 0:
        return part
    fresh = init_lanes(shape, spare)
    padded: LaneState = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), part, fresh)
    return padded


@functools.partial(jax.jit, static_argnames="lanes")
def _joined(pieces: tuple[LaneState, ...], lanes: int) -> LaneState:
    states: LaneState = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:lanes], *pieces)
    return states


@jax.jit
def _with_lane_axis(state: LaneState) -> LaneState:
    states: LaneState = jax.tree.map(lambda leaf: leaf[None], state)
    return states


@jax.jit
def _without_lane_axis(states: LaneState) -> LaneState:
    state: LaneState = jax.tree.map(lambda leaf: leaf[0], states)
    return state


def _complete(obs: Observation, lanes: int) -> LaneTick:
    """Host arrays `[T, n]` with every optional field filled in."""
    magnitude: Any = np.asarray(obs.magnitude, np.float64)
    if magnitude.ndim != 2 or magnitude.shape[1] != lanes:
        raise ValueError(
            f"magnitude: expected {lanes} lanes as in the states, got shape {magnitude.shape}"
        )

    def field(name: str, values: Any, dtype: type, default: Any) -> Any:
        array = default if values is None else np.asarray(values, dtype)
        if array.shape != magnitude.shape:
            raise ValueError(
                f"{name}: expected shape {magnitude.shape} as magnitude, got {array.shape}"
            )
        return array

    missing = np.full(magnitude.shape, np.nan)
    timestamp = field("timestamp_ns", obs.timestamp_ns, np.int64, missing)
    return LaneTick(
        magnitude=magnitude,
        timestamp_ns=timestamp,
        now_ns=field("now_ns", obs.now_ns, np.int64, timestamp),
        dispersion_proxy=field("dispersion_proxy", obs.dispersion_proxy, np.float64, missing),
        reference=field("reference", obs.reference, np.float64, missing),
        present=field("present", obs.present, np.bool_, np.ones(magnitude.shape, np.bool_)),
    )


def _block(ticks: LaneTick, first: int, last: int, start: int, stop: int, tile: int) -> LaneTick:
    """Rows `first:last` of lanes `start:stop`, padded to `[ROUNDS, tile]` with absence."""
    block = empty_block(tile)
    for padded, leaf in zip(block, ticks, strict=True):
        padded[: last - first, : stop - start] = leaf[first:last, start:stop]
    return block


def _room_for(columns: Columns, rows: int, lanes: int) -> PredictionResult:
    """Results `[rows, lanes, ...]` on the host, not filled in yet."""
    fields: Any = (np.empty((rows, lanes, *each.shape), each.dtype) for each in columns.values())
    return PredictionResult._make(fields)
