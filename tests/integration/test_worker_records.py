"""What the worker does with odd records: answered exactly once, whatever they are."""

from __future__ import annotations

import random

import pytest
import raw_records
from confluent_kafka import ConsumerGroupTopicPartitions, Producer, TopicPartition
from worker_rig import (
    BASE_NS,
    PARTITIONS,
    SECOND_NS,
    Rig,
    in_process_worker,
    plain_tick,
    reasons,
    running,
    wait_for,
)

from pipeline.log import Log
from pipeline.placement import java_partition
from pipeline.snapshot import decode_metadata
from producers.client import TransactionalProducer
from schemas.codec import decode_record

# -- answers ---------------------------------------------------------------------------------------


def test_late_and_repeated_ticks_in_any_order_are_each_answered_by_one_event(make_rig):
    rig = make_rig()
    worker = rig.start("only")
    chance = random.Random(13)
    sent: list[tuple[str, float, int]] = []
    for number in range(1500):
        tick = (f"asset-{chance.randrange(8)}", chance.gauss(0, 1), BASE_NS + number * SECOND_NS)
        if sent and chance.random() < 0.1:
            tick = chance.choice(sent[-200:])  # a repetition, or late, or both
        sent.append(tick)
        rig.send(*tick)
        if number == 700:
            rig.producer.flush()
            rig.read_until_answered()
            worker.kill()
            worker = rig.start("only")
    rig.producer.flush()

    rig.read_until_answered()

    late = [event for event in rig.outputs.events if event["kind"] == "OUT_OF_ORDER"]
    assert len(rig.outputs.predictions) + len(late) == 1500
    assert len(late) > 100
    rig.assert_every_input_is_answered_once()
    rig.assert_bits_equal_the_library()


def test_ticks_without_a_key_are_answered_under_their_asset(make_rig):
    rig = make_rig(USP__TELEMETRY__EVERY_TICKS="1", USP__SNAPSHOT__EVERY_TICKS="1")
    worker = rig.start("only")
    worker.wait_for_event("partition_restored", PARTITIONS)
    for number in range(40):
        value = plain_tick("keyless", float(number), BASE_NS + number * SECOND_NS)
        rig.send_raw(None, value, number % PARTITIONS)
        late = plain_tick("keyless", -1.0, BASE_NS)
        rig.send_raw(None, late, number % PARTITIONS)
        rig.send_raw(None, b"poison", number % PARTITIONS)
    rig.producer.flush()

    rig.read_until_answered()
    assert worker.terminate() == 0

    rig.assert_every_input_is_answered_once()
    for name in ("predictions", "telemetry", "events"):
        messages = rig.eyes(rig.topics[name])
        assert {message.key() for message in messages} == {b"keyless"}, name
        assert {message.partition() for message in messages} == set(range(PARTITIONS))
    assert {letter.key() for letter in rig.outputs.dead_letters} == {None}
    snapshots = {m.key() for m in rig.eyes(rig.topics["snapshots"]) if m.value() is not None}
    assert b"keyless" in snapshots
    placements = worker.events("placement")
    assert placements[-1]["assets_in_several_partitions"] == 1
    assert placements[-1]["assets_not_where_murmur2_puts_them"] == 0


def test_a_keyed_asset_in_the_wrong_partition_is_counted_also_after_a_restart(make_rig):
    rig = make_rig()
    worker = rig.start("only")
    wrong = (java_partition(b"stray", PARTITIONS) + 1) % PARTITIONS

    def send(number: int) -> None:
        rig.send("stray", float(number), BASE_NS + number * SECOND_NS, partition=wrong)
        rig.producer.flush()
        rig.read_until_answered()

    send(0)
    wait_for(lambda: bool(worker.events("placement")), "the count of placements")
    assert worker.terminate() == 0
    worker = rig.start("only")
    send(1)
    wait_for(lambda: bool(worker.events("placement")), "the count of placements")

    assert worker.events("placement")[-1]["assets_not_where_murmur2_puts_them"] == 1


# -- dead letters ----------------------------------------------------------------------------------

HEADERS = [
    [(b"plain", b"1"), (b"twice", b"1"), (b"twice", b"2")],
    [(b"nothing", None), (b"", b""), (b"bytes", b"\xff\x00")],
    [(b"usp.dlq.reason", b"an earlier one"), (b"traceparent", b"00-x")],
    [(b"\xff\xfe", b"x"), (b"plain", b"1")],
    [],
]


def test_headers_of_any_kind_survive_in_dead_letters_or_are_declared_missing(make_rig):
    rig = make_rig()
    worker = rig.start("only")
    expected = {}
    for number in range(60):
        headers = HEADERS[number % len(HEADERS)]
        partition = number % PARTITIONS
        offset = raw_records.write(
            rig.bootstrap, rig.topics["ticks"], partition, value=b"poison", headers=headers
        )
        rig.offsets.add((partition, offset))
        expected[partition, offset] = headers
    rig.send_walks(assets=8, ticks=200, seed=1)

    rig.read_until_answered()

    assert worker.process.poll() is None
    assert reasons(rig.outputs.dead_letters) == {"bad_magic": 60}
    for letter in rig.outputs.dead_letters:
        added = dict(letter.headers())
        source = int(added["usp.dlq.partition"]), int(added["usp.dlq.offset"])
        original = expected[source]
        kept = [(name.encode(), value) for name, value in letter.headers()][: len(original)]
        if original and original[0][0] == b"\xff\xfe":
            assert b"headers are left out" in added["usp.dlq.detail"]
        else:
            assert kept == original
        assert letter.value() == b"poison"
    rig.assert_every_input_is_answered_once()


POISON = {
    "oversize": plain_tick("x", 1.0, BASE_NS) + bytes(70_000),
    "bad_union_index": plain_tick("x", 1.0, BASE_NS)[:-1] + b"\x08",
    "timestamp_drift": plain_tick("x", 1.0, 9_000_000_000 * SECOND_NS),
    "length_out_of_bounds": plain_tick("", 1.0, BASE_NS),
    "key_mismatch": plain_tick("y", 1.0, BASE_NS),
}


def test_poison_that_decodes_almost_has_its_own_reason_too(make_rig):
    rig = make_rig()
    rig.start("only")
    for number, value in enumerate([*POISON.values()] * 6):
        rig.send_raw(b"x", value, number % PARTITIONS)
        rig.send(f"asset-{number % 5}", 1.0 + number % 3, BASE_NS + number * SECOND_NS)
    rig.producer.flush()

    rig.read_until_answered()

    assert reasons(rig.outputs.dead_letters) == dict.fromkeys(POISON, 6)
    for letter in rig.outputs.dead_letters:
        assert letter.value() == POISON[dict(letter.headers())["usp.dlq.reason"].decode()]
    rig.assert_every_input_is_answered_once()
    rig.assert_bits_equal_the_library()


def test_a_record_that_only_compression_let_in_is_answered_and_holds_up_nothing(make_rig):
    rig = make_rig()
    worker = rig.start("only")
    worker.wait_for_event("partition_restored", PARTITIONS)
    compressing = Producer(
        {
            "bootstrap.servers": rig.bootstrap,
            "compression.type": "gzip",
            "message.max.bytes": 40_000_000,
        }
    )

    def delivered(error, message) -> None:
        assert error is None, error
        rig.offsets.add((message.partition(), message.offset()))

    for partition, size in ((0, 1_500_000), (1, 30_000_000)):
        compressing.produce(
            rig.topics["ticks"], bytes(size), b"x", partition=partition, on_delivery=delivered
        )
    assert compressing.flush(30) == 0
    rig.send_walks(assets=8, ticks=200, seed=1)

    rig.read_until_answered()

    letters = {letter.partition(): letter for letter in rig.outputs.dead_letters}
    assert reasons(letters.values()) == {"oversize": 2}
    assert letters[0].value() == bytes(1_500_000)
    assert letters[1].value() is None
    assert b"30000000 bytes of value left out" in dict(letters[1].headers())["usp.dlq.detail"]
    assert worker.events("transaction_aborted") == []
    rig.assert_every_input_is_answered_once()


# -- where a new group starts ----------------------------------------------------------------------


def committed(rig: Rig) -> dict[int, tuple[int, str | None]]:
    wanted = [TopicPartition(rig.topics["ticks"], partition) for partition in range(PARTITIONS)]
    request = ConsumerGroupTopicPartitions(rig.application, wanted)
    answers = rig.admin.list_consumer_group_offsets([request], require_stable=True)
    found = answers[rig.application].result().topic_partitions
    return {tp.partition: (tp.offset, tp.metadata) for tp in found}


@pytest.mark.parametrize("start", ["earliest", "latest"])
def test_the_start_is_committed_with_its_metadata_before_the_first_tick(make_rig, start):
    rig = make_rig()
    for number in range(40):
        rig.send(f"asset-{number % 8}", float(number), BASE_NS + number * SECOND_NS)
    rig.producer.flush()
    ends = {p: max(o for q, o in rig.sent if q == p) + 1 for p, _ in rig.sent}
    worker = rig.start("only", USP__KAFKA__START=start)

    # The answers to the oldest ticks come in the same moment, the answers to none never do.
    wait_for(lambda: all(offset >= 0 for offset, _ in committed(rig).values()), "committed offsets")
    worker.kill()
    offsets = committed(rig)
    rig.start("only", USP__KAFKA__START="earliest" if start == "latest" else "latest")
    for number in range(40, 80):
        rig.send(f"asset-{number % 8}", float(number), BASE_NS + number * SECOND_NS)
    rig.producer.flush()
    if start == "latest":
        skipped = {source for source in rig.offsets if source[1] < ends[source[0]]}
        rig.offsets -= skipped
        rig.sent = {source: tick for source, tick in rig.sent.items() if source not in skipped}
        assert {p: offset for p, (offset, _) in offsets.items()} == {
            p: ends.get(p, 0) for p in range(PARTITIONS)
        }
    assert all(decode_metadata(metadata or "") is not None for _, metadata in offsets.values())

    rig.read_until_answered()
    rig.assert_every_input_is_answered_once()
    rig.assert_bits_equal_the_library()


class RecordingProducer(TransactionalProducer):
    """Notes in order what is written and committed."""

    def __init__(self, *arguments, **named) -> None:
        super().__init__(*arguments, **named)
        self.written: list[tuple[str, int]] = []
        self.commits: list[tuple[int, dict[int, int]]] = []

    def produce(self, records, *arguments) -> None:
        self.written += [(record.topic, record.partition) for record in records]
        super().produce(records, *arguments)

    def commit(self, topic, offsets, *arguments) -> None:
        positions = {partition: offset for partition, (offset, _) in offsets.items()}
        self.commits.append((len(self.written), positions))
        super().commit(topic, offsets, *arguments)


def test_nothing_of_a_partition_is_answered_before_its_start_is_committed(make_rig, tmp_path):
    rig = make_rig()
    for number in range(400):
        rig.send(f"asset-{number % 8}", float(number), BASE_NS + number * SECOND_NS)
    rig.producer.flush()
    with (tmp_path / "log").open("w") as stream:
        worker, producer = in_process_worker(rig, RecordingProducer, Log("only", stream=stream))
        with running(worker):
            rig.read_until_answered()

    for partition in {partition for partition, _ in rig.offsets}:
        written_before, offsets = next(each for each in producer.commits if partition in each[1])
        answers = [
            p
            for topic, p in producer.written[:written_before]
            if topic == rig.topics["predictions"]
        ]
        assert offsets[partition] == 0
        assert partition not in answers


def test_events_of_the_worker_have_no_key(make_rig):
    rig = make_rig()
    worker = rig.start("only")
    rig.send_walks(assets=4, ticks=50, seed=1)
    rig.read_until_answered()
    assert worker.terminate() == 0
    rig.start("only", USP__MONITORING__CUSUM_H="6.0")

    def mutated() -> bool:
        found = [
            (m.key(), decode_record("event", m.value())) for m in rig.eyes(rig.topics["events"])
        ]
        return [key for key, event in found if event["kind"] == "CONFIG_MUTATED"] == (
            [None] * PARTITIONS
        )

    wait_for(mutated, "events of the worker")
