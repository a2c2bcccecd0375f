"""States of all assets of this worker, on the device, with one transaction of undo.

Storage is a list of slabs of equal shape, so that growth compiles nothing. A call gathers up
to one tile of rows from a slab, runs the predictor's loop over their ticks and scatters the
rows back in place. The rows that a call replaces are kept until the commit when the call
touches an asset for the first time in the transaction: undoing them in reverse order gives
every asset the state of the last commit, at the price of nothing while all goes well.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from predictor.config import PredictorConfig, structure, tunables
from predictor.packing import Layout, layout_of, pack, unpack
from predictor.state import STATE_VERSION, identity_of, init_lane
from predictor.step import LaneTick
from predictor.tile import ROUNDS, advance_tile
from predictor.types import PredictionResult

Host = np.ndarray[Any, Any]

SPARE_ROW = 0
"""Row of each slab that belongs to no asset; it fills the lanes of an incomplete tile."""


class TickColumns(NamedTuple):
    """Ticks of one micro-batch in input order, one entry per tick."""

    magnitude: Host
    timestamp_ns: Host
    now_ns: Host
    dispersion_proxy: Host
    reference: Host


class _Undo(NamedTuple):
    slab: int
    rows_at: Host
    rows: Any


class ResultColumns:
    """Results of one micro-batch by field name, host arrays `[n, ...]` in input order."""

    def __init__(self, table: Host, layout: dict[str, tuple[int, int, np.dtype, tuple[int, ...]]]):
        self._table = table
        self._layout = layout

    def __len__(self) -> int:
        return int(self._table.shape[0])

    @classmethod
    def merged(cls, pieces: Sequence[tuple[Host, ResultColumns]], count: int) -> ResultColumns:
        """One batch of `count` ticks from parts that hold the ticks at given positions."""
        first = pieces[0][1]
        table = np.empty((count, first._table.shape[1]))
        for positions, piece in pieces:
            table[positions] = piece._table
        return cls(table, first._layout)

    def __getattr__(self, name: str) -> Host:
        try:
            start, stop, dtype, shape = self._layout[name]
        except KeyError:
            raise AttributeError(name) from None
        block = self._table[:, start:stop].reshape(-1, *shape)
        column = block if dtype == np.float64 else block.astype(dtype)
        setattr(self, name, column)
        return column


class StatePool:
    """Slots for (partition, asset) pairs and the compiled calls over them."""

    def __init__(self, config: PredictorConfig, slab_assets: int) -> None:
        self.config = config
        self._tile = config.tile
        self._rows = slab_assets + 1
        lane = jax.eval_shape(lambda: init_lane(config))
        self.layout: Layout = layout_of(lane)
        self.fingerprint = f"{STATE_VERSION}:{self.layout.fingerprint[:16]}"
        """Version and layout of the rows; rows of another one are not loaded."""
        # One program instead of one per leaf.
        self._fresh = np.asarray(jax.jit(functools.partial(_fresh_row, config, self.layout))())[0]
        self._identity_word = next(
            leaf.start for leaf in self.layout.leaves if leaf.path == ".identity"
        )
        self._results = _result_layout(config)
        shape = structure(config)
        self._advance = jax.jit(
            functools.partial(_advance_slab, shape, self.layout), donate_argnums=1
        )
        self._write = jax.jit(_write_rows, donate_argnums=0)
        self._read = jax.jit(_read_rows)
        self._values: dict[PredictorConfig, Any] = {}
        self._slabs: list[Any] = []
        self._free: list[int] = []
        self._slots: dict[int, dict[str, int]] = {}
        self._touched: set[int] = set()
        self._journal: list[_Undo] = []
        self.calls = 0
        self.lanes_used = 0

    @property
    def state_bytes(self) -> int:
        """Bytes of one asset on the device and on the wire."""
        return self.layout.width * 8

    def warm_up(self) -> None:
        """Compile, or load from the cache, everything that is called later."""
        self._grow()
        slot = self._free[-1]
        index = np.full(self._tile, SPARE_ROW, np.int32)
        block = _empty_block(self._tile)
        values = self._values_of(self.config)
        self._slabs[0], rows, table = self._advance(
            values, self._slabs[0], index, block, np.int32(0)
        )
        self._slabs[0] = self._write(self._slabs[0], index, rows)
        self._read(self._slabs[0], index).block_until_ready()
        table.block_until_ready()
        del slot

    # -- slots -----------------------------------------------------------------------------

    def slots(self, partition: int, assets: Sequence[str]) -> Host:
        """Slot numbers of the assets in this partition, `[n]`, with fresh states for new ones."""
        known = self._slots.setdefault(partition, {})
        out = np.empty(len(assets), np.int64)
        fresh: dict[int, str] = {}
        for position, asset in enumerate(assets):
            slot = known.get(asset)
            if slot is None:
                slot = self._allocate()
                known[asset] = slot
                fresh[slot] = asset
            out[position] = slot
        if fresh:
            rows = np.repeat(self._fresh[None], len(fresh), axis=0)
            rows[:, self._identity_word] = [_identity_word(asset) for asset in fresh.values()]
            self._write_slots(np.fromiter(fresh, np.int64), rows)
        return out

    def load(self, partition: int, assets: Sequence[str], rows: Host) -> None:
        """Put restored rows `[n, width]` of the assets in place."""
        self._write_slots(self.slots(partition, assets), rows)

    def belongs_to(self, row: Host, asset: str) -> bool:
        """Whether the row was written for this asset."""
        return int(row[self._identity_word]) == _identity_word(asset)

    def assets(self, partition: int) -> dict[str, int]:
        """Slot by asset."""
        return self._slots.get(partition, {})

    def drop(self, partition: int) -> None:
        """Forget all states of a partition."""
        self._free.extend(self._slots.pop(partition, {}).values())

    def __len__(self) -> int:
        return sum(len(slots) for slots in self._slots.values())

    # -- stepping --------------------------------------------------------------------------

    def step(
        self, slots: Host, ticks: TickColumns, config: PredictorConfig, journal: bool = True
    ) -> ResultColumns:
        """Fold ticks into their slots in input order; `config` supplies the tunables.

        With `journal` the replaced states can be rolled back until the next `commit`.
        """
        calls = _plan(slots, self._rows, self._tile)
        values = self._values_of(config)
        pending = []
        for call in calls:
            columns = (*ticks, np.ones(len(slots), np.bool_))
            block = LaneTick._make(_scatter(column, call, self._tile) for column in columns)
            slab, old_rows, table = self._advance(
                values, self._slabs[call.slab], call.rows_at, block, np.int32(call.rounds)
            )
            self._slabs[call.slab] = slab
            if journal and not self._touched.issuperset(call.slots):
                self._touched.update(call.slots)
                self._journal.append(_Undo(call.slab, call.rows_at, old_rows))
            pending.append((call, table))
        self.calls += len(calls)
        self.lanes_used += len(slots)
        out = np.empty((len(slots), self._results.width))
        for call, table in pending:
            out[call.ticks] = np.asarray(table)[call.round_of, call.lane_of]
        return ResultColumns(out, self._results.columns)

    def commit(self) -> None:
        """The states of now are the ones to return to."""
        self._touched.clear()
        self._journal.clear()

    def rollback(self) -> None:
        """Every state becomes what it was at the last commit."""
        for undo in reversed(self._journal):
            self._slabs[undo.slab] = self._write(self._slabs[undo.slab], undo.rows_at, undo.rows)
        self.commit()

    def rows(self, slots: Sequence[int]) -> Host:
        """Rows `[n, width]` of the slots, on the host."""
        wanted = np.asarray(slots, np.int64)
        out = np.empty((len(wanted), self.layout.width), np.uint64)
        for positions, slab, index in _tiles(wanted, self._rows, self._tile):
            rows = np.asarray(self._read(self._slabs[slab], index))
            out[positions] = rows[: len(positions)]
        return out

    # -- inside ----------------------------------------------------------------------------

    def _values_of(self, config: PredictorConfig) -> Any:
        if config not in self._values:
            self._values[config] = tunables(config)
        return self._values[config]

    def _allocate(self) -> int:
        if not self._free:
            self._grow()
        return self._free.pop()

    def _grow(self) -> None:
        first = len(self._slabs) * self._rows
        self._slabs.append(jnp.tile(jnp.asarray(self._fresh), (self._rows, 1)))
        self._free.extend(range(first + self._rows - 1, first + SPARE_ROW, -1))

    def _write_slots(self, slots: Host, rows: Host) -> None:
        for positions, slab, index in _tiles(slots, self._rows, self._tile):
            block = np.repeat(self._fresh[None], self._tile, axis=0)
            block[: len(positions)] = rows[positions]
            self._slabs[slab] = self._write(self._slabs[slab], index, block)


def _identity_word(asset: str) -> int:
    # Two uint32 of one 64-bit word, the first in the low half as `pack` lays pairs down.
    high, low = identity_of(asset)
    return (low << 32) | high


def _advance_slab(
    shape: PredictorConfig,
    layout: Layout,
    values: Any,
    slab: Any,
    index: Any,
    ticks: LaneTick,
    rounds: Any,
) -> tuple[Any, Any, Any]:
    rows = slab.at[index].get(mode="promise_in_bounds")
    states, results = advance_tile(shape, values, unpack(layout, rows), ticks, rounds)
    slab = slab.at[index].set(pack(layout, states), mode="promise_in_bounds")
    return slab, rows, _flatten(results)


def _fresh_row(config: PredictorConfig, layout: Layout) -> Any:
    return pack(layout, jax.tree.map(lambda leaf: leaf[None], init_lane(config)))


def _write_rows(slab: Any, index: Any, rows: Any) -> Any:
    return slab.at[index].set(rows, mode="promise_in_bounds")


def _read_rows(slab: Any, index: Any) -> Any:
    return slab.at[index].get(mode="promise_in_bounds")


def _flatten(results: PredictionResult) -> Any:
    """One float64 table `[ROUNDS, tile, columns]`: one transfer instead of one per field.

    Integers and flags are exact in float64: counts stay far below 2⁵³.
    """
    columns = [leaf.reshape(*leaf.shape[:2], -1).astype(jnp.float64) for leaf in results]
    return jnp.concatenate(columns, axis=-1)


class _ResultLayout(NamedTuple):
    columns: dict[str, tuple[int, int, np.dtype, tuple[int, ...]]]
    width: int


def _result_layout(config: PredictorConfig) -> _ResultLayout:
    lanes = config.tile
    states = jax.eval_shape(
        lambda: jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (lanes, *leaf.shape)), init_lane(config)
        )
    )
    values = jax.eval_shape(lambda: tunables(config))
    block = jax.tree.map(jnp.asarray, _empty_block(lanes))
    results = jax.eval_shape(
        functools.partial(advance_tile, structure(config)), values, states, block, jnp.int32(0)
    )[1]
    columns, start = {}, 0
    for name, leaf in zip(PredictionResult._fields, results, strict=True):
        width = int(np.prod(leaf.shape[2:], dtype=int))
        columns[name] = (start, start + width, np.dtype(leaf.dtype), leaf.shape[2:])
        start += width
    return _ResultLayout(columns, start)


def _empty_block(tile: int) -> LaneTick:
    shape = (ROUNDS, tile)
    types = (np.float64, np.int64, np.int64, np.float64, np.float64, np.bool_)
    return LaneTick._make(np.zeros(shape, each) for each in types)


class _Call(NamedTuple):
    """One device call: which ticks it folds and where each of them sits in its block."""

    slab: int
    rows_at: Host
    slots: frozenset[int]
    ticks: Host
    round_of: Host
    lane_of: Host
    rounds: int


def _scatter(column: Host, call: _Call, tile: int) -> Host:
    block = np.zeros((ROUNDS, tile), column.dtype)
    block[call.round_of, call.lane_of] = column[call.ticks]
    return block


def _plan(slots: Host, slab_rows: int, tile: int) -> list[_Call]:
    """Cut ticks into calls: the k-th tick of a slot goes to round k, a slot keeps its lane.

    Slots with many ticks share tiles with their like, so that few lanes idle in late rounds.
    """
    unique, inverse, counts = np.unique(slots, return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(slots), np.int64)
    rank[order] = np.arange(len(slots)) - np.repeat(starts, counts)
    slab_of = unique // slab_rows
    busiest = np.lexsort((-counts, slab_of))
    calls = []
    for slab in np.unique(slab_of):
        members = busiest[slab_of[busiest] == slab]
        for first in range(0, len(members), tile):
            chosen = members[first : first + tile]
            lane = np.full(len(unique), -1, np.int64)
            lane[chosen] = np.arange(len(chosen))
            index = np.full(tile, SPARE_ROW, np.int32)
            index[: len(chosen)] = unique[chosen] - slab * slab_rows
            mine = np.flatnonzero(lane[inverse] >= 0)
            for block in range(0, int(counts[chosen].max()), ROUNDS):
                ticks = mine[(rank[mine] >= block) & (rank[mine] < block + ROUNDS)]
                round_of = rank[ticks] - block
                calls.append(
                    _Call(
                        slab=int(slab),
                        rows_at=index,
                        slots=frozenset(unique[chosen].tolist()),
                        ticks=ticks,
                        round_of=round_of,
                        lane_of=lane[inverse[ticks]],
                        rounds=int(round_of.max()) + 1,
                    )
                )
    return calls


def _tiles(slots: Host, slab_rows: int, tile: int) -> list[tuple[Host, int, Host]]:
    """Cut slots into (positions, slab, row index padded to a tile)."""
    out = []
    slab_of = slots // slab_rows
    for slab in np.unique(slab_of):
        members = np.flatnonzero(slab_of == slab)
        for first in range(0, len(members), tile):
            positions = members[first : first + tile]
            index = np.full(tile, SPARE_ROW, np.int32)
            index[: len(positions)] = slots[positions] - slab * slab_rows
            out.append((positions, int(slab), index))
    return out
