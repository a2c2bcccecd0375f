"""Requests about records: produce, fetch, list offsets, delete records."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from .log import Appended, PartitionLog, Slice
from .node import Node
from .protocol import ErrorCode, Request, Response
from .records import parse_produced
from .transactions import ProducerIdentity

_LATEST, _EARLIEST, _LARGEST_TIMESTAMP = -1, -2, -3
_LONGEST_WAIT_SECONDS = 60.0


def produce(node: Node, request: Request) -> Response | None:
    """Append one batch per partition; with `acks=0` there is no answer."""
    transactional_id = request.nullable_string()
    acks, _timeout = request.int16(), request.int32()
    topics = request.array(
        lambda: (
            request.string(),
            request.array(lambda: (request.int32(), request.nullable_data())),
        )
    )
    response = request.response()

    def answer_topic(topic: tuple[str, list[tuple[int, memoryview | None]]]) -> None:
        name, partitions = topic

        def answer_partition(item: tuple[int, memoryview | None]) -> None:
            partition, batch = item
            outcome = _append(node, transactional_id, name, partition, batch)
            log = node.topics.log(name, partition)
            response.int32(partition).int16(outcome.error).int64(outcome.base_offset)
            response.int64(outcome.log_append_time)
            if request.version >= 5:
                response.int64(log.log_start_offset if log else -1)
            if request.version >= 8:
                response.array([], response.int32).string(None)

        response.string(name).array(partitions, answer_partition)

    response.array(topics, answer_topic).int32(0)
    return response if acks else None


def _append(
    node: Node,
    transactional_id: str | None,
    name: str,
    partition: int,
    batch: memoryview | None,
) -> Appended:
    topic, log = node.topics.get(name), node.topics.log(name, partition)
    if topic is None or log is None:
        return Appended(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    if batch is None:
        return Appended(ErrorCode.INVALID_RECORD)
    if len(batch) > int(topic.setting("max.message.bytes")):
        return Appended(ErrorCode.MESSAGE_TOO_LARGE)
    header = parse_produced(batch)
    if isinstance(header, ErrorCode):
        return Appended(header)
    now_ms = node.clock.wall_ms()
    if not topic.accepts_time(header.max_timestamp, now_ms):
        return Appended(ErrorCode.INVALID_TIMESTAMP)
    if header.is_transactional:
        if transactional_id is None:
            return Appended(ErrorCode.INVALID_REQUEST)
        producer = ProducerIdentity(header.producer_id, header.producer_epoch)
        error = node.transactions.write_error(transactional_id, producer, (name, partition))
        if error:
            return Appended(error)
    return log.append(header, batch, now_ms, topic.uses_log_append_time)


class _Wanted(NamedTuple):
    """One partition of a fetch."""

    topic: str
    partition: int
    offset: int
    largest: int


async def fetch(node: Node, request: Request) -> Response:
    """Return what there is, or wait for it; sessions are not kept (session id 0)."""
    request.int32()  # replica
    wait_ms, smallest, largest = request.int32(), request.int32(), request.int32()
    read_committed = request.int8() == 1
    if request.version >= 7:
        request.int32(), request.int32()  # session id and epoch

    def wanted(topic: str) -> _Wanted:
        partition = request.int32()
        if request.version >= 9:
            request.int32()  # leader epoch
        offset = request.int64()
        if request.version >= 5:
            request.int64()  # log start offset of a follower
        return _Wanted(topic, partition, offset, request.int32())

    def wanted_topic() -> tuple[str, list[_Wanted]]:
        topic = request.string()
        return topic, request.array(lambda: wanted(topic))

    topics = request.array(wanted_topic)
    everything = [item for _, items in topics for item in items]
    wait = min(wait_ms / 1000, _LONGEST_WAIT_SECONDS)
    await _wait_for_data(node, everything, wait, smallest, read_committed)
    return _fetched(node, request, topics, largest, read_committed)


def _is_answerable(
    node: Node, everything: list[_Wanted], smallest: int, read_committed: bool
) -> bool:
    """Whether the fetch would return enough bytes, or an error."""
    size = 0
    for item in everything:
        log = node.topics.log(item.topic, item.partition)
        if log is None or not log.is_in_range(item.offset):
            return True
        size += log.available(item.offset, read_committed, smallest - size)
        if size >= smallest:
            return True
    return False


async def _wait_for_data(
    node: Node, everything: list[_Wanted], wait: float, smallest: int, read_committed: bool
) -> None:
    """Sleep until the partitions have something to tell, at most `wait` seconds."""
    if wait <= 0 or _is_answerable(node, everything, smallest, read_committed):
        return
    changed = asyncio.Event()
    logs = [node.topics.log(item.topic, item.partition) for item in everything]
    for log in logs:
        if log is not None:
            log.listeners.add(changed.set)
    try:
        async with asyncio.timeout(wait):
            while not _is_answerable(node, everything, smallest, read_committed):
                changed.clear()
                await changed.wait()
    except TimeoutError:
        pass
    finally:
        for log in logs:
            if log is not None:
                log.listeners.discard(changed.set)


def _fetched(
    node: Node,
    request: Request,
    topics: list[tuple[str, list[_Wanted]]],
    largest: int,
    read_committed: bool,
) -> Response:
    response = request.response().int32(0)
    if request.version >= 7:
        response.int16(ErrorCode.NONE).int32(0)
    remaining = largest

    def answer_partition(item: _Wanted) -> None:
        nonlocal remaining
        log = node.topics.log(item.topic, item.partition)
        error = _fetch_error(log, item.offset)
        found = Slice([], [])
        if log is not None and not error:
            # Only the first data of a response may exceed the limits.
            limit = min(item.largest, remaining)
            found = log.read(item.offset, limit, read_committed, remaining == largest)
            remaining -= sum(map(len, found.batches))
        response.int32(item.partition).int16(error)
        response.int64(log.high_watermark if log else -1)
        response.int64(log.last_stable_offset if log else -1)
        if request.version >= 5:
            response.int64(log.log_start_offset if log else -1)
        response.array(
            found.aborted, lambda one: response.int64(one.producer_id).int64(one.first_offset)
        )
        if request.version >= 11:
            response.int32(-1)  # preferred replica
        response.data(found.batches)

    def answer_topic(topic: tuple[str, list[_Wanted]]) -> None:
        response.string(topic[0]).array(topic[1], answer_partition)

    return response.array(topics, answer_topic)


def _fetch_error(log: PartitionLog | None, offset: int) -> ErrorCode:
    if log is None:
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    return ErrorCode.NONE if log.is_in_range(offset) else ErrorCode.OFFSET_OUT_OF_RANGE


def list_offsets(node: Node, request: Request) -> Response:
    """First, last, or by time; with `read_committed` the last is the last stable offset."""
    request.int32()  # replica
    read_committed = request.version >= 2 and request.int8() == 1

    def wanted() -> tuple[int, int]:
        partition = request.int32()
        if request.version >= 4:
            request.int32()  # leader epoch
        timestamp = request.int64()
        request.tags()
        return partition, timestamp

    topics = request.array(lambda: request.structure(request.string, lambda: request.array(wanted)))
    response = request.response()
    if request.version >= 2:
        response.int32(0)

    def answer_topic(topic: tuple) -> None:
        name, partitions = topic

        def answer_partition(item: tuple[int, int]) -> None:
            log = node.topics.log(name, item[0])
            error, found = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, (-1, -1)
            if log is not None:
                error, found = ErrorCode.NONE, _find_offset(log, item[1], read_committed)
            response.int32(item[0]).int16(error).int64(found[0]).int64(found[1])
            if request.version >= 4:
                response.int32(0 if found[1] >= 0 else -1)
            response.tags()

        response.string(name).array(partitions, answer_partition).tags()

    return response.array(topics, answer_topic).tags()


def _find_offset(log: PartitionLog, timestamp: int, read_committed: bool) -> tuple[int, int]:
    if timestamp == _LATEST:
        return -1, log.end_offset(read_committed)
    if timestamp == _EARLIEST:
        return -1, log.log_start_offset
    if timestamp == _LARGEST_TIMESTAMP:
        return log.offset_of_largest_timestamp()
    return log.offset_for_time(timestamp, read_committed)


def delete_records(node: Node, request: Request) -> Response:
    """Move the start of logs forward; offset -1 means to their end."""
    topics = request.array(
        lambda: request.structure(
            request.string,
            lambda: request.array(lambda: request.structure(request.int32, request.int64)),
        )
    )
    request.int32()  # time-out
    response = request.response().int32(0)

    def answer_topic(topic: tuple) -> None:
        name, partitions = topic

        def answer_partition(item: tuple[int, int]) -> None:
            partition, offset = item
            log = node.topics.log(name, partition)
            error, low = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1
            if log is not None:
                offset = log.high_watermark if offset == -1 else offset
                error = _fetch_error(log, max(offset, log.log_start_offset))
                if not error:
                    log.delete_before(offset)
                    low = log.log_start_offset
            response.int32(partition).int64(low).int16(error).tags()

        response.string(name).array(partitions, answer_partition).tags()

    return response.array(topics, answer_topic).tags()
