"""Clients of one embedded broker, shared by the tests of this folder."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from pipeline.broker import running_broker

DEADLINE_SECONDS = 30.0
_UNIQUE = itertools.count()


def eventually(condition: Callable[[], object], seconds: float = DEADLINE_SECONDS) -> object:
    """Ask until the answer is true; fail after the deadline."""
    until = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < until, "the condition did not come true in time"


class Cluster:
    """Makes clients for the broker and closes them at the end of the test."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.admin = AdminClient(self._config({}))
        self.eventually = eventually
        self._consumers: list[Consumer] = []

    def _config(self, extra: dict[str, object]) -> dict[str, object]:
        # Clients may outlive a broker of their own test; their complaints are not of interest.
        return {"bootstrap.servers": self.bootstrap_servers, "log_level": 0, **extra}

    def unique(self, name: str) -> str:
        return f"{name}-{next(_UNIQUE)}"

    def topic(self, partitions: int = 1, **config: str) -> str:
        name = self.unique("topic")
        settings = {key.replace("_", "."): value for key, value in config.items()}
        new = NewTopic(name, num_partitions=partitions, replication_factor=1, config=settings)
        self.admin.create_topics([new])[name].result(DEADLINE_SECONDS)
        return name

    def producer(self, **config: object) -> Producer:
        settings = {"linger.ms": 0, **{key.replace("_", "."): v for key, v in config.items()}}
        return Producer(self._config(settings))

    def transactional(self, transactional_id: str, **config: object) -> Producer:
        producer = self.producer(transactional_id=transactional_id, **config)
        producer.init_transactions(DEADLINE_SECONDS)
        return producer

    def consumer(self, group_id: str | None = None, **config: object) -> Consumer:
        settings = {
            "group.id": group_id or self.unique("group"),
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.queue.backoff.ms": 10,
            "heartbeat.interval.ms": 100,
            **{key.replace("_", "."): value for key, value in config.items()},
        }
        consumer = Consumer(self._config(settings))
        self._consumers.append(consumer)
        return consumer

    def close(self, consumer: Consumer) -> None:
        self._consumers.remove(consumer)
        consumer.close()

    def write(self, topic: str, *values: bytes, partition: int = 0, **message: object) -> None:
        producer = self.producer()
        for value in values:
            producer.produce(topic, value, partition=partition, **message)
        assert producer.flush(DEADLINE_SECONDS) == 0

    def read(self, topic: str, partition: int = 0, start: int = 0, **config: object) -> list:
        """The messages from `start` to where the consumer sees the end of the partition."""
        consumer = self.consumer(enable_partition_eof=True, **config)
        consumer.assign([TopicPartition(topic, partition, start)])
        found = []
        until = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < until:
            message = consumer.poll(0.1)
            if message is None:
                continue
            if message.error():
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                self.close(consumer)
                return found
            found.append(message)
        raise AssertionError("the end of the partition was not reached in time")

    def values(self, topic: str, **options: object) -> list[bytes]:
        return [message.value() for message in self.read(topic, **options)]

    def end(self) -> None:
        for consumer in self._consumers:
            consumer.close()


@pytest.fixture(scope="session")
def bootstrap_servers() -> Iterator[str]:
    with running_broker() as address:
        yield address


@pytest.fixture
def cluster(bootstrap_servers: str) -> Iterator[Cluster]:
    cluster = Cluster(bootstrap_servers)
    yield cluster
    cluster.end()
