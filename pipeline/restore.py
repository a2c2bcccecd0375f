"""Rebuilding the state of assigned partitions: locate, read snapshots, replay, hand over.

Driven by the loop in short turns, so that other partitions keep flowing. The order matters:
the committed offsets are read first (stable ones, which waits for a dead owner's open
transaction), then the snapshots to the true end of their partition, so that no snapshot of
the committed past is missed. Whatever disagrees is refused, not guessed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from enum import Enum, auto

import numpy as np

from consumers.events import Polled, Record
from consumers.reader import BEGINNING, LogReader, Unanswered
from pipeline.config import Config
from pipeline.generations import Timeline
from pipeline.log import Log
from pipeline.pool import StatePool
from pipeline.processing import OUTSIDE_OF_THE_LOG, Decoded, Stepper, decode
from pipeline.recovery import DataLossRefused, PartitionRecovery, RestoredPartition
from schemas.codec import TickDecoder

QUESTION_SECONDS = 1.0
STALL_SECONDS = 20.0


class _Stage(Enum):
    LOCATING = auto()
    READING = auto()
    REPLAYING = auto()


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
        self._session: dict[int, PartitionRecovery] = {}
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
            self._session = {p: PartitionRecovery(p, kept) for p, kept in self._requested.items()}
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
                    part.take(self._config, record)
                if part is not None and record.offset >= part.snapshots_end - 1:
                    part.done = True
            for number, end in polled.ends.items():
                part = self._session.get(number)
                if part is not None and end >= part.snapshots_end:
                    part.done = True
        if all(part.done for part in self._session.values()):
            self._reader.unassign()
            self._prepare()

    # -- decide ------------------------------------------------------------------------------

    def _prepare(self) -> None:
        topics = self._config.topics
        numbers = sorted(self._session)
        starts = self._reader.log_starts(topics.ticks, numbers, QUESTION_SECONDS)
        ends = self._reader.true_ends(topics.ticks, numbers, QUESTION_SECONDS)
        self._second_look(numbers)
        replays: dict[int, int] = {}
        for number in numbers:
            part = self._session[number]
            part.decide(self._config, starts[number], ends[number])
            part.load(self._pool, self._environment, self._log)
            part.done = part.floor >= part.committed
            if not part.done:
                replays[number] = part.floor
        self._enter(_Stage.REPLAYING)
        self._held = None
        if replays:
            self._reader.assign(topics.ticks, replays)

    def _second_look(self, numbers: list[int]) -> None:
        ahead = [number for number in numbers if self._session[number].ahead_of_offsets]
        if ahead:
            topic = self._config.topics.ticks
            for number, found in self._reader.committed(topic, ahead, QUESTION_SECONDS).items():
                self._session[number].located = found

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
        return [part.complete(self._config, self._log) for part in finished]

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
