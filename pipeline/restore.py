"""Rebuilding the state of assigned partitions: locate, read snapshots, replay, hand over.

Driven by the loop in short turns that wait for nobody, so that other partitions keep flowing. Each
partition goes its own way: one that has to wait (an open transaction pins its log, its offsets or
its leader are not there) holds up no other. The order matters: the committed offset is read first
(a stable one, which waits for a dead owner's open transaction), then the snapshots to the true end
of their partition, so that no snapshot of the committed past is missed. Whatever disagrees is
refused, not guessed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum, auto
from typing import Any, Generic, TypeVar

from consumers.events import Polled, Record
from consumers.fetcher import Fetcher
from consumers.offsets import Offsets, Question
from pipeline.config import Config
from pipeline.history import PastTicks
from pipeline.log import Log
from pipeline.pool import StatePool
from pipeline.processing import Stepper
from pipeline.recovery import Kept, PartitionRecovery, RestoredPartition
from pipeline.replay import Replay
from schemas.codec import TickDecoder

STALL_SECONDS = 20.0
ASK_AGAIN_SECONDS = 0.1
_TAUGHT = object()
READ_AT_ONCE = 1000
"""Snapshots taken in at one turn."""

Answer = TypeVar("Answer")


class _Stage(Enum):
    LOCATING = auto()
    READING = auto()
    MEASURING = auto()
    LEARNING = auto()
    REPLAYING = auto()


class _Inquiry(Generic[Answer]):
    """One kind of question: asked for all partitions that want it, again where it was refused."""

    def __init__(self, subject: str, ask: Callable[[list[int]], Question[Answer]]) -> None:
        self._subject = subject
        self._ask = ask
        self._refusals: dict[int, str] = {}
        self._wanting: dict[int, float] = {}
        self._asked: list[Question[Answer]] = []

    def want(self, partition: int) -> None:
        self._wanting[partition] = 0.0

    def drop(self, partition: int) -> None:
        self._wanting.pop(partition, None)
        self._refusals.pop(partition, None)
        for question in self._asked:
            question.forget(partition)

    def turn(self, now: float) -> dict[int, Answer]:
        due = sorted(partition for partition, since in self._wanting.items() if since <= now)
        if due:
            for partition in due:
                del self._wanting[partition]
            self._asked.append(self._ask(due))
        answers: dict[int, Answer] = {}
        for question in self._asked:
            answers |= question.arrived()
            for partition, reason in question.refusals.items():
                self._wanting[partition] = now + ASK_AGAIN_SECONDS
                self._refusals[partition] = reason
            question.refusals.clear()
        self._asked = [question for question in self._asked if question.pending]
        for partition in answers:
            self._refusals.pop(partition, None)
        return answers

    def open(self, partition: int) -> list[str]:
        """What is still to be answered about a partition, with the last refusal."""
        if partition in self._wanting or any(q.asks(partition) for q in self._asked):
            return [f"{self._subject}: {self._refusals.get(partition, 'no answer yet')}"]
        return []


class Restorer:
    """Restores requested partitions, each at its own pace."""

    def __init__(
        self,
        config: Config,
        offsets: Offsets,
        fetcher: Fetcher,
        pool: StatePool,
        stepper: Stepper,
        decoder: TickDecoder,
        resolve: Callable[[int], bool],
        past: PastTicks,
        environment: str,
        log: Log,
    ) -> None:
        self._config = config
        self._past = past
        self._lessons: dict[int, Iterator[None]] = {}
        self._fetcher = fetcher
        self._pool = pool
        self._environment = environment
        self._log = log
        self._replay = Replay(config, stepper, decoder, resolve)
        self._parts: dict[int, PartitionRecovery] = {}
        self._stages: dict[int, _Stage] = {}
        self._since: dict[int, float] = {}
        self._stalled: set[int] = set()
        ticks, snapshots = config.topics.ticks, config.topics.snapshots
        self._committed = _Inquiry(
            "committed offset", lambda numbers: offsets.ask_committed(ticks, numbers)
        )
        self._snapshot_starts = _Inquiry(
            "start of the snapshots", lambda numbers: offsets.ask_log_starts(snapshots, numbers)
        )
        self._snapshot_ends = _Inquiry(
            "end of the snapshots", lambda numbers: offsets.ask_true_ends(snapshots, numbers)
        )
        self._log_starts = _Inquiry(
            "start of the log", lambda numbers: offsets.ask_log_starts(ticks, numbers)
        )
        self._log_ends = _Inquiry(
            "end of the log", lambda numbers: offsets.ask_true_ends(ticks, numbers)
        )
        self._inquiries: tuple[_Inquiry[Any], ...] = (
            self._committed,
            self._snapshot_starts,
            self._snapshot_ends,
            self._log_starts,
            self._log_ends,
        )

    @property
    def busy(self) -> bool:
        """Whether a turn has something to do."""
        return bool(self._parts)

    def request(self, partitions: Iterable[int], kept: Mapping[int, Kept]) -> None:
        """Restore these; `kept` says of what the states are that are still in the pool."""
        for partition in partitions:
            self._parts[partition] = PartitionRecovery(partition, kept.get(partition))
            self._enter(partition, _Stage.LOCATING)
            self._committed.want(partition)

    def cancel(self, partitions: Iterable[int]) -> None:
        """Stop restoring these; what was loaded of them is dropped by the caller."""
        for partition in partitions:
            if self._parts.pop(partition, None) is not None:
                self._leave(partition)

    def turn(self, wait_seconds: float) -> list[RestoredPartition]:
        """A short piece of work; returns the partitions that are complete now.

        **Arguments:** `wait_seconds` for records, where any are to be read.

        **Failure:** `DataLossRefused`, `StructureRefused`; `ConsumerFailed` of the fetcher.
        """
        if not self._parts:
            return []
        now = time.monotonic()
        finished = self._ask(now)
        self._learn()
        if any(stage in (_Stage.READING, _Stage.REPLAYING) for stage in self._stages.values()):
            most = max(self._config.worker.max_batch, READ_AT_ONCE)
            by_topic = self._fetcher.poll(most, wait_seconds)
            self._read(by_topic.get(self._config.topics.snapshots))
            finished += self._fold(by_topic.get(self._config.topics.ticks))
        elif not finished and not self._lessons and wait_seconds:
            time.sleep(min(wait_seconds, 0.002))  # an answer takes a round trip
        self._note_stalls(now)
        return finished

    def _enter(self, partition: int, stage: _Stage) -> None:
        self._stages[partition] = stage
        self._since[partition] = time.monotonic()
        self._stalled.discard(partition)

    def _leave(self, partition: int) -> None:
        del self._stages[partition], self._since[partition]
        self._lessons.pop(partition, None)
        self._stalled.discard(partition)
        self._replay.forget(partition)
        for inquiry in self._inquiries:
            inquiry.drop(partition)
        self._fetcher.stop(self._config.topics.snapshots, partition)
        self._fetcher.stop(self._config.topics.ticks, partition)

    def _note_stalls(self, now: float) -> None:
        stalled = {p for p, since in self._since.items() if now - since > STALL_SECONDS}
        for partition in sorted(stalled - self._stalled):
            self._log.warning(
                "restore_stalled",
                partition=partition,
                stage=self._stages[partition].name.lower(),
                unanswered=[
                    each for inquiry in self._inquiries for each in inquiry.open(partition)
                ],
                remedy="an open transaction pins the log, a schema or the broker is away; still "
                "waiting",
            )
        self._stalled |= stalled

    # -- questions ---------------------------------------------------------------------------

    def _ask(self, now: float) -> list[RestoredPartition]:
        finished = []
        for number, located in self._committed.turn(now).items():
            part = self._parts[number]
            part.located = located
            if self._stages[number] is _Stage.MEASURING:
                self._measured(part)  # the second look
            elif part.is_kept:
                finished.append(part.as_it_was())
                del self._parts[number]
                self._leave(number)
            else:
                self._pool.drop(number)
                self._snapshot_ends.want(number)
        for number, end in self._snapshot_ends.turn(now).items():
            self._parts[number].snapshots_end = end
            self._snapshot_starts.want(number)
        for number, start in self._snapshot_starts.turn(now).items():
            part = self._parts[number]
            if start < part.snapshots_end:
                self._enter(number, _Stage.READING)
                self._fetcher.start(self._config.topics.snapshots, number, start)
            else:
                self._measure(part)
        for number, start in self._log_starts.turn(now).items():
            self._parts[number].log_start = start
            self._measured(self._parts[number])
        for number, end in self._log_ends.turn(now).items():
            self._parts[number].log_end = end
            self._measured(self._parts[number])
        return finished

    def _measure(self, part: PartitionRecovery) -> None:
        """All snapshots are read: what does the log of ticks still hold?"""
        self._enter(part.number, _Stage.MEASURING)
        self._log_starts.want(part.number)
        self._log_ends.want(part.number)
        if part.ahead_of_offsets:
            part.located = None
            self._committed.want(part.number)

    def _measured(self, part: PartitionRecovery) -> None:
        if part.log_start is None or part.log_end is None or part.located is None:
            return
        part.decide(self._config, part.log_start, part.log_end)
        part.load(self._pool, self._environment, self._log)
        part.learned = self._past.assets(part.number) if part.is_new else []
        if part.learned:
            self._enter(part.number, _Stage.LEARNING)
            self._lessons[part.number] = self._past.folding(part.number)
        else:
            self._replay_from_floor(part)

    def _learn(self) -> None:
        """Go on with the past of partitions that have one, one short piece each."""
        for number, lesson in list(self._lessons.items()):
            if next(lesson, _TAUGHT) is _TAUGHT:
                del self._lessons[number]
                self._replay_from_floor(self._parts[number])

    def _replay_from_floor(self, part: PartitionRecovery) -> None:
        self._enter(part.number, _Stage.REPLAYING)
        part.read_to = part.floor
        if part.floor < part.committed:
            self._fetcher.start(self._config.topics.ticks, part.number, part.floor)

    # -- records -----------------------------------------------------------------------------

    def _read(self, polled: Polled | None) -> None:
        if polled is None:
            return
        ended = set()
        for record in polled.records:
            part = self._parts[record.partition]
            if record.offset < part.snapshots_end:
                part.take(self._config, record)
            if record.offset >= part.snapshots_end - 1:
                ended.add(part.number)
        for number, end in polled.ends.items():
            if end >= self._parts[number].snapshots_end:
                ended.add(number)
        for number in sorted(ended):
            self._fetcher.stop(self._config.topics.snapshots, number)
            self._measure(self._parts[number])

    def _fold(self, polled: Polled | None) -> list[RestoredPartition]:
        topic = self._config.topics.ticks
        records = self._replay.released()
        for number in {record.partition for record in records}:
            self._fetcher.resume(topic, number)
        if polled is not None:
            records += polled.records
        self._replay.fold(records, self._parts)
        for number, offset in _read_to(records, polled).items():
            part = self._parts[number]
            part.read_to = max(part.read_to, offset)
            if self._replay.holds(number):
                self._fetcher.pause(topic, number)
        finished = []
        for number, part in list(self._parts.items()):
            replaying = self._stages[number] is _Stage.REPLAYING
            if replaying and part.read_to >= part.committed and not self._replay.holds(number):
                finished.append(part.complete(self._config, self._log))
                del self._parts[number]
                self._leave(number)
        return finished


def _read_to(records: list[Record], polled: Polled | None) -> dict[int, int]:
    """First offset after what has been read, by partition; ends count control records too."""
    offsets = {record.partition: record.offset + 1 for record in records}
    for number, end in (polled.ends if polled is not None else {}).items():
        offsets[number] = max(offsets.get(number, 0), end)
    return offsets
