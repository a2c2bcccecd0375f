"""Requests of consumer groups: membership, committed offsets, administration."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from .groups import (
    LARGEST_METADATA_LENGTH,
    CommittedOffset,
    Group,
    GroupState,
    Identity,
    JoinReply,
    JoinRequest,
    Member,
    Partition,
    SyncReply,
)
from .node import NODE_ID, Node
from .protocol import UNKNOWN_OPERATIONS, ErrorCode, Request, Response

T = TypeVar("T")
OffsetsByTopic = list[tuple[str, list[tuple[int, CommittedOffset]]]]


def _throttled(request: Request, since: int) -> Response:
    """A response that begins with the throttle time from version `since` on."""
    response = request.response()
    return response.int32(0) if request.version >= since else response


def _set_if_waiting(future: asyncio.Future[T], value: T) -> None:
    if not future.done():  # the connection may have been closed meanwhile
        future.set_result(value)


def find_coordinator(node: Node, request: Request) -> Response:
    """This broker coordinates everything."""
    request.string()
    if request.version >= 1:
        request.int8()  # group or transaction
    response = _throttled(request, 1).int16(ErrorCode.NONE)
    if request.version >= 1:
        response.string(None)
    return response.int32(NODE_ID).string(node.host).int32(node.port).tags()


async def join_group(node: Node, request: Request) -> Response:
    group_id, session_ms = request.string(), request.int32()
    rebalance_ms = request.int32() if request.version >= 1 else session_ms
    member_id = request.string()
    instance_id = request.nullable_string() if request.version >= 5 else None
    protocol_type = request.string()
    protocols = request.array(
        lambda: request.structure(request.string, lambda: bytes(request.data()))
    )
    joining = JoinRequest(
        member_id,
        instance_id,
        session_ms / 1000,
        rebalance_ms / 1000,
        protocol_type,
        tuple(protocols),
        request.client_id,
        request.client_host,
        must_know_its_id=request.version >= 4,
    )
    if not group_id:
        return _joined(request, JoinReply(ErrorCode.INVALID_GROUP_ID, member_id))
    future: asyncio.Future[JoinReply] = asyncio.get_running_loop().create_future()
    node.group(group_id).join(
        joining, node.clock.monotonic(), lambda reply: _set_if_waiting(future, reply)
    )
    return _joined(request, await future)


def _joined(request: Request, reply: JoinReply) -> Response:
    response = _throttled(request, 2).int16(reply.error).int32(reply.generation)
    response.string(reply.protocol).string(reply.leader).string(reply.member_id)

    def describe(member: tuple[str, str | None, bytes]) -> None:
        member_id, instance_id, metadata = member
        response.string(member_id)
        if request.version >= 5:
            response.string(instance_id)
        response.data([metadata]).tags()

    return response.array(reply.members, describe).tags()


async def sync_group(node: Node, request: Request) -> Response:
    group_id = request.string()
    identity = _read_identity(request, 3)
    assignments = dict(
        request.array(lambda: request.structure(request.string, lambda: bytes(request.data())))
    )
    future: asyncio.Future[SyncReply] = asyncio.get_running_loop().create_future()
    group = node.groups.get(group_id)
    if group is None:
        reply = SyncReply(ErrorCode.UNKNOWN_MEMBER_ID)
    else:
        now = node.clock.monotonic()
        group.sync(identity, assignments, now, lambda reply: _set_if_waiting(future, reply))
        reply = await future
    return _throttled(request, 1).int16(reply.error).data([reply.assignment]).tags()


def _read_identity(request: Request, instance_since: int) -> Identity:
    generation, member_id = request.int32(), request.string()
    has_instance = request.version >= instance_since
    return Identity(generation, member_id, request.nullable_string() if has_instance else None)


def heartbeat(node: Node, request: Request) -> Response:
    group = node.groups.get(request.string())
    identity = _read_identity(request, 3)
    error = ErrorCode.UNKNOWN_MEMBER_ID
    if group is not None:
        error = group.heartbeat(identity, node.clock.monotonic())
    return _throttled(request, 1).int16(error).tags()


def leave_group(node: Node, request: Request) -> Response:
    group = node.groups.get(request.string())
    leaving: list[tuple] = (
        request.array(lambda: request.structure(request.string, request.nullable_string))
        if request.version >= 3
        else [(request.string(), None)]
    )
    now = node.clock.monotonic()
    outcomes = [
        (
            member_id,
            instance_id,
            group.leave(member_id, instance_id, now) if group else ErrorCode.UNKNOWN_MEMBER_ID,
        )
        for member_id, instance_id in leaving
    ]
    response = _throttled(request, 1)
    if request.version < 3:
        return response.int16(outcomes[0][2])
    response.int16(ErrorCode.NONE).array(
        outcomes, lambda one: response.string(one[0]).string(one[1]).int16(one[2]).tags()
    )
    return response.tags()


def read_offsets(request: Request, has_leader_epoch: bool) -> OffsetsByTopic:
    """Offsets to commit, as they stand in both kinds of commit request."""

    def offset() -> tuple[int, CommittedOffset]:
        partition, committed = request.int32(), request.int64()
        leader_epoch = request.int32() if has_leader_epoch else -1
        metadata = request.nullable_string() or ""
        request.tags()
        return partition, CommittedOffset(committed, leader_epoch, metadata)

    topics = request.array(lambda: request.structure(request.string, lambda: request.array(offset)))
    return [(name, offsets) for name, offsets in topics]


def refuse_offsets(
    node: Node, topics: OffsetsByTopic, error: ErrorCode
) -> tuple[dict[Partition, CommittedOffset], dict[Partition, ErrorCode]]:
    """Which offsets may be committed, and each partition's error; `error` refuses them all."""
    accepted: dict[Partition, CommittedOffset] = {}
    errors: dict[Partition, ErrorCode] = {}
    for name, offsets in topics:
        for partition, committed in offsets:
            own = error
            if not own and node.topics.log(name, partition) is None:
                own = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            if not own and len(committed.metadata) > LARGEST_METADATA_LENGTH:
                own = ErrorCode.OFFSET_METADATA_TOO_LARGE
            if not own:
                accepted[name, partition] = committed
            errors[name, partition] = own
    return accepted, errors


def offset_commit(node: Node, request: Request) -> Response:
    group_id = request.string()
    identity = _read_identity(request, 7)
    if request.version <= 4:
        request.int64()  # retention time
    topics = read_offsets(request, has_leader_epoch=request.version >= 6)
    error, group = _committing_group(node, group_id, identity)
    accepted, errors = refuse_offsets(node, topics, error)
    if group is not None and not error:
        group.offsets.update(accepted)
        group.touch(identity, node.clock.monotonic())
    response = _throttled(request, 3)

    def answer_topic(topic: tuple) -> None:
        name, offsets = topic
        response.string(name).array(
            offsets, lambda item: response.int32(item[0]).int16(errors[name, item[0]]).tags()
        ).tags()

    return response.array(topics, answer_topic).tags()


def _committing_group(
    node: Node, group_id: str, identity: Identity
) -> tuple[ErrorCode, Group | None]:
    if not group_id:
        return ErrorCode.INVALID_GROUP_ID, None
    if group_id not in node.groups and identity.generation >= 0:
        return ErrorCode.ILLEGAL_GENERATION, None
    group = node.group(group_id)
    return group.commit_error(identity, is_transactional=False), group


def offset_fetch(node: Node, request: Request) -> Response:
    """Committed offsets; with `require_stable` those that an open transaction may change wait."""
    group = node.groups.get(request.string()) or Group("")
    topics = request.nullable_array(
        lambda: request.structure(request.string, lambda: request.array(request.int32))
    )
    require_stable = request.version >= 7 and request.boolean()
    if topics is None:
        known: dict[str, list[int]] = {}
        for name, partition in sorted(group.offsets):
            known.setdefault(name, []).append(partition)
        topics = list(known.items())
    response = _throttled(request, 3)

    def answer_topic(topic: tuple) -> None:
        name, partitions = topic

        def answer_partition(partition: int) -> None:
            error, committed = ErrorCode.NONE, group.offsets.get((name, partition))
            if require_stable and group.is_unstable((name, partition)):
                error, committed = ErrorCode.UNSTABLE_OFFSET_COMMIT, None
            committed = committed or CommittedOffset(-1)
            response.int32(partition).int64(committed.offset)
            if request.version >= 5:
                response.int32(committed.leader_epoch)
            response.string(committed.metadata).int16(error).tags()

        response.string(name).array(partitions, answer_partition).tags()

    response.array(topics, answer_topic)
    if request.version >= 2:
        response.int16(ErrorCode.NONE)
    return response.tags()


def describe_groups(node: Node, request: Request) -> Response:
    group_ids = request.array(request.string)
    if request.version >= 3:
        request.boolean()  # authorised operations
    response = _throttled(request, 1)

    def describe(group_id: str) -> None:
        group = node.groups.get(group_id)
        response.int16(ErrorCode.NONE).string(group_id)
        response.string(group.state.value if group else "Dead")
        response.string(group.protocol_type if group else "")
        response.string(group.protocol if group else "")
        response.array(group.members.values() if group else [], describe_member)
        if request.version >= 3:
            response.int32(UNKNOWN_OPERATIONS)
        response.tags()

    def describe_member(member: Member) -> None:
        response.string(member.member_id)
        if request.version >= 4:
            response.string(member.instance_id)
        response.string(member.request.client_id).string(member.request.client_host)
        response.data([member.request.protocols[0][1]]).data([member.assignment]).tags()

    return response.array(group_ids, describe).tags()


def list_groups(node: Node, request: Request) -> Response:
    states = request.array(request.string) if request.version >= 4 else []
    wanted = {state.lower() for state in states}
    groups = [
        group for group in node.groups.values() if not wanted or group.state.value.lower() in wanted
    ]
    response = _throttled(request, 1).int16(ErrorCode.NONE)

    def describe(group: Group) -> None:
        response.string(group.group_id).string(group.protocol_type)
        if request.version >= 4:
            response.string(group.state.value)
        response.tags()

    return response.array(groups, describe).tags()


def delete_groups(node: Node, request: Request) -> Response:
    group_ids = request.array(request.string)

    def delete(group_id: str) -> ErrorCode:
        group = node.groups.get(group_id)
        if group is None:
            return ErrorCode.GROUP_ID_NOT_FOUND
        if group.state is not GroupState.EMPTY:
            return ErrorCode.NON_EMPTY_GROUP
        node.delete_group(group_id)
        return ErrorCode.NONE

    response = request.response().int32(0)
    response.array(group_ids, lambda one: response.string(one).int16(delete(one)).tags())
    return response.tags()


def offset_delete(node: Node, request: Request) -> Response:
    """Forget committed offsets; refused while the group has members."""
    group = node.groups.get(request.string())
    topics = request.array(lambda: (request.string(), request.array(request.int32)))
    error = ErrorCode.GROUP_ID_NOT_FOUND if group is None else ErrorCode.NONE
    refusal = ErrorCode.NONE
    if group is not None and group.state is not GroupState.EMPTY:
        refusal = ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC
    response = request.response().int16(error).int32(0)

    def answer_topic(topic: tuple[str, list[int]]) -> None:
        name, partitions = topic

        def answer_partition(partition: int) -> None:
            if group is not None and not refusal:
                group.offsets.pop((name, partition), None)
            response.int32(partition).int16(refusal)

        response.string(name).array(partitions, answer_partition)

    return response.array([] if error else topics, answer_topic)
