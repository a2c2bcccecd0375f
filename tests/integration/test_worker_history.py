"""Workers whose assets have a past: in the topic before its start, or in a file."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from worker_rig import BASE_NS, PARTITIONS, SECOND_NS, Rig, SentTick


def test_a_partition_that_starts_at_its_end_has_learned_from_the_ticks_before_it(make_rig):
    settings = {"USP__KAFKA__START": "latest", "USP__HISTORY__TOPIC_TICKS": "100000"}
    rig = make_rig(**settings)
    rig.send_walks(assets=20, ticks=1000, seed=1)
    rig.send_raw(b"x", b"no tick at all", 0)
    rig.send_raw(b"x", b"\x00\x00\x00\x30\x39payload", 0)
    rig.producer.flush()
    rig.learned = set(rig.offsets)
    worker = rig.start("only")
    worker.wait_for_event("partition_restored", PARTITIONS)

    rig.send_walks(assets=20, ticks=600, seed=2, first=1000)
    rig.read_until_answered()
    worker.kill()
    rig.start("only")
    rig.send_walks(assets=20, ticks=300, seed=3, first=1600)
    rig.read_until_answered()

    assert min(record["sequence"] for record in rig.outputs.predictions) > 20
    rig.assert_every_input_is_answered_once()
    rig.assert_bits_equal_the_library()


def test_a_start_at_the_end_learns_from_as_many_offsets_as_it_was_told(make_rig):
    rig = make_rig(USP__KAFKA__START="latest", USP__HISTORY__TOPIC_TICKS="40")
    rig.send_walks(assets=12, ticks=800, seed=1)
    rig.learned = set(rig.offsets)

    worker = rig.start("only")
    worker.wait_for_event("partition_restored", PARTITIONS)

    restored = worker.events("partition_restored")
    assert [line["replayed"] for line in restored] == [40] * PARTITIONS
    assert all(line["committed"] - line["floor"] == 40 for line in restored)


def recorded(rig: Rig, path: Path, assets: int, ticks: int) -> None:
    """Write walks that ended before the first tick, and tell the rig of them."""
    rng = np.random.default_rng(9)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["asset_id", "timestamp_ns", "magnitude"])
        for asset in range(assets):
            name = f"asset-{asset}"
            values = np.cumsum(rng.standard_normal(ticks)).tolist()
            stamps = [BASE_NS + (number - ticks) * SECOND_NS for number in range(ticks)]
            rig.past[name] = [SentTick(name, *each) for each in zip(values, stamps, strict=True)]
            writer.writerows(
                [each.asset, each.timestamp_ns, each.magnitude] for each in rig.past[name]
            )


def test_what_a_file_taught_survives_the_worker_and_the_file(make_rig, tmp_path_factory):
    rig = make_rig()
    history = tmp_path_factory.mktemp("past") / "history.csv"
    recorded(rig, history, assets=10, ticks=70)
    worker = rig.start("only", USP__HISTORY__FILE=str(history))
    worker.wait_for_event("partition_restored", PARTITIONS)
    rig.send_walks(assets=20, ticks=500, seed=1)
    rig.read_until_answered()

    worker.kill()
    history.unlink()
    successor = rig.start("only")
    rig.send_walks(assets=20, ticks=300, seed=2, first=500)
    rig.read_until_answered()

    assert sum(line["learned"] for line in worker.events("partition_restored")) == 10
    assert sum(line["learned"] for line in successor.events("partition_restored")) == 0
    rig.assert_every_input_is_answered_once()
    rig.assert_sequences_never_skip()
    rig.assert_bits_equal_the_library()


def test_a_file_that_is_not_there_ends_the_start_with_one_line(make_rig):
    rig = make_rig()
    worker = rig.start("only", USP__HISTORY__FILE="nowhere.csv")

    assert worker.ended() == 3
    assert "history.file: nowhere.csv: no such file" in worker.text.splitlines()[-1]
