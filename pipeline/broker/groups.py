"""Consumer groups of the classic protocol, and their committed offsets.

A `Group` is a state machine without I/O. Requests that may have to wait (joining, and waiting for
the leader's assignment) carry a function to call with the reply; time is an argument (`now`,
seconds of a monotonic clock) and `expire` acts on what has become due. The states and their
transitions are those of Apache Kafka:

    EMPTY -> PREPARING_REBALANCE      the first member joins
    PREPARING_REBALANCE -> COMPLETING_REBALANCE
                                      every member has joined again, or the time is up
    COMPLETING_REBALANCE -> STABLE    the leader has sent the assignment
    COMPLETING_REBALANCE, STABLE -> PREPARING_REBALANCE
                                      a member joins, leaves, is lost, or changes its metadata
    PREPARING_REBALANCE -> EMPTY      nobody is left
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from .protocol import ErrorCode

LARGEST_SESSION_SECONDS = 1800.0
LARGEST_METADATA_LENGTH = 4096
"""Kafka's `group.max.session.timeout.ms` and `offset.metadata.max.bytes`; it counts characters."""

Partition = tuple[str, int]


class GroupState(Enum):
    """The value is the name that group descriptions show."""

    EMPTY = "Empty"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    STABLE = "Stable"


class CommittedOffset(NamedTuple):
    offset: int
    leader_epoch: int = -1
    metadata: str = ""


class JoinRequest(NamedTuple):
    """What a consumer says when it joins; time-outs in seconds."""

    member_id: str
    instance_id: str | None
    session_timeout: float
    rebalance_timeout: float
    protocol_type: str
    protocols: tuple[tuple[str, bytes], ...]
    client_id: str = ""
    client_host: str = ""
    must_know_its_id: bool = True


class JoinReply(NamedTuple):
    """`members` (id, instance id, metadata) is empty for all but the leader."""

    error: ErrorCode
    member_id: str
    generation: int = -1
    protocol_type: str = ""
    protocol: str = ""
    leader: str = ""
    members: tuple[tuple[str, str | None, bytes], ...] = ()


class SyncReply(NamedTuple):
    error: ErrorCode
    assignment: bytes = b""


class Identity(NamedTuple):
    """Who a consumer says it is in every request after joining."""

    generation: int
    member_id: str
    instance_id: str | None = None

    @property
    def is_anonymous(self) -> bool:
        return self.generation < 0 and not self.member_id and self.instance_id is None


@dataclass(slots=True, eq=False)
class Member:
    """One consumer in the group; the two reply functions are set while it waits."""

    member_id: str
    request: JoinRequest
    last_seen: float
    assignment: bytes = b""
    has_synced: bool = False
    reply_to_join: Callable[[JoinReply], None] | None = None
    reply_to_sync: Callable[[SyncReply], None] | None = None

    @property
    def instance_id(self) -> str | None:
        return self.request.instance_id

    @property
    def is_waiting(self) -> bool:
        return self.reply_to_join is not None or self.reply_to_sync is not None

    def metadata(self, protocol: str) -> bytes:
        return dict(self.request.protocols).get(protocol, b"")

    def answer_join(self, reply: JoinReply) -> None:
        answer, self.reply_to_join = self.reply_to_join, None
        if answer:
            answer(reply)

    def answer_sync(self, reply: SyncReply) -> None:
        answer, self.reply_to_sync = self.reply_to_sync, None
        if answer:
            answer(reply)

    def dismiss(self, error: ErrorCode) -> None:
        """Answer whatever the member waits for with an error."""
        self.answer_join(JoinReply(error, self.member_id))
        self.answer_sync(SyncReply(error))


class Group:
    """One consumer group.

    **Arguments:**

    - `group_id`: its name.
    - `unique`: makes the random part of member ids.
    """

    def __init__(self, group_id: str, unique: Callable[[], str] | None = None) -> None:
        self.group_id = group_id
        self.state = GroupState.EMPTY
        self.generation = 0
        self.protocol_type = ""
        self.protocol = ""
        self.leader = ""
        self.members: dict[str, Member] = {}
        self.offsets: dict[Partition, CommittedOffset] = {}
        self._static: dict[str, str] = {}  # instance id -> member id
        self._promised: dict[str, float] = {}  # ids given out but not yet used, and until when
        self._staged: dict[int, dict[Partition, CommittedOffset]] = {}  # by producer id
        self._deadline = float("inf")  # of the rebalance phase in progress
        self._unique = unique or (lambda: str(uuid.uuid4()))

    # Membership

    def join(self, request: JoinRequest, now: float, reply: Callable[[JoinReply], None]) -> None:
        """Take a member in, or back in; `reply` is called once the new generation begins."""
        error = self._join_error(request)
        if error:
            reply(JoinReply(error, request.member_id))
        elif not request.member_id:
            self._join_unknown(request, now, reply)
        elif request.member_id in self._promised:
            del self._promised[request.member_id]
            self._add(request.member_id, request, now, reply)
        else:
            self._rejoin(self.members[request.member_id], request, now, reply)

    def _join_error(self, request: JoinRequest) -> ErrorCode:
        if not 0 < request.session_timeout <= LARGEST_SESSION_SECONDS:
            return ErrorCode.INVALID_SESSION_TIMEOUT
        if request.member_id and request.member_id not in self._promised:
            error = self._member_error(request.member_id, request.instance_id)
            if error:
                return error
        if not self._can_agree(request):
            return ErrorCode.INCONSISTENT_GROUP_PROTOCOL
        return ErrorCode.NONE

    def _can_agree(self, request: JoinRequest) -> bool:
        """Whether some protocol is common to the newcomer and to all other members."""
        known = self._static.get(request.instance_id or "", request.member_id)
        others = [member for key, member in self.members.items() if key != known]
        if not request.protocols or not request.protocol_type:
            return False
        if others and request.protocol_type != self.protocol_type:
            return False
        return bool(_common_protocols([request, *(member.request for member in others)]))

    def _join_unknown(
        self, request: JoinRequest, now: float, reply: Callable[[JoinReply], None]
    ) -> None:
        if request.instance_id is not None:
            member_id = f"{request.instance_id}-{self._unique()}"
            if request.instance_id in self._static:
                self._replace_static(member_id, request, now, reply)
            else:
                self._add(member_id, request, now, reply)
            return
        member_id = f"{request.client_id or 'member'}-{self._unique()}"
        if request.must_know_its_id:
            self._promised[member_id] = now + request.session_timeout
            reply(JoinReply(ErrorCode.MEMBER_ID_REQUIRED, member_id))
        else:
            self._add(member_id, request, now, reply)

    def _add(
        self,
        member_id: str,
        request: JoinRequest,
        now: float,
        reply: Callable[[JoinReply], None],
    ) -> None:
        self.members[member_id] = Member(member_id, request, now, reply_to_join=reply)
        if request.instance_id is not None:
            self._static[request.instance_id] = member_id
        self.protocol_type = request.protocol_type
        self._rebalance(now)

    def _rejoin(
        self,
        member: Member,
        request: JoinRequest,
        now: float,
        reply: Callable[[JoinReply], None],
    ) -> None:
        """A known member joins again: because of a rebalance, a lost reply, or new metadata."""
        is_unchanged = member.request.protocols == request.protocols
        must_lead = self.state is GroupState.STABLE and member.member_id == self.leader
        member.request = request
        member.last_seen = now
        if self.state is GroupState.PREPARING_REBALANCE or not is_unchanged or must_lead:
            member.reply_to_join = reply
            self._rebalance(now)
        else:
            reply(self._join_reply(member))

    def _replace_static(
        self,
        member_id: str,
        request: JoinRequest,
        now: float,
        reply: Callable[[JoinReply], None],
    ) -> None:
        """A static member came back after a restart: it takes its predecessor's place.

        In a stable group nobody else notices. The newcomer gets the old assignment, and is told
        that its predecessor leads, so that it does not make a new assignment.
        """
        assert request.instance_id is not None
        old = self.members.pop(self._static[request.instance_id])
        old.dismiss(ErrorCode.FENCED_INSTANCE_ID)
        new = Member(member_id, request, now, old.assignment, old.has_synced)
        self.members[member_id] = new
        self._static[request.instance_id] = member_id
        announced_leader = self.leader
        if self.leader == old.member_id:
            self.leader = member_id
        if self.state is GroupState.STABLE and self._choose_protocol() == self.protocol:
            reply(self._join_reply(new)._replace(leader=announced_leader, members=()))
        else:
            new.reply_to_join = reply
            self._rebalance(now)

    def _join_reply(self, member: Member) -> JoinReply:
        described: tuple[tuple[str, str | None, bytes], ...] = ()
        if member.member_id == self.leader:
            described = tuple(
                (other.member_id, other.instance_id, other.metadata(self.protocol))
                for other in self.members.values()
            )
        return JoinReply(
            ErrorCode.NONE,
            member.member_id,
            self.generation,
            self.protocol_type,
            self.protocol,
            self.leader,
            described,
        )

    def sync(
        self,
        identity: Identity,
        assignments: Mapping[str, bytes],
        now: float,
        reply: Callable[[SyncReply], None],
    ) -> None:
        """Hand in (leader) and ask for the assignment; `reply` is called when there is one."""
        error = self._identity_error(identity)
        if not error and self.state is GroupState.PREPARING_REBALANCE:
            error = ErrorCode.REBALANCE_IN_PROGRESS
        if error:
            reply(SyncReply(error))
            return
        member = self.members[identity.member_id]
        member.last_seen = now
        member.has_synced = True
        if self.state is GroupState.STABLE:
            reply(SyncReply(ErrorCode.NONE, member.assignment))
            return
        member.reply_to_sync = reply
        if member.member_id == self.leader:
            self._distribute(assignments, now)

    def _distribute(self, assignments: Mapping[str, bytes], now: float) -> None:
        self.state = GroupState.STABLE
        self._deadline = float("inf")
        for member in self.members.values():
            member.assignment = assignments.get(member.member_id, b"")
            if member.reply_to_sync:
                member.last_seen = now
                member.answer_sync(SyncReply(ErrorCode.NONE, member.assignment))

    def heartbeat(self, identity: Identity, now: float) -> ErrorCode:
        error = self._identity_error(identity)
        if error:
            return error
        self.members[identity.member_id].last_seen = now
        if self.state is GroupState.PREPARING_REBALANCE:
            return ErrorCode.REBALANCE_IN_PROGRESS
        return ErrorCode.NONE

    def leave(self, member_id: str, instance_id: str | None, now: float) -> ErrorCode:
        """A member goes; an administrator may name a static member by its instance id alone."""
        if instance_id is not None and not member_id:
            member_id = self._static.get(instance_id, "")
        if member_id in self._promised:
            del self._promised[member_id]
            self._complete_join_if_ready(now)
            return ErrorCode.NONE
        error = self._member_error(member_id, instance_id)
        if not error:
            self._remove([member_id], now)
        return error

    def _member_error(self, member_id: str, instance_id: str | None) -> ErrorCode:
        if instance_id is not None:
            current = self._static.get(instance_id)
            if current is not None and current != member_id:
                return ErrorCode.FENCED_INSTANCE_ID
        return ErrorCode.NONE if member_id in self.members else ErrorCode.UNKNOWN_MEMBER_ID

    def _identity_error(self, identity: Identity) -> ErrorCode:
        error = self._member_error(identity.member_id, identity.instance_id)
        if not error and identity.generation != self.generation:
            return ErrorCode.ILLEGAL_GENERATION
        return error

    # Rebalances

    def _rebalance(self, now: float) -> None:
        """Begin a rebalance unless one is being prepared, and complete it if all have joined."""
        if self.state is not GroupState.PREPARING_REBALANCE:
            for member in self.members.values():
                member.answer_sync(SyncReply(ErrorCode.REBALANCE_IN_PROGRESS))
            self.state = GroupState.PREPARING_REBALANCE
            self._deadline = now + self._rebalance_timeout()
        self._complete_join_if_ready(now)

    def _rebalance_timeout(self) -> float:
        return max(
            (member.request.rebalance_timeout for member in self.members.values()), default=0
        )

    def _complete_join_if_ready(self, now: float) -> None:
        if self.state is not GroupState.PREPARING_REBALANCE or self._promised:
            return
        if all(member.reply_to_join for member in self.members.values()):
            self._complete_join(now)

    def _complete_join(self, now: float) -> None:
        """Begin the next generation with those who have joined.

        Others are removed, except static members: these stay until their session expires.
        """
        self._forget(
            [
                member.member_id
                for member in self.members.values()
                if not member.reply_to_join and member.instance_id is None
            ]
        )
        joined = [member for member in self.members.values() if member.reply_to_join]
        if self.members and not joined:
            self._deadline = now + self._rebalance_timeout()
            return
        self.generation += 1
        if not joined:
            self.state, self.protocol, self.leader = GroupState.EMPTY, "", ""
            self._deadline = float("inf")
            return
        if self.leader not in [member.member_id for member in joined]:
            self.leader = joined[0].member_id
        self.protocol = self._choose_protocol()
        self.state = GroupState.COMPLETING_REBALANCE
        self._deadline = now + self._rebalance_timeout()
        for member in joined:
            member.last_seen = now
            member.has_synced = False
            member.answer_join(self._join_reply(member))

    def _choose_protocol(self) -> str:
        """The protocol most members prefer among those that all of them support."""
        requests = [member.request for member in self.members.values()]
        common = _common_protocols(requests)
        votes = Counter(
            next(name for name, _ in request.protocols if name in common) for request in requests
        )
        return votes.most_common(1)[0][0]

    def _forget(self, member_ids: Iterable[str]) -> None:
        for member_id in member_ids:
            member = self.members.pop(member_id)
            if member.instance_id is not None:
                del self._static[member.instance_id]
            member.dismiss(ErrorCode.UNKNOWN_MEMBER_ID)

    def _remove(self, member_ids: list[str], now: float) -> None:
        self._forget(member_ids)
        if member_ids:
            self._rebalance(now)

    def expire(self, now: float) -> None:
        """Act on what has become due: silent members, unused ids, slow rebalances."""
        for member_id, until in tuple(self._promised.items()):
            if now >= until:
                del self._promised[member_id]
        self._remove(
            [
                member.member_id
                for member in self.members.values()
                if not member.is_waiting
                and now - member.last_seen >= member.request.session_timeout
            ],
            now,
        )
        self._complete_join_if_ready(now)
        if now < self._deadline:
            return
        if self.state is GroupState.PREPARING_REBALANCE:
            self._promised.clear()
            self._complete_join(now)
        elif self.state is GroupState.COMPLETING_REBALANCE:
            late = [member for member in self.members.values() if not member.has_synced]
            self._remove([member.member_id for member in late], now)

    # Offsets

    def commit_error(self, identity: Identity, is_transactional: bool) -> ErrorCode:
        """Whether this consumer may commit offsets now.

        Anonymous commits are for groups without members, and for transactions that were begun
        without group metadata.
        """
        if identity.is_anonymous:
            is_allowed = is_transactional or self.state is GroupState.EMPTY
            return ErrorCode.NONE if is_allowed else ErrorCode.UNKNOWN_MEMBER_ID
        error = self._identity_error(identity)
        if not error and not is_transactional and self.state is GroupState.COMPLETING_REBALANCE:
            return ErrorCode.REBALANCE_IN_PROGRESS
        return error

    def touch(self, identity: Identity, now: float) -> None:
        """A commit is a sign of life."""
        if identity.member_id in self.members:
            self.members[identity.member_id].last_seen = now

    def stage(self, producer_id: int, offsets: Mapping[Partition, CommittedOffset]) -> None:
        """Hold offsets back until the transaction of this producer ends."""
        self._staged.setdefault(producer_id, {}).update(offsets)

    def end_transaction(self, producer_id: int, commit: bool) -> None:
        staged = self._staged.pop(producer_id, {})
        if commit:
            self.offsets.update(staged)

    def is_unstable(self, partition: Partition) -> bool:
        """Whether an open transaction may still change this partition's committed offset."""
        return any(partition in staged for staged in self._staged.values())

    def forget_topic(self, topic: str) -> None:
        for offsets in (self.offsets, *self._staged.values()):
            for partition in [one for one in offsets if one[0] == topic]:
                del offsets[partition]


def _common_protocols(requests: Iterable[JoinRequest]) -> frozenset[str]:
    supported = [frozenset(name for name, _ in request.protocols) for request in requests]
    return frozenset.intersection(*supported)
