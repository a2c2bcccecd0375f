"""The group member on both brokers: what ends it, what it survives, where it starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import raw_records
from confluent_kafka import Producer
from live_services import Broker
from worker_rig import wait_for

from consumers.client import Membership, RebalanceHandlers, TickConsumer
from consumers.events import ConsumerFailed, Polled
from consumers.settings import common

PARTITIONS = 2
PATIENCE_SECONDS = 30.0


class Hall:
    """A topic, and members of one group on it."""

    def __init__(self, broker: Broker, unique_name: Callable[[str], str]) -> None:
        self.broker = broker
        self.group = unique_name("group")
        self.topic = broker.create_topic(unique_name("ticks"), PARTITIONS)
        self.members: list[TickConsumer] = []

    def member(
        self,
        assigned: Callable[[TickConsumer, tuple[int, ...]], None] = lambda member, numbers: None,
        instance_id: str | None = None,
        session_timeout_ms: int = 6000,
        assignment: str = "cooperative-sticky",
        protocol: str = "classic",
        lost: Callable[[tuple[int, ...]], None] = lambda numbers: None,
        **extra: str,
    ) -> TickConsumer:
        membership = Membership(
            self.group,
            PARTITIONS,
            instance_id,
            protocol,
            assignment,
            session_timeout_ms,
            300_000,
        )
        base = common(self.broker.bootstrap_servers, "member", {"log_level": "0", **extra})
        handlers = RebalanceHandlers(
            lambda numbers: assigned(made, numbers), lambda numbers: None, lost
        )
        made = TickConsumer(base, membership, self.topic, handlers)
        made.subscribe()
        self.members.append(made)
        return made

    def write(self, *values: bytes, partition: int = 0) -> None:
        producer = Producer({"bootstrap.servers": self.broker.bootstrap_servers})
        for value in values:
            producer.produce(self.topic, value, partition=partition)
        assert producer.flush(10) == 0

    def close(self) -> None:
        while self.members:
            self.members.pop().close()


@pytest.fixture
def hall(broker, unique_name) -> Iterator[Hall]:
    made = Hall(broker, unique_name)
    yield made
    made.close()


@pytest.fixture
def real_hall(real_broker, unique_name) -> Iterator[Hall]:
    made = Hall(real_broker, unique_name)
    yield made
    made.close()


def poll(member: TickConsumer, until: Callable[[Polled], bool]) -> list[Polled]:
    """Turns of one member up to the one that satisfies the condition."""
    turns = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        turns.append(member.poll(100, 0.05, 0.0))
        if until(turns[-1]):
            return turns
    raise AssertionError("the member polled in vain")


def failure_of(*members: TickConsumer) -> ConsumerFailed:
    """The first failure of members that are polled in turn."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        for member in members:
            try:
                member.poll(100, 0.05, 0.0)
            except ConsumerFailed as failure:
                return failure
    raise AssertionError("no member failed")


def test_a_member_whose_instance_id_was_taken_is_told_that_it_is_fenced(hall):
    first = hall.member(instance_id="one")
    poll(first, lambda turn: len(first.assignment()) == PARTITIONS)

    second = hall.member(instance_id="one")
    failure = failure_of(first, second)

    assert failure.kind == "fenced"
    assert "kafka.instance_id" in str(failure)
    poll(second, lambda turn: len(second.assignment()) == PARTITIONS)


def test_a_fenced_member_that_joins_again_fences_the_other_one(hall):
    lost: list[tuple[int, ...]] = []
    first = hall.member(instance_id="one", lost=lost.append)
    poll(first, lambda turn: len(first.assignment()) == PARTITIONS)
    second = hall.member(instance_id="one")
    fenced = failure_of(first, second)
    poll(second, lambda turn: len(second.assignment()) == PARTITIONS)

    first.join_again()
    other = failure_of(second, first)
    poll(first, lambda turn: len(first.assignment()) == PARTITIONS)

    assert (fenced.kind, other.kind) == ("fenced", "fenced")
    assert lost == [(0, 1)]


def test_a_session_timeout_that_the_broker_refuses_is_named(real_hall):
    member = real_hall.member(session_timeout_ms=500)

    failure = failure_of(member)

    assert failure.kind == "settings"
    assert "kafka.session_timeout_ms" in str(failure)


def test_another_assignor_in_the_group_is_complained_about_and_waited_out(hall):
    first = hall.member()
    poll(first, lambda turn: len(first.assignment()) == PARTITIONS)
    second = hall.member(assignment="range")

    turns = poll(second, lambda turn: bool(turn.complaints))
    hall.members.remove(first)
    first.close()
    poll(second, lambda turn: len(second.assignment()) == PARTITIONS)

    assert "INCONSISTENT_GROUP_PROTOCOL" in turns[-1].complaints


@pytest.mark.parametrize(("name", "value"), [("no.such.setting", "1"), ("fetch.max.bytes", "many")])
def test_a_setting_that_the_client_refuses_is_named(hall, name, value):
    with pytest.raises(ConsumerFailed, match=name.replace(".", r"\.")) as caught:
        hall.member(**{name: value})

    assert caught.value.kind == "settings"


def test_a_partition_is_delivered_from_the_offset_at_which_it_was_resumed(hall):
    hall.write(b"0", b"1", b"2", b"3", b"4")
    member = hall.member(lambda member, numbers: member.resume_at(0, 3))

    turns = poll(member, lambda turn: any(record.offset == 4 for record in turn.records))

    delivered = [record.value for turn in turns for record in turn.records]
    assert delivered == [b"3", b"4"]


@pytest.mark.parametrize(
    ("protocol", "assignment"),
    [("classic", "cooperative-sticky"), ("classic", "range"), ("consumer", "")],
)
def test_partitions_move_between_members_and_skip_nothing(
    real_broker, unique_name, protocol, assignment
):
    hall = Hall(real_broker, unique_name)
    hall.write(b"0", b"1", b"2")
    for _ in range(3):
        members = [
            hall.member(
                lambda member, numbers: [member.resume_at(n, 0) for n in numbers],
                assignment=assignment,
                protocol=protocol,
            )
            for _ in range(2)
        ]
        delivered: dict[TickConsumer, list[int]] = {member: [] for member in members}

        def settled(members=members, delivered=delivered) -> bool:
            for member in members:
                turn = member.poll(100, 0.02, 0.0)
                delivered[member] += [r.offset for r in turn.records if r.partition == 0]
            owners = [member for member in members if 0 in member.assignment()]
            spread = all(len(member.assignment()) == 1 for member in members)
            return spread and delivered[owners[0]][-3:] == [0, 1, 2]

        wait_for(settled, "one partition each, read from its start")
        hall.close()


def test_a_rewind_delivers_again_and_a_pause_delivers_nothing(hall):
    hall.write(b"0", b"1", b"2")
    member = hall.member(lambda member, numbers: [member.resume_at(n, 0) for n in numbers])
    poll(member, lambda turn: any(record.offset == 2 for record in turn.records))

    member.rewind(0, 1)
    again = poll(member, lambda turn: any(record.offset == 2 for record in turn.records))
    member.rewind(0, 0)
    member.pause((0,))
    hall.write(b"other", partition=1)
    paused = poll(member, lambda turn: any(record.partition == 1 for record in turn.records))

    assert [record.offset for turn in again for record in turn.records] == [1, 2]
    assert [record for turn in paused for record in turn.records if record.partition == 0] == []


def test_headers_of_any_bytes_reach_the_worker_or_are_declared_lost(hall):
    odd = [(b"plain", b"1"), (b"nothing", None), (b"", b"")]
    # Often enough for the interpreter to specialise the loop that reads them.
    headers = [odd, [(b"\xff\xfe", b"x"), (b"plain", b"1")], []] * 40
    for each in headers:
        raw_records.write(hall.broker.bootstrap_servers, hall.topic, 0, value=b"v", headers=each)
    last = len(headers) - 1
    member = hall.member(lambda member, numbers: [member.resume_at(n, 0) for n in numbers])

    turns = poll(member, lambda turn: any(record.offset == last for record in turn.records))

    records = [record for turn in turns for record in turn.records]
    assert {str(record.headers) for record in records[::3]} == {
        "[('plain', b'1'), ('nothing', None), ('', b'')]"
    }
    assert [record.headers_lost for record in records] == [False, True, False] * 40
    assert [record.value for record in records] == [b"v"] * 120
