"""The group state machine, without a server and with a clock that the tests turn."""

from __future__ import annotations

import itertools

import pytest

from pipeline.broker.groups import (
    CommittedOffset,
    Group,
    GroupState,
    Identity,
    JoinRequest,
)
from pipeline.broker.protocol import ErrorCode

SESSION, REBALANCE = 10.0, 60.0


class Scene:
    """A group, and what its members have been told."""

    def __init__(self):
        count = itertools.count(1)
        self.group = Group("group", lambda: str(next(count)))
        self.joined = []
        self.synced = []

    def join(
        self, member_id="", now=0.0, instance=None, protocols=(("range", b""),), kind="consumer"
    ):
        """Ask to join; returns the reply if there is one at once."""
        request = JoinRequest(
            member_id, instance, SESSION, REBALANCE, kind, tuple(protocols), "client", "host"
        )
        replies = []
        self.group.join(request, now, replies.append)
        self.joined.append(replies)
        return replies[0] if replies else None

    def new(self, now=0.0, **options):
        """Join as a dynamic member does: once for an id, then with it."""
        return self.join(self.join(now=now, **options).member_id, now=now, **options)

    def sync(self, reply, assignments=None, now=0.0, instance=None):
        identity = Identity(reply.generation, reply.member_id, instance)
        replies = []
        self.group.sync(identity, assignments or {}, now, replies.append)
        self.synced.append(replies)
        return replies[0] if replies else None

    def stable(self, **options):
        """One member with an assignment."""
        joined = self.new(**options) if "instance" not in options else self.join(**options)
        self.sync(joined, {joined.member_id: b"all"}, instance=options.get("instance"))
        return joined


def identity(reply, instance=None):
    return Identity(reply.generation, reply.member_id, instance)


def test_a_dynamic_member_is_first_given_an_id():
    scene = Scene()

    assert scene.join().error is ErrorCode.MEMBER_ID_REQUIRED
    assert scene.group.state is GroupState.EMPTY


def test_the_first_member_leads_generation_one():
    scene = Scene()

    reply = scene.new()

    assert (reply.error, reply.generation, reply.leader) == (0, 1, reply.member_id)
    assert [member_id for member_id, _, _ in reply.members] == [reply.member_id]
    assert scene.sync(reply, {reply.member_id: b"all"}).assignment == b"all"
    assert scene.group.state is GroupState.STABLE


def test_a_newcomer_waits_until_the_others_have_joined_again():
    scene = Scene()
    first = scene.stable()

    assert scene.new() is None
    assert scene.group.heartbeat(identity(first), 1.0) is ErrorCode.REBALANCE_IN_PROGRESS
    again = scene.join(first.member_id)

    assert again.generation == 2
    assert len(again.members) == 2
    assert scene.joined[-2][0].members == ()  # only the leader is told of the others


def test_a_follower_gets_its_assignment_when_the_leader_has_made_it():
    scene = Scene()
    first = scene.stable()
    scene.new()
    leader = scene.join(first.member_id)
    follower = scene.joined[-2][0]

    assert scene.sync(follower) is None
    scene.sync(leader, {leader.member_id: b"l", follower.member_id: b"f"})

    assert scene.synced[-2][0].assignment == b"f"


def test_a_member_that_does_not_join_again_is_left_behind():
    scene = Scene()
    first = scene.stable()
    scene.new()

    for second in range(1, 61):
        scene.group.heartbeat(identity(first), float(second))
        scene.group.expire(float(second))

    assert scene.joined[-1][0].generation == 2
    assert first.member_id not in scene.group.members


def test_a_silent_member_is_lost_after_its_session():
    scene = Scene()
    first = scene.stable()

    scene.group.expire(SESSION - 0.1)
    assert scene.group.state is GroupState.STABLE
    scene.group.expire(SESSION)

    assert scene.group.state is GroupState.EMPTY
    assert scene.group.heartbeat(identity(first), SESSION) is ErrorCode.UNKNOWN_MEMBER_ID


def test_an_id_that_is_not_used_does_not_hold_the_group_up_for_ever():
    scene = Scene()
    first = scene.stable()
    scene.join()
    scene.new()
    assert scene.join(first.member_id) is None

    scene.group.expire(SESSION)

    assert scene.joined[-1][0].generation == 2


def test_a_leader_that_never_assigns_is_removed():
    scene = Scene()
    leader = scene.new()

    scene.group.heartbeat(identity(leader), REBALANCE - 1)
    scene.group.expire(REBALANCE)

    assert scene.group.members == {}


def test_an_old_generation_is_illegal():
    scene = Scene()
    first = scene.stable()
    scene.new()
    scene.join(first.member_id)

    assert scene.group.heartbeat(identity(first), 1.0) is ErrorCode.ILLEGAL_GENERATION
    assert scene.group.commit_error(identity(first), True) is ErrorCode.ILLEGAL_GENERATION


def test_a_lost_join_reply_can_be_asked_for_again():
    scene = Scene()
    first = scene.new()

    assert scene.join(first.member_id) == first
    assert scene.group.state is GroupState.COMPLETING_REBALANCE


def test_a_leader_that_joins_again_starts_a_rebalance():
    scene = Scene()
    first = scene.stable()

    assert scene.join(first.member_id).generation == 2


def test_the_protocol_is_one_that_all_support():
    scene = Scene()
    first = scene.stable(protocols=[("sticky", b"1"), ("range", b"2")])
    scene.new(protocols=[("range", b"3")])

    again = scene.join(first.member_id, protocols=[("sticky", b"1"), ("range", b"2")])

    assert again.protocol == "range"
    assert [metadata for _, _, metadata in again.members] == [b"2", b"3"]


def test_a_member_without_a_common_protocol_is_refused():
    scene = Scene()
    scene.stable()

    assert scene.join(protocols=[("sticky", b"")]).error is ErrorCode.INCONSISTENT_GROUP_PROTOCOL
    assert scene.join(kind="connect").error is ErrorCode.INCONSISTENT_GROUP_PROTOCOL


def test_a_static_member_takes_its_place_back_quietly():
    scene = Scene()
    before = scene.stable(instance="one")

    after = scene.join(instance="one", now=5.0)

    assert after.member_id != before.member_id
    assert after.generation == before.generation
    assert after.leader != after.member_id  # so it asks for the assignment and makes none
    assert scene.sync(after, instance="one").assignment == b"all"
    assert scene.group.state is GroupState.STABLE


def test_a_replaced_static_member_is_fenced():
    scene = Scene()
    before = scene.stable(instance="one")
    scene.join(instance="one")

    stale = identity(before, "one")
    assert scene.group.heartbeat(stale, 1.0) is ErrorCode.FENCED_INSTANCE_ID
    assert scene.group.commit_error(stale, True) is ErrorCode.FENCED_INSTANCE_ID
    assert scene.sync(before, instance="one").error is ErrorCode.FENCED_INSTANCE_ID
    assert scene.join(before.member_id, instance="one").error is ErrorCode.FENCED_INSTANCE_ID


def test_a_static_member_that_waits_is_fenced_by_its_successor():
    scene = Scene()
    first = scene.stable()
    assert scene.join(instance="one") is None

    scene.join(instance="one")
    scene.join(first.member_id)

    assert scene.joined[-3][0].error is ErrorCode.FENCED_INSTANCE_ID
    assert scene.joined[-2][0].error is ErrorCode.NONE


def test_an_unknown_instance_id_does_not_excuse_an_unknown_member():
    scene = Scene()

    assert scene.join("invented", instance="one").error is ErrorCode.UNKNOWN_MEMBER_ID


def test_a_static_member_can_be_removed_by_its_instance_id():
    scene = Scene()
    scene.stable(instance="one")

    assert scene.group.leave("", "one", 1.0) is ErrorCode.NONE
    assert scene.group.state is GroupState.EMPTY


@pytest.mark.parametrize("session", [0.0, -1.0, 1801.0])
def test_an_impossible_session_is_refused(session):
    scene, replies = Scene(), []
    request = JoinRequest("", None, session, 1.0, "consumer", (("range", b""),))

    scene.group.join(request, 0.0, replies.append)

    assert replies[0].error is ErrorCode.INVALID_SESSION_TIMEOUT


def test_anonymous_commits_are_for_groups_without_members():
    scene, anonymous = Scene(), Identity(-1, "")
    assert scene.group.commit_error(anonymous, False) is ErrorCode.NONE

    scene.stable()

    assert scene.group.commit_error(anonymous, False) is ErrorCode.UNKNOWN_MEMBER_ID
    assert scene.group.commit_error(anonymous, True) is ErrorCode.NONE


def test_a_plain_commit_waits_for_the_assignment():
    scene = Scene()
    reply = scene.new()

    assert scene.group.commit_error(identity(reply), False) is ErrorCode.REBALANCE_IN_PROGRESS
    assert scene.group.commit_error(identity(reply), True) is ErrorCode.NONE


def test_staged_offsets_are_unstable_until_their_transaction_ends():
    group, partition = Group("group"), ("topic", 0)
    group.stage(7, {partition: CommittedOffset(5)})

    assert group.is_unstable(partition)
    assert partition not in group.offsets
    group.end_transaction(7, commit=True)

    assert not group.is_unstable(partition)
    assert group.offsets[partition].offset == 5


def test_staged_offsets_of_an_aborted_transaction_vanish():
    group, partition = Group("group"), ("topic", 0)
    group.stage(7, {partition: CommittedOffset(5)})

    group.end_transaction(7, commit=False)

    assert not group.is_unstable(partition)
    assert group.offsets == {}
