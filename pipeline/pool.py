"""States of all assets of this worker, on the device, with one transaction of undo.

Storage is a list of slabs of equal shape, so that growth compiles nothing. A call gathers up
to one tile of rows from a slab, runs the predictor's loop over their ticks and scatters the
rows back in place. The rows that a call replaces are kept until the commit when the call
touches an asset for the first time in the transaction: undoing them in reverse order gives
every asset the state of the last commit, at the price of nothing while all goes well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pipeline.program import SPARE_ROW, Host, obtain
from predictor.blocks import Columns, empty_block, width_of
from predictor.config import ROUNDS, PredictorConfig, tunables
from predictor.identity import identity_of
from predictor.types import LaneTick


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

    def __init__(self, table: Host, columns: Columns):
        self._table = table
        self._columns = columns

    def __len__(self) -> int:
        return int(self._table.shape[0])

    @classmethod
    def merged(cls, pieces: Sequence[tuple[Host, ResultColumns]], count: int) -> ResultColumns:
        """One batch of `count` ticks from parts that hold the ticks at given positions."""
        first = pieces[0][1]
        table = np.empty((count, first._table.shape[1]))
        for positions, piece in pieces:
            table[positions] = piece._table
        return cls(table, first._columns)

    def __getattr__(self, name: str) -> Host:
        try:
            column = self._columns[name].of(self._table)
        except KeyError:
            raise AttributeError(name) from None
        setattr(self, name, column)
        return column


class StatePool:
    """Slots for (partition, asset) pairs and the compiled calls over them."""

    def __init__(self, config: PredictorConfig, slab_assets: int) -> None:
        self.config = config
        self._tile = config.tile
        self._rows = slab_assets + 1
        program = obtain(config, self._rows)
        self._facts = program.facts
        self._advance = program.advance
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
    def fingerprint(self) -> str:
        """Version and layout of the rows; rows of another one are not loaded."""
        return self._facts.fingerprint

    @property
    def state_bytes(self) -> int:
        """Bytes of one asset on the device and on the wire."""
        return self._facts.fresh_row.nbytes

    def warm_up(self) -> None:
        """Call everything once that is called later."""
        self._grow()
        index = np.full(self._tile, SPARE_ROW, np.int32)
        block = empty_block(self._tile)
        values = self._values_of(self.config)
        self._slabs[0], rows, table = self._advance(
            values, self._slabs[0], index, block, np.int32(0)
        )
        self._slabs[0] = self._write(self._slabs[0], index, rows)
        self._read(self._slabs[0], index).block_until_ready()
        table.block_until_ready()

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
            rows = np.repeat(self._facts.fresh_row[None], len(fresh), axis=0)
            rows[:, self._facts.identity_word] = [_identity_word(asset) for asset in fresh.values()]
            self._write_slots(np.fromiter(fresh, np.int64), rows)
        return out

    def load(self, partition: int, assets: Sequence[str], rows: Host) -> None:
        """Put restored rows `[n, width]` of the assets in place."""
        self._write_slots(self.slots(partition, assets), rows)

    def belongs_to(self, row: Host, asset: str) -> bool:
        """Whether the row was written for this asset."""
        return int(row[self._facts.identity_word]) == _identity_word(asset)

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
        out = np.empty((len(slots), width_of(self._facts.columns)))
        for call, table in pending:
            out[call.ticks] = np.asarray(table)[call.round_of, call.lane_of]
        return ResultColumns(out, self._facts.columns)

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
        out = np.empty((len(wanted), len(self._facts.fresh_row)), np.uint64)
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
        self._slabs.append(jnp.tile(jnp.asarray(self._facts.fresh_row), (self._rows, 1)))
        self._free.extend(range(first + self._rows - 1, first + SPARE_ROW, -1))

    def _write_slots(self, slots: Host, rows: Host) -> None:
        for positions, slab, index in _tiles(slots, self._rows, self._tile):
            block = np.repeat(self._facts.fresh_row[None], self._tile, axis=0)
            block[: len(positions)] = rows[positions]
            self._slabs[slab] = self._write(self._slabs[slab], index, block)


def _identity_word(asset: str) -> int:
    # Two uint32 of one 64-bit word, the first in the low half as `pack` lays pairs down.
    high, low = identity_of(asset)
    return (low << 32) | high


def _write_rows(slab: Any, index: Any, rows: Any) -> Any:
    return slab.at[index].set(rows, mode="promise_in_bounds")


def _read_rows(slab: Any, index: Any) -> Any:
    return slab.at[index].get(mode="promise_in_bounds")


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
