"""The transactional producer on both brokers: aborts, fences, expiry, what it leaves behind."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from live_services import Broker, wait_until

from consumers.offsets import Offsets
from consumers.settings import common
from producers.client import (
    Abortable,
    Fenced,
    Outgoing,
    ProducerLost,
    SettingsRefused,
    TransactionalProducer,
    Unreachable,
)

PARTITIONS = 4
SECONDS = 10.0
MAXIMUM_BYTES = 1_000_000


class Desk:
    """A topic and producers on it."""

    def __init__(self, broker: Broker, unique_name: Callable[[str], str]) -> None:
        self.broker = broker
        self.name = unique_name
        self.topic = broker.create_topic(unique_name("outputs"), PARTITIONS)

    def producer(
        self, role: str = "worker", timeout_ms: int = 10_000, **extra: str
    ) -> TransactionalProducer:
        base = common(self.broker.bootstrap_servers, role, {"log_level": "0", **extra})
        return TransactionalProducer(base, self.name(role), timeout_ms, MAXIMUM_BYTES)

    def started(self, role: str = "worker", timeout_ms: int = 10_000) -> TransactionalProducer:
        producer = self.producer(role, timeout_ms)
        producer.initialise(SECONDS)
        return producer

    def records(self, *values: bytes, partition: int = 0) -> list[Outgoing]:
        return [Outgoing(self.topic, partition, b"key", value, 0, []) for value in values]

    def group_metadata(self) -> object:
        group = self.name("group")
        # The first group of a new broker waits for its coordinator here, as a worker does before it
        # has anything to commit: librdkafka's transactions may wait for that for ever.
        offsets = Offsets(
            common(self.broker.bootstrap_servers, "desk", {"log_level": "0"}), group, 1
        )
        offsets.committed(self.topic, [0], SECONDS)
        offsets.close()
        consumer = Consumer(
            {"bootstrap.servers": self.broker.bootstrap_servers, "group.id": group, "log_level": 0}
        )
        metadata = consumer.consumer_group_metadata()
        consumer.close()
        return metadata

    def committed_values(self) -> list[list[bytes]]:
        """Values by partition, once no transaction is open."""
        found: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
        reader = Consumer(
            {
                "bootstrap.servers": self.broker.bootstrap_servers,
                "group.id": self.name("eyes"),
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "log_level": 0,
            }
        )
        partitions = [TopicPartition(self.topic, number, 0) for number in range(PARTITIONS)]
        ends = {tp.partition: reader.get_watermark_offsets(tp, timeout=10)[1] for tp in partitions}
        reader.assign(partitions)

        def read_all() -> bool:
            for message in reader.consume(5000, 0.1):
                if message.error() is None:
                    found[message.partition()].append(message.value())
            positions = {tp.partition: tp.offset for tp in reader.position(partitions)}
            return all(positions[p] >= end or end == 0 for p, end in ends.items())

        wait_until(read_all, "the end of every partition")
        reader.close()
        return found


@pytest.fixture
def desk(broker, unique_name) -> Desk:
    return Desk(broker, unique_name)


def test_aborts_at_any_moment_disturb_no_later_transaction(desk):
    chance = random.Random(3)
    producer = desk.started()
    metadata = desk.group_metadata()
    committed: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
    number = 0
    for _ in range(200):
        producer.begin()
        records = []
        for _ in range(chance.choice([1, 10, 300, 2000])):
            number += 1
            records += desk.records(b"%d" % number, partition=chance.randrange(PARTITIONS))
        producer.produce(records, SECONDS)
        if chance.random() < 0.6:
            producer.abort(SECONDS)
        else:
            producer.commit(desk.topic, {0: (number, "")}, metadata, SECONDS)
            for record in records:
                committed[record.partition].append(record.value)

    assert desk.committed_values() == committed


def overtaken(desk: Desk) -> tuple[TransactionalProducer, TransactionalProducer]:
    """A producer with an open transaction, and the one that has taken its identity."""
    first = desk.started()
    first.begin()
    first.produce(desk.records(b"void"), SECONDS)
    return first, desk.started()


def produce_until_told(producer: TransactionalProducer, desk: Desk) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        producer.produce(desk.records(b"void"), SECONDS)


CALLS: dict[str, Callable[[TransactionalProducer, Desk], None]] = {
    "produce": produce_until_told,
    "commit": lambda producer, desk: producer.commit(
        desk.topic, {0: (1, "")}, desk.group_metadata(), SECONDS
    ),
    "abort": lambda producer, desk: producer.abort(SECONDS),
    "confirm": lambda producer, desk: producer.confirm(desk.records(b"void")[0], SECONDS),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_producer_whose_identity_was_taken_says_so_at_whatever_it_does_next(desk, call):
    first, _second = overtaken(desk)

    with pytest.raises(Fenced):
        CALLS[call](first, desk)


@pytest.mark.parametrize("call", CALLS)
def test_a_producer_that_knows_it_is_fenced_never_calls_it_anything_else(desk, call):
    first, second = overtaken(desk)
    with pytest.raises(Fenced):
        produce_until_told(first, desk)

    with pytest.raises(Fenced):
        CALLS[call](first, desk)
    second.begin()
    second.produce(desk.records(b"mine"), SECONDS)
    second.commit(desk.topic, {0: (1, "")}, desk.group_metadata(), SECONDS)
    assert desk.committed_values()[0] == [b"mine"]


class RefusedByState:
    """A client whose transaction has failed while a record was on its way to it."""

    def __init__(self, client: Producer) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def produce(self, *_: Any, **__: Any) -> None:
        raise KafkaException(KafkaError(KafkaError._STATE))


def test_a_record_refused_while_the_fence_comes_in_is_refused_by_the_fence(desk):
    first, _second = overtaken(desk)
    with pytest.raises(Fenced):
        produce_until_told(first, desk)
    first._producer = RefusedByState(first._producer)

    with pytest.raises(Fenced):
        first.produce(desk.records(b"void"), SECONDS)


def test_a_record_refused_by_a_transaction_that_failed_asks_for_an_abort(desk):
    producer = desk.started()
    producer.begin()
    producer.produce(desk.records(b"void"), SECONDS)
    client, producer._producer = producer._producer, RefusedByState(producer._producer)

    with pytest.raises(Abortable):
        producer.produce(desk.records(b"void"), SECONDS)

    producer._producer = client
    producer.abort(SECONDS)


def test_the_newest_producer_of_an_identity_is_confirmed_and_writes_nothing(desk):
    desk.started()
    second = desk.started()

    second.confirm(desk.records(b"void")[0], SECONDS)
    second.begin()
    second.produce(desk.records(b"mine"), SECONDS)
    second.commit(desk.topic, {0: (1, "")}, desk.group_metadata(), SECONDS)

    assert desk.committed_values()[0] == [b"mine"]


def test_a_producer_between_transactions_learns_of_its_fence_with_the_next_one(desk):
    first = desk.started()
    desk.started()

    def next_transaction() -> None:
        first.begin()
        produce_until_told(first, desk)

    with pytest.raises(Fenced):
        next_transaction()


def test_a_transaction_that_outlived_its_timeout_is_lost_and_fences_nobody(desk):
    producer = desk.started(timeout_ms=1000)
    producer.begin()
    producer.produce(desk.records(b"late"), SECONDS)
    reader = Consumer(
        {
            "bootstrap.servers": desk.broker.bootstrap_servers,
            "group.id": desk.name("eyes"),
            "isolation.level": "read_committed",
            "log_level": 0,
        }
    )
    first = TopicPartition(desk.topic, 0)
    # The record and the broker's own abort marker: the stable end has passed both.
    wait_until(lambda: reader.get_watermark_offsets(first, timeout=10)[1] >= 2, "the expiry")
    reader.close()

    with pytest.raises(ProducerLost):
        producer.commit(desk.topic, {0: (1, "")}, desk.group_metadata(), SECONDS)
    producer.abandon()
    producer.initialise(SECONDS)
    producer.begin()
    producer.produce(desk.records(b"good"), SECONDS)
    producer.commit(desk.topic, {0: (1, "")}, desk.group_metadata(), SECONDS)

    assert desk.committed_values()[0] == [b"good"]


@pytest.fixture
def threads() -> Iterator[Callable[[], int]]:
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("counts the threads of librdkafka, which only Linux shows")
    return lambda: len(os.listdir("/proc/self/task"))


def test_producers_that_were_abandoned_in_a_transaction_leave_no_threads_behind(desk, threads):
    producer = desk.started()
    before = threads()
    for _ in range(12):
        producer.begin()
        producer.produce(desk.records(*[b"x" * 100] * 2000), SECONDS)
        producer.abandon()
        producer.initialise(SECONDS)

    wait_until(lambda: threads() <= before, "the end of their threads")


def test_a_transaction_timeout_above_the_brokers_limit_is_named(desk):
    producer = desk.producer(timeout_ms=2_000_000_000)

    with pytest.raises(SettingsRefused, match=r"transaction\.timeout\.ms"):
        producer.initialise(SECONDS)


@pytest.mark.parametrize(
    ("name", "value"), [("no.such.setting", "1"), ("acks", "1"), ("batch.size", "many")]
)
def test_a_setting_that_the_client_refuses_is_named(desk, name, value):
    with pytest.raises(SettingsRefused, match=name.replace(".", r"\.")):
        desk.producer(**{name: value}).initialise(SECONDS)


def test_an_absent_broker_is_asked_again_by_the_same_client(desk, threads, monkeypatch):
    made: list[Producer] = []

    def make(settings):
        made.append(Producer(settings))
        return made[-1]

    monkeypatch.setattr("producers.client.Producer", make)
    base = common("127.0.0.1:1", "nobody", {"log_level": "0"})
    producer = TransactionalProducer(base, "nobody", 1000, MAXIMUM_BYTES)
    with pytest.raises(Unreachable):
        producer.initialise(0.2)
    before = threads()

    for _ in range(3):
        with pytest.raises(Unreachable):
            producer.initialise(0.2)

    assert len(made) == 1
    assert threads() <= before  # those of other tests may end meanwhile
