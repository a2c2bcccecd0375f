"""Workers whose broker goes away, and workers that are frozen while others take over."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer, KafkaException
from worker_rig import PARTITIONS, Rig, wait_for


@pytest.fixture
def rig(real_broker, unique_name, tmp_path) -> Iterator[Rig]:
    made = Rig(real_broker.bootstrap_servers, unique_name("outage"), tmp_path)
    yield made
    made.close()


def progress(rig: Rig, more: int) -> None:
    """Wait for that many further answers."""
    before = len(rig.outputs.answers())

    def moved() -> bool:
        rig.read()
        return len(rig.outputs.answers()) >= before + more

    wait_for(moved, f"{more} further answers")


def test_a_broker_that_is_killed_and_restarted_costs_nothing_but_time(rig, real_broker):
    worker = rig.start("only")
    rig.send_walks(assets=20, ticks=3000, seed=1)
    progress(rig, 500)

    real_broker.kill9()
    real_broker.start()
    rig.send_walks(assets=20, ticks=1000, seed=2, first=3000)
    rig.read_until_answered()

    assert worker.process.poll() is None
    rig.assert_every_input_is_answered_once()
    rig.assert_sequences_never_skip()
    rig.assert_bits_equal_the_library()


@pytest.mark.parametrize("event", ["ready_to_join", "joined", "assigned", "partition_restored"])
def test_a_broker_that_goes_while_the_group_is_joined_is_waited_for(rig, real_broker, event):
    rig.send_walks(assets=20, ticks=300, seed=1)
    worker = rig.start("only")
    worker.wait_for_event(event)

    real_broker.kill9()
    real_broker.start()
    rig.read_until_answered()

    assert worker.process.poll() is None
    rig.assert_every_input_is_answered_once()
    rig.assert_bits_equal_the_library()


def test_a_stop_while_the_broker_is_away_ends_in_time_with_exit_code_zero(rig, real_broker):
    worker = rig.start("only")
    rig.send_walks(assets=20, ticks=3000, seed=1)
    progress(rig, 500)

    real_broker.kill9()
    try:
        code = worker.terminate()
    finally:
        real_broker.start()
    rig.start("only")
    rig.read_until_answered()

    assert code == 0
    rig.assert_every_input_is_answered_once()
    rig.assert_bits_equal_the_library()


def test_a_frozen_worker_commits_nothing_after_its_partitions_have_moved(rig):
    settings = {
        "USP__KAFKA__SESSION_TIMEOUT_MS": "2000",
        "USP__KAFKA__TRANSACTION_TIMEOUT_MS": "3000",
    }
    zombie = rig.start("zombie", **settings)
    rig.start("heir", **settings)
    zombie.wait_for_event("partition_restored")
    rig.send_walks(assets=20, ticks=4000, seed=1)
    progress(rig, 400)

    zombie.process.send_signal(signal.SIGSTOP)
    rig.send_walks(assets=20, ticks=1000, seed=2, first=4000)
    rig.read_until_answered()
    zombie.process.send_signal(signal.SIGCONT)
    rig.send_walks(assets=20, ticks=1000, seed=3, first=5000)
    rig.read_until_answered()

    def settled() -> bool:
        ended = zombie.process.poll() is not None
        return ended or len(zombie.events("assigned")) >= 2 or bool(zombie.events("lost"))

    wait_for(settled, "the zombie to notice")
    assert zombie.process.poll() in (None, 5)
    rig.assert_every_input_is_answered_once()
    rig.assert_sequences_never_skip()
    rig.assert_bits_equal_the_library()


@pytest.mark.parametrize("membership", ["static", "dynamic"])
def test_a_frozen_worker_whose_identity_was_given_away_ends_and_its_successor_goes_on(
    rig, membership
):
    settings = {
        "USP__KAFKA__SESSION_TIMEOUT_MS": "2000",
        "USP__KAFKA__TRANSACTION_TIMEOUT_MS": "3000",
        "USP__KAFKA__STATIC_MEMBERSHIP": str(membership == "static").lower(),
    }
    zombie = rig.start("twin", **settings)
    zombie.wait_for_event("partition_restored", PARTITIONS)
    rig.send_walks(assets=20, ticks=3000, seed=1)
    progress(rig, 300)

    zombie.process.send_signal(signal.SIGSTOP)
    successor = rig.start("twin", **settings)
    successor.wait_for_event("partition_restored", PARTITIONS)
    rig.send_walks(assets=20, ticks=1000, seed=2, first=3000)
    rig.read_until_answered()
    zombie.process.send_signal(signal.SIGCONT)
    first = 4000

    def ended() -> bool:
        nonlocal first
        rig.send_walks(assets=20, ticks=50, seed=first, first=first)
        first += 50
        rig.read(0.2)
        return zombie.process.poll() is not None or successor.process.poll() is not None

    wait_for(ended, "the end of one of the twins")
    rig.read_until_answered()
    ends = (zombie.process.poll(), successor.process.poll())

    assert sorted(ends, key=str) == [5, None], zombie.text + successor.text
    rig.assert_every_input_is_answered_once()
    rig.assert_sequences_never_skip()
    rig.assert_bits_equal_the_library()


def take_the_name(rig: Rig, until: Callable[[], bool]) -> None:
    """A member that is no worker joins under the instance id of one, whenever it is fenced."""
    settings = {
        "bootstrap.servers": rig.bootstrap,
        "group.id": rig.application,
        "group.instance.id": "only",
        "enable.auto.commit": False,
        "partition.assignment.strategy": "cooperative-sticky",
        "log_level": 0,
    }
    members: list[Consumer] = []

    def leave() -> None:
        with contextlib.suppress(KafkaException):  # it may be fenced
            members.pop().close()

    def told() -> bool:
        if not members:
            members.append(Consumer(settings))
            members[0].subscribe([rig.topics["ticks"]])
        try:
            members[0].poll(0.1)
        except KafkaException:
            leave()
        return until()

    try:
        wait_for(told, "reaction of the worker")
    finally:
        if members:
            leave()


def test_a_worker_whose_member_alone_is_fenced_joins_again_and_does_not_duel(rig):
    worker = rig.start("only")
    rig.send_walks(assets=20, ticks=1000, seed=1)
    progress(rig, 300)

    take_the_name(rig, lambda: bool(worker.events("joining_again")))
    rig.send_walks(assets=20, ticks=200, seed=2, first=1000)
    rig.read_until_answered()
    survived = worker.process.poll() is None
    take_the_name(rig, lambda: worker.process.poll() is not None)

    assert survived
    assert worker.process.returncode == 5
    assert "kafka.instance_id" in worker.text
    rig.assert_every_input_is_answered_once()
    rig.assert_bits_equal_the_library()


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_members_that_come_and_go_under_each_protocol_repeat_nothing(rig, protocol):
    settings = {"USP__KAFKA__GROUP_PROTOCOL": protocol, "USP__KAFKA__STATIC_MEMBERSHIP": "false"}
    first = rig.start("first", **settings)
    first.wait_for_event("partition_restored", PARTITIONS)
    rig.send_walks(assets=30, ticks=2000, seed=1)
    second = rig.start("second", **settings)
    second.wait_for_event("partition_restored")
    rig.send_walks(assets=30, ticks=2000, seed=2, first=2000)
    progress(rig, 300)

    assert first.terminate() == 0
    rig.send_walks(assets=30, ticks=1000, seed=3, first=4000)
    second.kill()
    rig.start("second", **settings)
    rig.read_until_answered()

    rig.assert_every_input_is_answered_once()
    rig.assert_bits_equal_the_library()
