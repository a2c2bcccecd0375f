"""Restoring against both brokers: partitions that must wait hold up no others, kept states."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from live_services import Broker
from worker_rig import PARTITIONS, Rig, wait_for

from consumers.fetcher import Fetcher
from consumers.offsets import Offsets, Question
from consumers.settings import consuming
from pipeline import device
from pipeline.config import Config, load
from pipeline.history import PastTicks
from pipeline.log import Log
from pipeline.pool import StatePool
from pipeline.processing import Stepper
from pipeline.recovery import Kept, RestoredPartition
from pipeline.restore import Restorer
from pipeline.worker import client_settings
from schemas.codec import TickDecoder

ALL = frozenset(range(PARTITIONS))


@pytest.fixture
def rig(broker: Broker, unique_name: Callable[[str], str], tmp_path) -> Iterator[Rig]:
    """Topics on which a worker has worked and stopped, of a group without members."""
    made = Rig(
        broker.bootstrap_servers,
        unique_name("restore"),
        tmp_path,
        USP__KAFKA__STATIC_MEMBERSHIP="false",
    )
    try:
        worker = made.start("first")
        made.send_walks(assets=20, ticks=400, seed=1)
        made.read_until_answered()
        assert worker.terminate() == 0
        yield made
    finally:
        made.close()


class Bench:
    """A restorer with real clients and a real pool, and nobody's loop around it."""

    def __init__(self, rig: Rig, offsets: type[Offsets] = Offsets) -> None:
        self.config: Config = load(None, rig.environment("bench"))
        device.configure(self.config.device)
        group = (client_settings(self.config), self.config.kafka.application_id, PARTITIONS)
        self.offsets = offsets(*group)
        self.fetcher = Fetcher(consuming(*group))
        self.pool = StatePool(self.config.predictor, self.config.device.slab_assets)
        self.restorer = Restorer(
            self.config,
            self.offsets,
            self.fetcher,
            self.pool,
            Stepper(self.pool),
            TickDecoder(registry=False),
            lambda schema_id: False,
            PastTicks(self.config, self.pool, PARTITIONS),
            device.environment_fingerprint(self.config),
            Log("bench", stream=io.StringIO()),
        )
        self.restored: dict[int, RestoredPartition] = {}

    def request(self, partitions: Iterable[int], kept: Mapping[int, Kept] | None = None) -> None:
        self.restorer.request(partitions, kept or {})

    def turns(self, until: Callable[[], bool]) -> None:
        def turned() -> bool:
            for each in self.restorer.turn(0.02):
                self.restored[each.partition] = each
            return until()

        wait_for(turned, "restored partitions", 30.0)

    def close(self) -> None:
        self.fetcher.close()
        self.offsets.close()


@pytest.fixture
def benches() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(*arguments) -> Bench:
        made.append(Bench(*arguments))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


class Pin:
    """A stranger's open transaction."""

    def __init__(self, rig: Rig) -> None:
        self.producer = Producer(
            {
                "bootstrap.servers": rig.bootstrap,
                "transactional.id": f"{rig.application}.pin",
                "log_level": 0,
            }
        )
        self.producer.init_transactions(10)
        self.producer.begin_transaction()

    def release(self) -> None:
        self.producer.abort_transaction(10)


def pin_offsets(rig: Rig, partition: int) -> Pin:
    pin = Pin(rig)
    stranger = Consumer({"bootstrap.servers": rig.bootstrap, "group.id": rig.application})
    offset = TopicPartition(rig.topics["ticks"], partition, 1, metadata="stranger")
    pin.producer.send_offsets_to_transaction([offset], stranger.consumer_group_metadata(), 10)
    stranger.close()
    return pin


def pin_log(rig: Rig, partition: int) -> Pin:
    pin = Pin(rig)
    pin.producer.produce(rig.topics["snapshots"], b"void", b"stranger", partition=partition)
    pin.producer.flush(10)
    return pin


@pytest.mark.parametrize("pinning", [pin_offsets, pin_log])
def test_a_partition_pinned_by_an_open_transaction_holds_up_no_other(rig, benches, pinning):
    bench = benches(rig)  # it may have to compile, which is longer than a transaction may last
    pin = pinning(rig, 1)
    bench.request(ALL)

    bench.turns(lambda: bench.restored.keys() == ALL - {1})
    began = time.monotonic()
    bench.turns(lambda: time.monotonic() > began + 0.5)
    waiting = set(bench.restored)
    pin.release()
    bench.turns(lambda: bench.restored.keys() == ALL)

    assert waiting == ALL - {1}
    assert len(bench.pool) == 20


class RefusingOffsets(Offsets):
    """Its first question about ends is refused for one partition, as by a leader that moves."""

    refusals = 1

    def ask_true_ends(self, topic: str, partitions: Iterable[int]) -> Question[int]:
        question = super().ask_true_ends(topic, partitions)
        if self.refusals:
            self.refusals -= 1
            (victim, *_) = partitions
            question.forget(victim)
            question.refusals[victim] = "the leader has moved"
        return question


def test_a_refused_answer_about_one_partition_loses_no_other(rig, benches):
    bench = benches(rig)
    bench.request(ALL)
    bench.turns(lambda: bench.restored.keys() == ALL)
    kept = {p: Kept(each.committed, 1) for p, each in bench.restored.items() if p != 0}
    second = benches(rig, RefusingOffsets)

    second.request(ALL, kept)
    second.turns(lambda: second.restored.keys() == ALL)

    assert second.offsets.refusals == 0
    assert [p for p, each in second.restored.items() if each.ledger is not None] == [0]


def test_a_kept_state_is_rebuilt_where_another_worker_began_a_generation_meanwhile(rig, benches):
    bench = benches(rig)
    bench.request(ALL)
    bench.turns(lambda: bench.restored.keys() == ALL)
    kept = {p: Kept(each.committed, 1) for p, each in bench.restored.items()}
    other = rig.start("other", USP__MONITORING__CUSUM_H="6.0")

    def begun() -> bool:
        rig.read()
        kinds = [event["kind"] for event in rig.outputs.events]
        return kinds.count("CONFIG_MUTATED") == PARTITIONS

    wait_for(begun, "the other worker's generation")
    assert other.terminate() == 0

    bench.restored.clear()
    bench.request(ALL, kept)
    bench.turns(lambda: bench.restored.keys() == ALL)

    # The offsets are the same, and yet none of the kept states was simply taken back.
    assert {p: each.committed for p, each in bench.restored.items()} == {
        p: state.committed for p, state in kept.items()
    }
    assert {each.ledger.generation.number for each in bench.restored.values()} == {2}


def test_a_restore_that_was_cancelled_answers_nothing_and_can_begin_again(rig, benches):
    bench = benches(rig)
    bench.request(ALL)
    bench.restorer.turn(0.0)
    bench.restorer.cancel((0, 1))
    bench.turns(lambda: bench.restored.keys() == {2, 3})

    bench.request((0,))
    bench.turns(lambda: bench.restored.keys() == {0, 2, 3})

    assert not bench.restorer.busy
