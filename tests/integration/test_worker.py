"""The worker against a broker: kills, poison, restarts, refusals."""

from __future__ import annotations

import random
import time

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from worker_rig import (
    BASE_NS,
    PARTITIONS,
    SECOND_NS,
    SINGLE_OBJECT_HEADER,
    plain_tick,
    reasons,
    wait_for,
)

from pipeline.snapshot import CONTROL_KEY

MEMBERSHIPS = {
    "static cooperative-sticky": {},
    "dynamic range": {
        "USP__KAFKA__ASSIGNMENT": "range",
        "USP__KAFKA__STATIC_MEMBERSHIP": "false",
        "USP__KAFKA__SESSION_TIMEOUT_MS": "2000",
    },
}


@pytest.mark.parametrize("membership", MEMBERSHIPS)
def test_kills_and_joins_lose_nothing_repeat_nothing_and_keep_the_bits(make_rig, membership):
    rig = make_rig(**MEMBERSHIPS[membership])
    chance = random.Random(11)
    rig.start("first")
    rig.start("second")

    sent = 0
    for round_number in range(4):
        rig.send_walks(assets=30, ticks=1500, seed=round_number, first=sent)
        sent += 1500
        answered = len(rig.outputs.answers())

        def moved(answered: int = answered) -> bool:
            rig.read()
            return len(rig.outputs.answers()) > answered + 300

        wait_for(moved, "progress before the kill")
        name = chance.choice(["first", "second"])
        rig.workers[name].kill()
        rig.start(name)
        if round_number == 1:
            rig.start("third")
    rig.read_until_answered()

    rig.assert_every_input_is_answered_once()
    rig.assert_sequences_never_skip()
    rig.assert_bits_equal_the_library()


def test_a_stop_under_load_exits_zero_and_leaves_nothing_to_replay(make_rig):
    rig = make_rig()
    worker = rig.start("only")
    worker.wait_for_event("partition_restored", PARTITIONS)
    rig.send_walks(assets=40, ticks=6000, seed=1)
    rig.read(0.5)

    began = time.monotonic()
    code = worker.terminate()
    seconds = time.monotonic() - began
    successor = rig.start("only")
    successor.wait_for_event("partition_restored", PARTITIONS)
    rig.read_until_answered()

    assert code == 0
    assert seconds < 25
    assert [e["replayed"] for e in successor.events("partition_restored")] == [0] * PARTITIONS
    rig.assert_every_input_is_answered_once()
    rig.assert_bits_equal_the_library()


POISON = {
    "empty": b"",
    "null_value": None,
    "bad_magic": b"not avro at all",
    "truncated": plain_tick("x", 1.0, BASE_NS)[:-4],
    "trailing_bytes": plain_tick("x", 1.0, BASE_NS) + b"\x00",
    "unknown_fingerprint": b"\xc3\x01" + b"\xaa" * 8 + b"payload",
    "unknown_schema_id": b"\x00\x00\x00\x30\x39" + b"payload",
    "length_out_of_bounds": SINGLE_OBJECT_HEADER + b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f",
    "invalid_utf8": plain_tick("xy", 1.0, BASE_NS).replace(b"xy", b"\xff\xfe"),
    "key_mismatch": plain_tick("another", 1.0, BASE_NS),
}


def test_poison_goes_to_the_dead_letters_byte_for_byte_and_good_assets_do_not_notice(make_rig):
    rig = make_rig()
    worker = rig.start("only")
    kinds = list(POISON)
    for number in range(1200):
        rig.send(f"asset-{number % 12}", float(number % 7), BASE_NS + number * SECOND_NS)
        if number % 10 == 0:
            kind = kinds[(number // 10) % len(kinds)]
            rig.send_raw(b"x", POISON[kind], number % PARTITIONS)
    rig.producer.flush()

    rig.read_until_answered()
    worker.kill()
    rig.start("only")
    rig.send_walks(assets=12, ticks=300, seed=2, first=1200)
    rig.read_until_answered()

    letters = rig.outputs.dead_letters
    assert reasons(letters) == dict.fromkeys(kinds, 12)
    for letter in letters:
        assert letter.value() == POISON[dict(letter.headers())["usp.dlq.reason"].decode()]
        assert letter.key() == b"x"
    rig.assert_every_input_is_answered_once()
    rig.assert_bits_equal_the_library()


def test_historic_ticks_at_one_hertz_are_forecast_and_not_degraded(make_rig):
    rig = make_rig()
    rig.start("only")
    year_1990 = 631_152_000 * SECOND_NS
    for number in range(300):
        rig.send("old", float(number % 17), year_1990 + number * SECOND_NS)
    rig.producer.flush()

    rig.read_until_answered()

    late = [record for record in rig.outputs.predictions if record["sequence"] > 20]
    assert len(rig.outputs.predictions) == 300
    assert not any(record["degraded_inference_mode"] for record in late)
    assert {record["operating_mode"] for record in late} == {"inference"}
    assert rig.outputs.dead_letters == []


def test_late_and_repeated_ticks_are_answered_by_an_event(make_rig):
    rig = make_rig()
    rig.start("only")
    for number in range(50):
        rig.send("one", float(number), BASE_NS + number * SECOND_NS)
        rig.producer.flush()
    rig.send("one", 49.0, BASE_NS + 49 * SECOND_NS)
    rig.send("one", 7.0, BASE_NS)
    rig.producer.flush()

    rig.read_until_answered()

    kinds = [e["kind"] for e in rig.outputs.events]
    assert kinds.count("OUT_OF_ORDER") == 2
    assert len(rig.outputs.predictions) == 50
    rig.assert_every_input_is_answered_once()
    rig.assert_bits_equal_the_library()


@pytest.mark.parametrize("older", ["gone", "whole"])
def test_a_damaged_snapshot_is_rejected_and_its_asset_goes_on_only_from_a_whole_one(
    make_rig, older
):
    rig = make_rig()
    worker = rig.start("only")
    rig.send_walks(assets=3, ticks=300, seed=4)
    rig.read_until_answered()
    assert worker.terminate() == 0
    victim = "asset-1"
    partition = next(source[0] for source, tick in rig.sent.items() if tick.asset == victim)
    left = [None, b"damaged" * 10] if older == "gone" else [b"damaged" * 10]
    for value in left:
        rig.producer.produce(rig.topics["snapshots"], value, victim.encode(), partition=partition)
    rig.producer.flush()

    rig.start("only")
    before = len(rig.outputs.predictions)
    rig.send_walks(assets=3, ticks=90, seed=5, first=300)
    rig.read_until_answered()

    rejected = [e for e in rig.outputs.events if e["kind"] == "SNAPSHOT_REJECTED"]
    after = rig.outputs.predictions[before:]
    assert [event["asset_id"] for event in rejected] == [victim]
    first = {
        asset: min(r["sequence"] for r in after if r["asset_id"] == asset)
        for asset in {r["asset_id"] for r in after}
    }
    cold = {asset for asset, sequence in first.items() if sequence == 1}
    assert cold == ({victim} if older == "gone" else set())
    assert all(sequence > 50 for asset, sequence in first.items() if asset not in cold)
    rig.assert_every_input_is_answered_once()


def test_missing_offsets_beside_snapshots_are_refused_with_the_remedy(make_rig):
    rig = make_rig()
    worker = rig.start("only", USP__KAFKA__STATIC_MEMBERSHIP="false")
    rig.send_walks(assets=3, ticks=100, seed=4)
    rig.read_until_answered()
    worker.terminate()
    future = rig.admin.delete_consumer_groups([rig.application])[rig.application]
    future.result()

    worker = rig.start("only")
    code = worker.ended()

    assert code == 7
    assert "no committed offset, although snapshots of this application exist" in worker.text


def test_offsets_of_a_stranger_are_refused(make_rig):
    rig = make_rig()
    offsets = [TopicPartition(rig.topics["ticks"], p, 0) for p in range(PARTITIONS)]
    request = [ConsumerGroupTopicPartitions(rig.application, offsets)]
    for future in rig.admin.alter_consumer_group_offsets(request).values():
        future.result()

    worker = rig.start("only")
    code = worker.ended()

    assert code == 7
    assert "carries no replay floor" in worker.text


def test_changed_tunables_begin_a_generation_at_the_committed_offset(make_rig):
    rig = make_rig()
    worker = rig.start("only")
    rig.send_walks(assets=4, ticks=400, seed=6)
    rig.read_until_answered()
    worker.kill()

    worker = rig.start("only", USP__MONITORING__CUSUM_H="6.0")
    rig.send_walks(assets=4, ticks=100, seed=7, first=400)
    rig.read_until_answered()
    worker.kill()
    worker = rig.start("only")
    rig.send_walks(assets=4, ticks=100, seed=8, first=500)
    rig.read_until_answered()

    generations = [r["config_generation"] for r in rig.outputs.predictions]
    mutated = [e for e in rig.outputs.events if e["kind"] == "CONFIG_MUTATED"]
    assert generations.count(1) == 400
    assert generations.count(2) == 200
    assert len(mutated) == PARTITIONS
    assert len({r["config_hash"] for r in rig.outputs.predictions}) == 2
    assert len(worker.events("older_configuration_kept_out")) == PARTITIONS
    rig.assert_sequences_never_skip()


def test_another_structure_is_refused(make_rig):
    rig = make_rig()
    worker = rig.start("only")
    rig.send_walks(assets=4, ticks=50, seed=6)
    rig.read_until_answered()
    worker.terminate()

    worker = rig.start("only", USP__DEVICE__TILE="16")
    code = worker.ended()

    assert code == 3
    assert "other structural settings" in worker.text


def test_a_second_worker_under_the_same_identity_ends_one_of_them(make_rig):
    rig = make_rig()
    first = rig.start("twin")
    first.wait_for_event("partition_restored", PARTITIONS)
    second = rig.start("twin")
    twins = (first, second)

    def one_ended() -> bool:
        rig.send_walks(assets=4, ticks=20, seed=6, first=len(rig.sent))
        rig.read(0.2)
        return any(worker.process.poll() is not None for worker in twins)

    wait_for(one_ended, "end of one twin")
    ended, other = (first, second) if first.process.poll() is not None else (second, first)
    rig.read_until_answered()

    assert ended.process.returncode == 5
    assert "instance_id" in ended.text
    assert other.process.poll() is None
    rig.assert_every_input_is_answered_once()
    other.kill()


def test_the_control_record_lies_on_the_snapshots_topic(make_rig):
    rig = make_rig()
    worker = rig.start("only")
    rig.send_walks(assets=4, ticks=50, seed=6)
    rig.read_until_answered()
    worker.terminate()
    reader = rig.eyes(rig.topics["snapshots"])

    keys = {message.key() for message in reader}

    assert CONTROL_KEY in keys
    assert {f"asset-{number}".encode() for number in range(4)} <= keys
