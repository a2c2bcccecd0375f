"""Requests of idempotent and transactional producers."""

from __future__ import annotations

from .group_requests import read_offsets, refuse_offsets
from .groups import Identity
from .node import Node
from .protocol import ErrorCode, Request, Response
from .transactions import NOBODY, ProducerIdentity

# From these versions on a fenced producer hears PRODUCER_FENCED instead of INVALID_PRODUCER_EPOCH.
_KNOWS_FENCED = {"init_producer_id": 4, "txn": 2}


def _spoken(error: ErrorCode, request: Request, since: int) -> ErrorCode:
    """The error in words that the request's version knows."""
    if error is ErrorCode.PRODUCER_FENCED and request.version < since:
        return ErrorCode.INVALID_PRODUCER_EPOCH
    return error


def _read_producer(request: Request) -> ProducerIdentity:
    return ProducerIdentity(request.int64(), request.int16())


def init_producer_id(node: Node, request: Request) -> Response:
    transactional_id, timeout_ms = request.nullable_string(), request.int32()
    expected = _read_producer(request) if request.version >= 3 else NOBODY
    error, producer = node.transactions.init_producer(transactional_id, timeout_ms / 1000, expected)
    error = _spoken(error, request, _KNOWS_FENCED["init_producer_id"])
    response = request.response().int32(0).int16(error)
    return response.int64(producer.producer_id).int16(producer.epoch).tags()


def add_partitions_to_txn(node: Node, request: Request) -> Response:
    """All partitions or none become part of the transaction."""
    transactional_id, producer = request.string(), _read_producer(request)
    topics = request.array(
        lambda: request.structure(request.string, lambda: request.array(request.int32))
    )
    wanted = {(name, partition) for name, partitions in topics for partition in partitions}
    unknown = {item for item in wanted if node.topics.log(*item) is None}
    error = ErrorCode.OPERATION_NOT_ATTEMPTED
    if not unknown:
        now = node.clock.monotonic()
        error = node.transactions.add_partitions(transactional_id, producer, wanted, now)
        error = _spoken(error, request, _KNOWS_FENCED["txn"])
    response = request.response().int32(0)

    def answer_topic(topic: tuple) -> None:
        name, partitions = topic

        def answer_partition(partition: int) -> None:
            is_unknown = (name, partition) in unknown
            own = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if is_unknown else error
            response.int32(partition).int16(own).tags()

        response.string(name).array(partitions, answer_partition).tags()

    return response.array(topics, answer_topic).tags()


def add_offsets_to_txn(node: Node, request: Request) -> Response:
    transactional_id, producer = request.string(), _read_producer(request)
    group_id, now = request.string(), node.clock.monotonic()
    error = node.transactions.add_group(transactional_id, producer, group_id, now)
    error = _spoken(error, request, _KNOWS_FENCED["txn"])
    return request.response().int32(0).int16(error).tags()


def txn_offset_commit(node: Node, request: Request) -> Response:
    """Hold a group's offsets until the transaction ends.

    The consumer must still be a member of the current generation, so that a worker that lost its
    partitions cannot commit for them.
    """
    transactional_id, group_id = request.string(), request.string()
    producer = _read_producer(request)
    identity = Identity(-1, "")
    if request.version >= 3:
        identity = Identity(request.int32(), request.string(), request.nullable_string())
    topics = read_offsets(request, has_leader_epoch=request.version >= 2)
    error = node.transactions.offsets_error(transactional_id, producer, group_id)
    if not error:
        error = node.group(group_id).commit_error(identity, is_transactional=True)
    accepted, errors = refuse_offsets(node, topics, error)
    if accepted:
        node.group(group_id).stage(producer.producer_id, accepted)
    response = request.response().int32(0)

    def answer_topic(topic: tuple) -> None:
        name, offsets = topic

        def answer_partition(item: tuple) -> None:
            response.int32(item[0]).int16(errors[name, item[0]]).tags()

        response.string(name).array(offsets, answer_partition).tags()

    return response.array(topics, answer_topic).tags()


def end_txn(node: Node, request: Request) -> Response:
    transactional_id, producer = request.string(), _read_producer(request)
    error = node.transactions.end(transactional_id, producer, commit=request.boolean())
    error = _spoken(error, request, _KNOWS_FENCED["txn"])
    return request.response().int32(0).int16(error).tags()
