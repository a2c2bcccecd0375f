"""From records to results: decode, gate the clock, step. The same path live and in replay."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from consumers.events import Record
from pipeline.generations import InForce, Timeline
from pipeline.outputs import StepInfo
from pipeline.pool import ResultColumns, StatePool, TickColumns
from predictor.config import Ingestion
from schemas.codec import DeadLetterReason, Rejection, TickDecoder

Host = np.ndarray[Any, Any]

MILLISECOND_NS = 1_000_000
LATEST_MS = 9_000_000_000_000
"""Record timestamps beyond the year 2255 have no place in int64 nanoseconds."""

FUTURE_RELATIVE_NS = 86_400_000_000_000
FUTURE_ABSOLUTE_NS = 1_000_000_000
PAST_ABSOLUTE_NS = 86_400_000_000_000

OUTSIDE_OF_THE_LOG = frozenset({DeadLetterReason.UNKNOWN_SCHEMA_ID})
"""Reasons that a later reader of the same bytes could judge otherwise."""


class Decoded(NamedTuple):
    """Ticks that may be stepped, records that are dead letters, and partitions that must wait
    for a schema at an offset. Everything is in the order of the records."""

    positions: Host
    asset_id: list[str]
    ticks: TickColumns
    request_id: list[str | None]
    state_tag: list[str | None]
    rejected: list[Rejection]
    waiting: dict[int, tuple[int, int]]


def decode(
    decoder: TickDecoder, rules: Ingestion, records: Sequence[Record], now_ns: int
) -> Decoded:
    """Decode records of any partitions.

    `now_ns` is the host's clock, used where `ingestion.clock = "wall"`. A record of an unknown
    schema stops its partition there: it and all later records of the partition are left out,
    and `waiting` maps the partition to (offset, schema id).
    """
    columns = decoder.decode(
        [record.value for record in records], [record.key for record in records]
    )
    waiting: dict[int, tuple[int, int]] = {}
    cut: dict[int, int] = {}
    for unresolved in columns.unresolved:
        record = records[unresolved.index]
        if record.partition not in cut:
            cut[record.partition] = record.offset
            waiting[record.partition] = (record.offset, unresolved.schema_id)

    def before_cut(index: int) -> bool:
        record = records[index]
        return record.partition not in cut or record.offset < cut[record.partition]

    clock = _clock(rules, records, columns.index, columns.timestamp_ns, now_ns)
    drifted = _drifted(rules, columns.timestamp_ns, clock)
    keep = ~drifted
    if cut:
        keep &= np.array([before_cut(int(i)) for i in columns.index], bool)
    chosen = np.flatnonzero(keep)
    rejected = [r for r in columns.rejected if before_cut(r.index)]
    for i in np.flatnonzero(drifted):
        index = int(columns.index[i])
        if before_cut(index):
            ahead = (int(columns.timestamp_ns[i]) - int(clock[i])) / 1e9
            detail = f"event time is {ahead:+.3f} s from the clock"
            rejected.append(Rejection(index, DeadLetterReason.TIMESTAMP_DRIFT, detail))
    rejected.sort(key=lambda r: r.index)
    return Decoded(
        positions=columns.index[chosen],
        asset_id=[columns.asset_id[i] for i in chosen],
        ticks=TickColumns(
            columns.magnitude[chosen],
            columns.timestamp_ns[chosen],
            clock[chosen],
            columns.dispersion_proxy[chosen],
            columns.reference[chosen],
        ),
        request_id=[columns.request_id[i] for i in chosen],
        state_tag=[columns.state_tag[i] for i in chosen],
        rejected=rejected,
        waiting=waiting,
    )


def _clock(
    rules: Ingestion, records: Sequence[Record], index: Host, timestamp_ns: Host, now_ns: int
) -> Host:
    """`now` of each tick: its record's Kafka timestamp, or the host's clock."""
    if rules.clock == "wall":
        return np.full(len(index), now_ns, np.int64)
    stamped = np.array([records[int(i)].timestamp_ms for i in index], np.int64)
    stamped = np.minimum(stamped, LATEST_MS)
    return np.where(stamped > 0, stamped * MILLISECOND_NS, timestamp_ns)


def _drifted(rules: Ingestion, timestamp_ns: Host, clock: Host) -> Host:
    # Compared without subtracting: the difference of two int64 can overflow.
    if rules.time_gates == "off":
        return np.zeros(len(timestamp_ns), bool)
    if rules.time_gates == "relative":
        return timestamp_ns > clock + FUTURE_RELATIVE_NS
    return (timestamp_ns > clock + FUTURE_ABSOLUTE_NS) | (timestamp_ns < clock - PAST_ABSOLUTE_NS)


class Jitter:
    """Exponentially weighted mean and standard deviation of a latency, in seconds."""

    RATE = 0.05

    def __init__(self) -> None:
        self._mean: float | None = None
        self._variance = 0.0

    def add(self, seconds: float) -> float:
        """Fold in one latency; returns the standard deviation so far."""
        if self._mean is None:
            self._mean = seconds
        deviation = seconds - self._mean
        self._mean += self.RATE * deviation
        self._variance = (1 - self.RATE) * (self._variance + self.RATE * deviation * deviation)
        return self._variance**0.5


class Stepper:
    """Steps decoded ticks through the pool, each under the parameters of its offset."""

    def __init__(self, pool: StatePool, clock: Callable[[], float] = time.perf_counter) -> None:
        self._pool = pool
        self._clock = clock
        self._jitter = Jitter()

    def step(
        self,
        records: Sequence[Record],
        decoded: Decoded,
        timeline_of: Callable[[int], Timeline],
        journal: bool,
    ) -> tuple[StepInfo, ResultColumns]:
        """Fold the ticks, each under the parameters of its offset in its partition."""
        began = self._clock()
        mine = [records[int(i)] for i in decoded.positions]
        timelines = {p: timeline_of(p) for p in {record.partition for record in mine}}
        in_force = [timelines[record.partition].at(record.offset) for record in mine]
        slots = self._slots(mine, decoded.asset_id)
        results = self._step_by_configuration(slots, decoded.ticks, in_force, journal)
        seconds = self._clock() - began
        info = StepInfo(
            records=mine,
            asset_id=decoded.asset_id,
            magnitude=decoded.ticks.magnitude,
            timestamp_ns=decoded.ticks.timestamp_ns,
            request_id=decoded.request_id,
            state_tag=decoded.state_tag,
            in_force=in_force,
            step_seconds=seconds,
            step_jitter_seconds=self._jitter.add(seconds),
        )
        return info, results

    def _slots(self, records: Sequence[Record], assets: Sequence[str]) -> Host:
        by_partition: dict[int, list[int]] = {}
        for position, record in enumerate(records):
            by_partition.setdefault(record.partition, []).append(position)
        slots = np.empty(len(records), np.int64)
        for partition, positions in by_partition.items():
            slots[positions] = self._pool.slots(partition, [assets[i] for i in positions])
        return slots

    def _step_by_configuration(
        self, slots: Host, ticks: TickColumns, in_force: Sequence[InForce], journal: bool
    ) -> ResultColumns:
        # By identity: equal parameters are one object, and hashing them costs more than a tick.
        distinct = {id(force): force for force in in_force}
        if len(distinct) == 1:
            (force,) = distinct.values()
            return self._pool.step(slots, ticks, force.config, journal)
        # Partitions may run under different parameters, and a replay may cross from one
        # generation to the next: a partition's ticks come in offset order, so its earlier
        # generation is met first.
        pieces = []
        for force in distinct.values():
            chosen = np.array([i for i, each in enumerate(in_force) if each is force])
            part = TickColumns(*(column[chosen] for column in ticks))
            pieces.append((chosen, self._pool.step(slots[chosen], part, force.config, journal)))
        return ResultColumns.merged(pieces, len(slots))


def next_positions(
    records: Sequence[Record], waiting: Mapping[int, tuple[int, int]]
) -> dict[int, int]:
    """First offset of each partition after what was folded or dead-lettered."""
    positions: dict[int, int] = {}
    for record in records:
        if record.partition not in waiting:
            positions[record.partition] = record.offset + 1
    for partition, (offset, _) in waiting.items():
        if any(r.partition == partition and r.offset < offset for r in records):
            positions[partition] = offset
    return positions
