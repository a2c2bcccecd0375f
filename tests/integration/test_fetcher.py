"""The fetcher on both brokers: it reads from where it was told to, whatever it read before."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Producer
from live_services import Broker
from worker_rig import wait_for

from consumers.fetcher import Fetcher
from consumers.settings import common, consuming

RECORDS = 40
PARTITIONS = 2


class Desk:
    """A topic with numbered records in partition 0, and a fetcher that has read nothing yet."""

    def __init__(self, broker: Broker, unique_name: Callable[[str], str]) -> None:
        self.broker = broker
        self.topic = broker.create_topic(unique_name("log"), PARTITIONS)
        self.write(range(RECORDS))
        base = common(broker.bootstrap_servers, "desk", {"log_level": "0"})
        self.fetcher = Fetcher(consuming(base, unique_name("group"), PARTITIONS))
        self.offsets: list[int] = []
        self.ends: set[int] = set()

    def write(self, numbers: range, partition: int = 0) -> None:
        producer = Producer({"bootstrap.servers": self.broker.bootstrap_servers, "log_level": 0})
        for number in numbers:
            producer.produce(self.topic, str(number).encode(), partition=partition)
        assert producer.flush(30) == 0

    def read(self, until: Callable[[], bool]) -> None:
        """Polls, noting what comes of partition 0."""

        def turned() -> bool:
            polled = self.fetcher.poll(7, 0.02).get(self.topic)
            if polled is not None:
                self.offsets += [record.offset for record in polled.records]
                self.ends |= set(polled.ends.values())
            return until()

        wait_for(turned, "records")


@pytest.fixture
def desk(broker, unique_name) -> Iterator[Desk]:
    made = Desk(broker, unique_name)
    yield made
    made.fetcher.close()


def test_a_partition_is_read_from_its_offset_to_its_end(desk):
    desk.fetcher.start(desk.topic, 0, 3)

    desk.read(lambda: RECORDS in desk.ends)

    assert desk.offsets == list(range(3, RECORDS))


def test_a_partition_that_is_started_over_and_over_is_read_from_the_last_start(desk):
    chance = random.Random(5)
    for _ in range(20):
        for _ in range(chance.randrange(1, 6)):
            desk.fetcher.start(desk.topic, 0, chance.randrange(RECORDS))
            desk.fetcher.poll(chance.randrange(1, 9), chance.choice([0.0, 0.001, 0.01]))
        first = chance.randrange(RECORDS)
        desk.fetcher.start(desk.topic, 0, first)
        desk.offsets.clear()
        desk.ends.clear()
        desk.read(lambda: RECORDS in desk.ends)

        assert desk.offsets == list(range(first, RECORDS))


def test_nothing_of_a_partition_that_was_stopped_is_delivered(desk):
    desk.fetcher.start(desk.topic, 0, 0)
    desk.read(lambda: bool(desk.offsets))

    desk.fetcher.stop(desk.topic, 0)
    desk.offsets.clear()
    began = time.monotonic()
    desk.read(lambda: time.monotonic() > began + 0.2)

    assert desk.offsets == []
    assert desk.fetcher.idle


def test_a_paused_partition_delivers_the_rest_once_it_is_resumed(desk):
    desk.fetcher.start(desk.topic, 0, 0)
    desk.read(lambda: bool(desk.offsets))
    desk.fetcher.pause(desk.topic, 0)
    before = list(desk.offsets)
    began = time.monotonic()
    desk.read(lambda: time.monotonic() > began + 0.2)
    paused = list(desk.offsets)

    desk.fetcher.resume(desk.topic, 0)
    desk.read(lambda: RECORDS in desk.ends)

    assert paused == before
    assert desk.offsets == list(range(RECORDS))


def test_a_fetcher_from_before_an_outage_reads_a_partition_that_it_never_read(
    real_broker, unique_name
):
    desk = Desk(real_broker, unique_name)
    assert desk.fetcher.warm(10.0)
    real_broker.kill9()
    real_broker.start()

    desk.fetcher.start(desk.topic, 0, 5)
    desk.read(lambda: RECORDS in desk.ends)
    desk.fetcher.close()

    assert desk.offsets == list(range(5, RECORDS))
