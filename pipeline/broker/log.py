"""One partition: its batches, its producers, its open and aborted transactions.

The log knows nothing of sockets and clocks; the time is an argument (`now_ms`, wall-clock
milliseconds). Positions follow Kafka: `log_start_offset` is the first offset that exists,
`high_watermark` the next to be written, and the *last stable offset* the first offset of the
oldest open transaction, or the high watermark if none is open.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from .compression import Unreadable
from .protocol import ErrorCode
from .records import (
    BatchHeader,
    Record,
    control_marker,
    read_header,
    records,
    with_append_time,
    with_offset,
)

_LARGEST_SEQUENCE = 2**31 - 1
_REMEMBERED_BATCHES = 5  # what Kafka remembers per producer; clients keep no more in flight


@dataclass(slots=True, eq=False)
class StoredBatch:
    """A batch in the log.

    `keys` caches what compaction found inside: None before it looked (`has_been_searched`), and
    None for good if a record has no key or the batch cannot be decompressed here.
    """

    base_offset: int
    last_offset: int
    max_timestamp: int
    producer_id: int
    is_transactional: bool
    is_control: bool
    data: bytes
    keys: frozenset[bytes] | None = None
    has_been_searched: bool = False

    def records(self) -> list[Record] | None:
        """The records, or None if the batch cannot be decompressed here."""
        try:
            return list(records(self.data))
        except Unreadable:
            return None

    def find_keys(self) -> frozenset[bytes] | None:
        """The keys in the batch; it is decompressed once, the first time."""
        if not self.has_been_searched:
            found = [record.key for record in self.records() or ()]
            keys = frozenset(key for key in found if key is not None)
            self.keys = keys if found and None not in found else None
            self.has_been_searched = True
        return self.keys


class AbortedTransaction(NamedTuple):
    """Records of `producer_id` from `first_offset` to the marker were aborted."""

    producer_id: int
    first_offset: int
    marker_offset: int


class Appended(NamedTuple):
    """Outcome of an append; on error the offset is -1. The time is -1 unless the log sets it."""

    error: ErrorCode
    base_offset: int = -1
    log_append_time: int = -1


class Slice(NamedTuple):
    """What a fetch returns of one partition."""

    batches: list[bytes]
    aborted: list[AbortedTransaction]


class _AppendedBatch(NamedTuple):
    first_sequence: int
    last_sequence: int
    base_offset: int


@dataclass(slots=True)
class _Producer:
    """The idempotence window of one producer in this partition."""

    epoch: int
    recent: deque[_AppendedBatch] = field(default_factory=lambda: deque(maxlen=_REMEMBERED_BATCHES))

    def check(self, header: BatchHeader) -> ErrorCode | _AppendedBatch:
        """NONE if the batch is the next one; the earlier append if it is a repetition."""
        if header.producer_epoch < self.epoch:
            return ErrorCode.INVALID_PRODUCER_EPOCH
        first, last = header.base_sequence, _last_sequence(header)
        if header.producer_epoch > self.epoch:
            return ErrorCode.NONE if first == 0 else ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        for appended in self.recent:
            if (appended.first_sequence, appended.last_sequence) == (first, last):
                return appended
        if self.recent and first != _next_sequence(self.recent[-1].last_sequence):
            return ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
        return ErrorCode.NONE


def _next_sequence(sequence: int) -> int:
    return 0 if sequence == _LARGEST_SEQUENCE else sequence + 1


def _last_sequence(header: BatchHeader) -> int:
    return (header.base_sequence + header.last_offset_delta) % (_LARGEST_SEQUENCE + 1)


class PartitionLog:
    """The log of one partition, in memory.

    `listeners` are called after every change that a waiting fetch may care about.
    """

    def __init__(self) -> None:
        self.log_start_offset = 0
        self.high_watermark = 0
        self.listeners: set[Callable[[], None]] = set()
        self.size_in_bytes = 0
        self.is_deleted = False
        self._batches: list[StoredBatch] = []
        self._last_offsets: list[int] = []  # of the batches, for bisection
        self._producers: dict[int, _Producer] = {}
        self._open: dict[int, int] = {}  # producer id -> first offset of its open transaction
        self._aborted: list[AbortedTransaction] = []  # in order of their markers
        self._size_when_compacted = 0

    @property
    def last_stable_offset(self) -> int:
        oldest = min(self._open.values(), default=self.high_watermark)
        return max(oldest, self.log_start_offset)

    def end_offset(self, read_committed: bool) -> int:
        return self.last_stable_offset if read_committed else self.high_watermark

    # Writing

    def append(
        self, header: BatchHeader, batch: memoryview, now_ms: int, log_append_time: bool = False
    ) -> Appended:
        """Append a checked batch, unless its producer is stale or its sequence out of order.

        A repetition of one of the producer's last five batches is not appended again and answers
        the offset of the first time, so that a retry is harmless.
        """
        if header.producer_id >= 0:
            producer = self._producers.get(header.producer_id)
            verdict = producer.check(header) if producer else ErrorCode.NONE
            if isinstance(verdict, _AppendedBatch):
                return Appended(ErrorCode.NONE, verdict.base_offset)
            if verdict:
                return Appended(verdict)
        offset = self.high_watermark
        data = with_offset(batch, offset)
        if log_append_time:
            data = with_append_time(data, now_ms)
        self._store(header, data, now_ms if log_append_time else header.max_timestamp)
        return Appended(ErrorCode.NONE, offset, now_ms if log_append_time else -1)

    def _store(self, header: BatchHeader, data: bytes, max_timestamp: int) -> None:
        base = self.high_watermark
        last = base + header.last_offset_delta
        if header.producer_id >= 0 and not header.is_control:
            window = self._window(header.producer_id, header.producer_epoch)
            window.append(_AppendedBatch(header.base_sequence, _last_sequence(header), base))
            if header.is_transactional:
                self._open.setdefault(header.producer_id, base)
        self._batches.append(
            StoredBatch(
                base,
                last,
                max_timestamp,
                header.producer_id,
                header.is_transactional,
                header.is_control,
                data,
            )
        )
        self._last_offsets.append(last)
        self.high_watermark = last + 1
        self.size_in_bytes += len(data)
        self.notify()

    def _window(self, producer_id: int, epoch: int) -> deque[_AppendedBatch]:
        """The producer's window; a new epoch begins a new one."""
        producer = self._producers.get(producer_id)
        if producer is None or producer.epoch != epoch:
            producer = self._producers[producer_id] = _Producer(epoch)
        return producer.recent

    def end_transaction(self, producer_id: int, epoch: int, commit: bool, now_ms: int) -> None:
        """Write the marker that commits or aborts what the producer has open here.

        A marker of a newer epoch also fences what an older instance of the producer still sends.
        """
        first_offset = self._open.pop(producer_id, None)
        self._window(producer_id, epoch)
        if first_offset is not None and not commit:
            aborted = AbortedTransaction(producer_id, first_offset, self.high_watermark)
            self._aborted.append(aborted)
        marker = memoryview(control_marker(producer_id, epoch, commit, now_ms))
        self._store(read_header(marker), with_offset(marker, self.high_watermark), now_ms)

    def notify(self) -> None:
        """Wake those who wait for a change of this partition."""
        for listener in tuple(self.listeners):
            listener()

    # Reading

    def is_in_range(self, offset: int) -> bool:
        return self.log_start_offset <= offset <= self.high_watermark

    def available(self, offset: int, read_committed: bool, enough: int) -> int:
        """Bytes that a fetch at `offset` could return now, counted up to `enough`."""
        end, size = self.end_offset(read_committed), 0
        for index in range(bisect_left(self._last_offsets, offset), len(self._batches)):
            batch = self._batches[index]
            if size >= enough or batch.base_offset >= end:
                break
            size += len(batch.data)
        return size

    def read(self, offset: int, largest: int, read_committed: bool, at_least_one: bool) -> Slice:
        """Whole batches from the one that holds `offset` on.

        **Arguments:**

        - `offset`: first offset wanted; the first batch may begin before it.
        - `largest`: bytes to return at most.
        - `read_committed`: stop at the last stable offset, and list the aborted transactions
          among what is returned, which the client leaves out.
        - `at_least_one`: return the first batch even if it is larger, so that a consumer with a
          small limit is not stuck.
        """
        end = self.end_offset(read_committed)
        chosen: list[bytes] = []
        size, upper = 0, offset
        for index in range(bisect_left(self._last_offsets, offset), len(self._batches)):
            batch = self._batches[index]
            if batch.base_offset >= end:
                break
            if size + len(batch.data) > largest and (chosen or not at_least_one):
                break
            chosen.append(batch.data)
            size += len(batch.data)
            upper = batch.last_offset + 1
        return Slice(chosen, self._aborted_between(offset, upper) if read_committed else [])

    def _aborted_between(self, lower: int, upper: int) -> list[AbortedTransaction]:
        first = bisect_left(self._aborted, lower, key=lambda aborted: aborted.marker_offset)
        return [aborted for aborted in self._aborted[first:] if aborted.first_offset < upper]

    def offset_for_time(self, timestamp: int, read_committed: bool) -> tuple[int, int]:
        """Timestamp and offset of the first record at or after `timestamp`, or (-1, -1).

        Inside a batch that cannot be decompressed here the answer is the batch's first offset.
        """
        end = self.end_offset(read_committed)
        for batch in self._batches:
            if batch.base_offset >= end:
                break
            if batch.max_timestamp < timestamp or batch.is_control:
                continue
            content = batch.records()
            if content is None:
                return batch.max_timestamp, max(batch.base_offset, self.log_start_offset)
            for record in content:
                offset = batch.base_offset + record.offset_delta
                if record.timestamp >= timestamp and offset >= self.log_start_offset:
                    return record.timestamp, offset
        return -1, -1

    def offset_of_largest_timestamp(self) -> tuple[int, int]:
        """Timestamp and offset of the newest record by time, or (-1, -1) if there is none."""
        data = [batch for batch in self._batches if not batch.is_control]
        if not data:
            return -1, -1
        batch = max(data, key=lambda batch: batch.max_timestamp)
        for record in batch.records() or ():
            if record.timestamp == batch.max_timestamp:
                return batch.max_timestamp, batch.base_offset + record.offset_delta
        return batch.max_timestamp, batch.last_offset

    # Cleaning

    def delete_before(self, offset: int) -> None:
        """Move the start of the log to `offset` and drop the batches that lie wholly before it."""
        self.log_start_offset = max(self.log_start_offset, offset)
        first = bisect_left(self._last_offsets, self.log_start_offset)
        self._keep(self._batches[first:])

    def expire(self, retention_ms: int, retention_bytes: int, now_ms: int) -> None:
        """Drop the oldest batches beyond either limit (-1: none), below the last stable offset."""
        size, keep_from = self.size_in_bytes, 0
        stable = self.last_stable_offset
        for batch in self._batches:
            is_old = 0 <= retention_ms < now_ms - batch.max_timestamp
            is_surplus = 0 <= retention_bytes < size
            if not (is_old or is_surplus) or batch.last_offset >= stable:
                break
            size -= len(batch.data)
            keep_from = batch.last_offset + 1
        if keep_from:
            self.delete_before(keep_from)

    def needs_compaction(self) -> bool:
        """Whether the log has doubled since the last time, and is worth the work at all."""
        return self.size_in_bytes > max(2 * self._size_when_compacted, 64 << 10)

    def compactable(self) -> list[StoredBatch]:
        """The batches below the last stable offset, except the last of them.

        That one stays whatever it holds: a reader must find a batch at the end of the log.
        """
        return self._batches[: max(0, self._stable_count() - 1)]

    def _stable_count(self) -> int:
        return bisect_left(self._last_offsets, self.last_stable_offset)

    def compact(self) -> None:
        """Drop whole batches that carry nothing any more.

        These are: aborted batches with their markers, commit markers, and batches each of whose
        keys has a newer committed record below the last stable offset. A batch with a record
        without key, or one that cannot be decompressed here, stays. Tombstones stay like any
        newest value. So the newest value of a key is never lost; older ones may remain.

        Markers of aborted transactions go together with their entry in the aborted list, since a
        client that is told of an abort looks for the marker to know where it ends.
        """
        removable = set(map(id, self.compactable()))
        kept: list[StoredBatch] = []
        newest: set[bytes] = set()
        stable = self._stable_count()
        for batch in reversed(self._batches[:stable]):
            is_live = self._is_live(batch, newest)
            if is_live or id(batch) not in removable:
                kept.append(batch)
        kept.reverse()
        kept_offsets = {batch.base_offset for batch in kept}
        self._aborted = [
            aborted
            for aborted in self._aborted
            if aborted.marker_offset in kept_offsets
            or aborted.marker_offset >= self.last_stable_offset
        ]
        self._keep(kept + self._batches[stable:])
        self._size_when_compacted = self.size_in_bytes

    def _is_live(self, batch: StoredBatch, newest: set[bytes]) -> bool:
        """Whether the batch has a key not in `newest`; its keys are added to it."""
        if batch.is_control or self._is_aborted(batch):
            return False
        keys = batch.find_keys()
        if keys is None:
            return True
        is_live = not keys <= newest
        newest |= keys
        return is_live

    def _is_aborted(self, batch: StoredBatch) -> bool:
        if not batch.is_transactional:
            return False
        candidates = self._aborted_between(batch.base_offset, batch.last_offset + 1)
        return any(aborted.producer_id == batch.producer_id for aborted in candidates)

    def _keep(self, batches: list[StoredBatch]) -> None:
        self._batches = batches
        self._last_offsets = [batch.last_offset for batch in batches]
        self.size_in_bytes = sum(len(batch.data) for batch in batches)
        start = self.log_start_offset
        self._aborted = [aborted for aborted in self._aborted if aborted.marker_offset >= start]
