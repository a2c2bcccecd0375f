"""Rebuilding the state of assigned partitions: locate, read snapshots, replay, hand over.

Driven by the loop in short turns, so that other partitions keep flowing. The order matters:
the committed offsets are read first (stable ones, which waits for a dead owner's open
transaction), then the snapshots to the true end of their partition, so that no snapshot of
the committed past is missed. Whatever disagrees is refused, not guessed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np

from consumers.events import Located, Polled, Record
from consumers.reader import BEGINNING, LogReader, Unanswered
from pipeline.config import Config
from pipeline.generations import (
    Timeline,
    continued,
    structure_hash,
    tunable_values,
)
from pipeline.ledger import Generation, PartitionLedger
from pipeline.log import Log
from pipeline.pool import StatePool
from pipeline.processing import OUTSIDE_OF_THE_LOG, Decoded, Stepper, decode
from pipeline.snapshot import (
    CONTROL_KEY,
    AssetSnapshot,
    Control,
    OffsetMetadata,
    SnapshotError,
    decode_control,
    decode_metadata,
    decode_snapshot,
)
from schemas.codec import TickDecoder

QUESTION_SECONDS = 1.0
STALL_SECONDS = 20.0


class DataLossRefused(Exception):
    """Offsets, snapshots and log disagree; going on would lose or repeat (exit 7)."""


class StructureRefused(Exception):
    """The states in the log were made by another structure (exit 3)."""


class _Stage(Enum):
    LOCATING = auto()
    READING = auto()
    REPLAYING = auto()


@dataclass
class _Partition:
    number: int
    retained: int | None
    located: Located | None = None
    metadata: OffsetMetadata | None = None
    snapshots_end: int = 0
    snapshots: dict[str, AssetSnapshot] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    control: Control | None = None
    ledger: PartitionLedger | None = None
    committed: int = 0
    floor: int = 0
    begin_after: dict[str, int] = field(default_factory=dict)
    replayed: int = 0
    done: bool = False


@dataclass(frozen=True)
class RestoredPartition:
    """A partition whose state is complete. `ledger` is None where a kept state was good.
    `is_new`: nothing was committed before; its start must be committed before the first
    tick. `announcements` are (kind, severity, detail, asset) of worker events."""

    partition: int
    committed: int
    ledger: PartitionLedger | None
    is_new: bool
    announcements: tuple[tuple[str, str, str, str | None], ...] = ()


class Restorer:
    """Restores requested partitions, one session after the other."""

    def __init__(
        self,
        config: Config,
        reader: LogReader,
        pool: StatePool,
        stepper: Stepper,
        decoder: TickDecoder,
        resolve: Callable[[int], bool],
        environment: str,
        log: Log,
    ) -> None:
        self._config = config
        self._reader = reader
        self._pool = pool
        self._stepper = stepper
        self._decoder = decoder
        self._resolve = resolve
        self._environment = environment
        self._log = log
        self._requested: dict[int, int | None] = {}
        self._session: dict[int, _Partition] = {}
        self._stage = _Stage.LOCATING
        self._began = 0.0
        self._stalled = False
        self._held: Polled | None = None

    @property
    def busy(self) -> bool:
        """Whether a turn has something to do."""
        return bool(self._session or self._requested)

    def request(self, partitions: Iterable[int], retained: Mapping[int, int]) -> None:
        """Restore these; `retained` gives the offsets whose kept state is still in the pool."""
        for partition in partitions:
            self._requested[partition] = retained.get(partition)

    def cancel(self, partitions: Iterable[int]) -> None:
        """Stop restoring these; what was loaded of them is dropped by the caller."""
        for partition in partitions:
            self._requested.pop(partition, None)
            self._session.pop(partition, None)
        if not self._session:
            self._reader.unassign()

    def turn(self) -> list[RestoredPartition]:
        """A short piece of work; returns the partitions that are complete now."""
        if not self._session:
            if not self._requested:
                return []
            self._session = {p: _Partition(p, kept) for p, kept in self._requested.items()}
            self._requested = {}
            self._enter(_Stage.LOCATING)
        if not self._stalled and time.monotonic() - self._began > STALL_SECONDS:
            self._stalled = True
            self._log.warning(
                "restore_stalled",
                partitions=sorted(self._session),
                stage=self._stage.name.lower(),
                remedy="an open transaction pins the log or the broker is away; still waiting",
            )
        try:
            match self._stage:
                case _Stage.LOCATING:
                    return self._locate()
                case _Stage.READING:
                    self._read()
                    return []
                case _Stage.REPLAYING:
                    return self._replay()
        except Unanswered as error:
            self._log.debug("restore_waits", reason=str(error))
            time.sleep(0.05)
            return []

    def _enter(self, stage: _Stage) -> None:
        self._stage = stage
        self._began = time.monotonic()
        self._stalled = False

    # -- locate ------------------------------------------------------------------------------

    def _locate(self) -> list[RestoredPartition]:
        topics = self._config.topics
        numbers = sorted(self._session)
        located = self._reader.committed(topics.ticks, numbers, QUESTION_SECONDS)
        finished = []
        for number in numbers:
            part = self._session[number]
            part.located = located[number]
            if part.retained is not None and located[number].offset == part.retained:
                finished.append(RestoredPartition(number, part.retained, None, False))
                del self._session[number]
            elif part.retained is not None:
                self._pool.drop(number)
        if not self._session:
            return finished
        numbers = sorted(self._session)
        ends = self._reader.true_ends(topics.snapshots, numbers, QUESTION_SECONDS)
        for number in numbers:
            self._session[number].snapshots_end = ends[number]
        unread = {number: BEGINNING for number in numbers if ends[number] > 0}
        self._enter(_Stage.READING)
        if unread:
            self._reader.assign(topics.snapshots, unread)
        for number in numbers:
            self._session[number].done = number not in unread
        return finished

    # -- snapshots ---------------------------------------------------------------------------

    def _read(self) -> None:
        if not all(part.done for part in self._session.values()):
            polled = self._reader.poll(1000, 0.02)
            for record in polled.records:
                part = self._session.get(record.partition)
                if part is not None and record.offset < part.snapshots_end:
                    self._take(part, record)
                if part is not None and record.offset >= part.snapshots_end - 1:
                    part.done = True
            for number, end in polled.ends.items():
                part = self._session.get(number)
                if part is not None and end >= part.snapshots_end:
                    part.done = True
        if all(part.done for part in self._session.values()):
            self._reader.unassign()
            self._prepare()

    def _take(self, part: _Partition, record: Record) -> None:
        if record.key == CONTROL_KEY:
            if record.value is None:
                return
            try:
                control = decode_control(record.value)
            except SnapshotError as error:
                raise DataLossRefused(
                    f"control record of partition {part.number}: {error}; restore the snapshots "
                    "topic from a backup, or start a new application_id"
                ) from None
            self._check_origin(control.origin.application_id, control.origin.topic, part.number)
            part.control = control
            return
        asset = (record.key or b"").decode("utf-8", "replace")
        if record.value is None:
            part.snapshots.pop(asset, None)
            part.damaged.pop(asset, None)
            return
        try:
            snapshot = decode_snapshot(record.value)
        except SnapshotError as error:
            part.damaged[asset] = str(error)
            return
        self._check_origin(snapshot.origin.application_id, snapshot.origin.topic, part.number)
        if snapshot.asset != asset or snapshot.origin.partition != part.number:
            part.damaged[asset] = (
                f"it belongs to asset {snapshot.asset!r} of partition {snapshot.origin.partition}"
            )
            return
        best = part.snapshots.get(asset)
        if best is None or snapshot.next_offset >= best.next_offset:
            part.snapshots[asset] = snapshot
            part.damaged.pop(asset, None)

    def _check_origin(self, application: str, topic: str, partition: int) -> None:
        own = (self._config.kafka.application_id, self._config.topics.ticks)
        if (application, topic) != own:
            raise DataLossRefused(
                f"{self._config.topics.snapshots}/{partition} holds snapshots of application "
                f"{application!r} on topic {topic!r}, this worker is {own[0]!r} on {own[1]!r}; "
                "give each application its own topics.snapshots"
            )

    # -- decide ------------------------------------------------------------------------------

    def _prepare(self) -> None:
        topics = self._config.topics
        numbers = sorted(self._session)
        starts = self._reader.log_starts(topics.ticks, numbers, QUESTION_SECONDS)
        ends = self._reader.true_ends(topics.ticks, numbers, QUESTION_SECONDS)
        again = self._second_look(numbers)
        replays: dict[int, int] = {}
        for number in numbers:
            part = self._session[number]
            part.located = again.get(number, part.located)
            self._decide(part, starts[number], ends[number])
            part.done = part.floor >= part.committed
            if not part.done:
                replays[number] = part.floor
        self._enter(_Stage.REPLAYING)
        self._held = None
        if replays:
            self._reader.assign(topics.ticks, replays)

    def _second_look(self, numbers: list[int]) -> dict[int, Located]:
        ahead = [
            number
            for number in numbers
            if (located := self._session[number].located) is not None
            and located.offset is not None
            and any(
                snapshot.next_offset > located.offset
                for snapshot in self._session[number].snapshots.values()
            )
        ]
        if not ahead:
            return {}
        return self._reader.committed(self._config.topics.ticks, ahead, QUESTION_SECONDS)

    def _decide(self, part: _Partition, log_start: int, log_end: int) -> None:
        where = f"{self._config.topics.ticks}/{part.number}"
        located = part.located
        if located is None or located.offset is None:
            self._start_anew(part, log_start, log_end, where)
            return
        committed = located.offset
        part.metadata = decode_metadata(located.metadata)
        if part.metadata is None:
            raise DataLossRefused(
                f"{where}: the committed offset {committed} carries no replay floor; it was not "
                "written by this application: choose another kafka.application_id, or delete the "
                "group's offsets"
            )
        if part.control is None:
            raise DataLossRefused(
                f"{where}: offset {committed} is committed but the control record is missing from "
                f"{self._config.topics.snapshots}; restore that topic, or delete the group's "
                "offsets to start anew"
            )
        newest = max((s.next_offset for s in part.snapshots.values()), default=0)
        if newest > committed:
            raise DataLossRefused(
                f"{where}: a snapshot covers offset {newest}, beyond the committed {committed}; "
                "the group's offsets were moved: move them back, or delete the snapshots"
            )
        if committed > log_end or part.metadata.floor < log_start:
            raise DataLossRefused(
                f"{where}: recovery needs offsets {part.metadata.floor} to {committed}, the log "
                f"holds {log_start} to {log_end}; raise the topic's retention above the age of "
                "the replay floor, or delete offsets and snapshots to start anew"
            )
        if part.control.structure_hash != structure_hash(self._config):
            raise StructureRefused(
                f"{where}: the states in the log were made with other structural settings "
                "(tile, seed, clock, windows or depths); use those settings, or start a new "
                "kafka.application_id"
            )
        part.committed = committed
        part.floor = part.metadata.floor
        self._load(part)

    def _start_anew(self, part: _Partition, log_start: int, log_end: int, where: str) -> None:
        if part.snapshots or part.control is not None:
            raise DataLossRefused(
                f"{where}: no committed offset, although snapshots of this application exist; "
                "the group's offsets expired or were deleted: set them back, or delete the "
                "snapshots to start anew"
            )
        start = log_start if self._config.kafka.start == "earliest" else log_end
        part.committed = part.floor = start
        values = tunable_values(self._config.predictor)
        part.ledger = PartitionLedger([Generation(1, start, values)])

    def _load(self, part: _Partition) -> None:
        control = part.control
        if control is None:
            raise RuntimeError("a partition without control record cannot be loaded")
        good: list[AssetSnapshot] = []
        foreign = 0
        for asset, snapshot in part.snapshots.items():
            if snapshot.structure != self._pool.fingerprint:
                raise StructureRefused(
                    f"snapshot of partition {part.number}: its state has another structure than "
                    "this version's; run the version that wrote it, or start a new "
                    "kafka.application_id"
                )
            foreign += snapshot.environment != self._environment
            if not self._pool.belongs_to(snapshot.words(), asset):
                part.damaged[asset] = "its state was written for another asset"
                continue
            if asset not in part.damaged:
                good.append(snapshot)
        if foreign:
            self._log.warning(
                "environment_changed",
                partition=part.number,
                snapshots=foreign,
                meaning="written by another jaxlib, device, tile or instruction set; equal bits "
                "are claimed from here on",
            )
        if good:
            rows = np.stack([snapshot.words() for snapshot in good])
            self._pool.load(part.number, [snapshot.asset for snapshot in good], rows)
        part.begin_after = {snapshot.asset: snapshot.next_offset for snapshot in good}
        for asset in part.damaged:
            part.begin_after[asset] = part.committed
            self._pool.slots(part.number, [asset])
        part.ledger = PartitionLedger(control.generations, control.skipped)

    # -- replay ------------------------------------------------------------------------------

    def _replay(self) -> list[RestoredPartition]:
        if not all(part.done for part in self._session.values()):
            polled = self._held or self._reader.poll(self._config.worker.max_batch, 0.02)
            self._held = None if self._fold(polled.records) else polled
            if self._held is None:
                self._note_progress(polled)
        finished = [part for part in self._session.values() if part.done]
        for part in finished:
            del self._session[part.number]
        if finished and not self._session:
            self._reader.unassign()
        return [self._complete(part) for part in finished]

    def _note_progress(self, polled: Polled) -> None:
        for record in polled.records:
            part = self._session.get(record.partition)
            if part is not None and record.offset >= part.committed - 1:
                part.done = True
        for number, end in polled.ends.items():
            part = self._session.get(number)
            if part is not None and end >= part.committed:
                part.done = True

    def _fold(self, records: list[Record]) -> bool:
        """Step silently what lies between an asset's snapshot and the committed offset.

        False where a schema has to be known first; nothing was stepped then.
        """
        mine = []
        for record in records:
            part = self._session.get(record.partition)
            if part is None or part.ledger is None:
                continue
            if record.offset < part.committed and record.offset not in part.ledger.skipped:
                mine.append(record)
        if mine:
            rules = self._config.ingestion
            decoded = decode(self._decoder, rules, mine, time.time_ns())
            if decoded.waiting:
                # What was known when these ticks were first read has to be known again.
                if not all(self._resolve(schema_id) for _, schema_id in decoded.waiting.values()):
                    time.sleep(0.02)
                return False
            self._refuse_unreadable(mine, decoded)
            wanted = [
                position
                for position, (index, asset) in enumerate(
                    zip(decoded.positions, decoded.asset_id, strict=True)
                )
                if mine[int(index)].offset
                >= self._session[mine[int(index)].partition].begin_after.get(asset, 0)
            ]
            if wanted:
                chosen = np.array(wanted)
                decoded = decoded._replace(
                    positions=decoded.positions[chosen],
                    asset_id=[decoded.asset_id[i] for i in wanted],
                    ticks=type(decoded.ticks)(*(column[chosen] for column in decoded.ticks)),
                    request_id=[decoded.request_id[i] for i in wanted],
                    state_tag=[decoded.state_tag[i] for i in wanted],
                )
                info, _ = self._stepper.step(mine, decoded, self._timeline, journal=False)
                now = time.time_ns()
                for record, asset in zip(info.records, info.asset_id, strict=True):
                    part = self._session[record.partition]
                    if part.ledger is not None:
                        part.ledger.touch([asset], [record.offset], now)
                        part.replayed += 1
        return True

    def _refuse_unreadable(self, records: list[Record], decoded: Decoded) -> None:
        for rejection in decoded.rejected:
            if rejection.reason in OUTSIDE_OF_THE_LOG:
                record = records[rejection.index]
                raise DataLossRefused(
                    f"{self._config.topics.ticks}/{record.partition} offset {record.offset} was "
                    f"decoded when it was first read, and cannot be now ({rejection.detail}); "
                    "set schemas.registry_url to the registry that knows the schema"
                )

    def _timeline(self, partition: int) -> Timeline:
        ledger = self._session[partition].ledger
        if ledger is None:
            raise RuntimeError("a partition is replayed before it was decided")
        return Timeline(self._config.predictor, ledger.generations)

    def _complete(self, part: _Partition) -> RestoredPartition:
        ledger = part.ledger
        if ledger is None:
            raise RuntimeError("a partition is complete before it was decided")
        announcements: list[tuple[str, str, str, str | None]] = []
        is_new = part.control is None
        ledger.confirm([], part.floor)
        if not is_new:
            own = tunable_values(self._config.predictor)
            ledger.generations, verdict = continued(ledger.generations, own, part.committed)
            ledger.control_due = verdict == "new"
            if verdict == "new":
                announcements.append(
                    (
                        "CONFIG_MUTATED",
                        "info",
                        f"partition {part.number}: generation {ledger.generation.number} begins at "
                        f"offset {part.committed}",
                        None,
                    )
                )
            elif verdict == "older":
                self._log.warning(
                    "older_configuration_kept_out",
                    partition=part.number,
                    generation=ledger.generation.number,
                    remedy="this worker's file equals an earlier generation; give all workers of "
                    "the group the same file",
                )
        else:
            ledger.control_due = True
        for asset, reason in part.damaged.items():
            ledger.touch([asset], [part.committed], time.time_ns())
            ledger.confirm([], part.floor)
            ledger.mark_due([asset])
            announcements.append(
                (
                    "SNAPSHOT_REJECTED",
                    "critical",
                    f"partition {part.number}: {reason}; the asset starts cold at offset "
                    f"{part.committed}",
                    asset,
                )
            )
        self._log.info(
            "partition_restored",
            partition=part.number,
            committed=part.committed,
            floor=part.floor,
            snapshots=len(part.snapshots),
            replayed=part.replayed,
        )
        return RestoredPartition(part.number, part.committed, ledger, is_new, tuple(announcements))


