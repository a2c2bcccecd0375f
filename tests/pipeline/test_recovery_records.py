"""Snapshots, control records, offset metadata and generations."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Config, load
from pipeline.generations import (
    KEPT_GENERATIONS,
    Timeline,
    continued,
    pruned,
    structure_hash,
    tunable_values,
)
from pipeline.ledger import Generation
from pipeline.snapshot import (
    CONTROL_KEY,
    METADATA_LIMIT_BYTES,
    AssetSnapshot,
    Control,
    OffsetMetadata,
    Origin,
    SnapshotError,
    decode_control,
    decode_metadata,
    decode_snapshot,
    encode_control,
    encode_snapshot,
)

SNAPSHOT = AssetSnapshot(Origin("app", "ticks", 2), "asset", 17, "1:ab", "here", b"\x01\x02" * 64)


def test_a_snapshot_comes_back_as_it_was():
    assert decode_snapshot(encode_snapshot(SNAPSHOT)) == SNAPSHOT


@settings(deadline=None, max_examples=300)
@given(st.integers(0, len(encode_snapshot(SNAPSHOT)) - 1), st.integers(1, 255))
def test_any_flipped_byte_of_a_snapshot_is_detected(position, flip):
    value = bytearray(encode_snapshot(SNAPSHOT))
    value[position] ^= flip

    with pytest.raises(SnapshotError):
        decode_snapshot(bytes(value))


@given(st.integers(0, len(encode_snapshot(SNAPSHOT)) - 1))
def test_a_truncated_snapshot_is_detected(length):
    with pytest.raises(SnapshotError):
        decode_snapshot(encode_snapshot(SNAPSHOT)[:length])


def test_a_snapshot_of_another_version_is_refused_by_name():
    newer = AssetSnapshot(*(getattr(SNAPSHOT, f) for f in SNAPSHOT.__struct_fields__[:-1]), 9)

    with pytest.raises(SnapshotError, match="schema version 9"):
        decode_snapshot(encode_snapshot(newer))


def test_a_control_record_comes_back_as_it_was():
    control = Control(Origin("a", "t", 0), [Generation(1, 0, {"x": 0.5})], [3, 9], "hash")

    assert decode_control(encode_control(control)) == control


def test_the_control_key_is_no_possible_asset():
    with pytest.raises(UnicodeDecodeError):
        CONTROL_KEY.decode()


def test_offset_metadata_fits_and_foreign_text_is_not_ours():
    largest = OffsetMetadata(2**62, 2**31).encode()

    assert len(largest) < METADATA_LIMIT_BYTES
    assert decode_metadata(largest) == OffsetMetadata(2**62, 2**31)
    assert decode_metadata("") is None
    assert decode_metadata('{"floor": "x"}') is None


def generation(number: int, start: int, value: float = 0.0) -> Generation:
    return Generation(number, start, {"monitoring.cusum_h": value or float(number)})


def test_a_worker_with_the_newest_parameters_continues_them():
    log = [generation(1, 0), generation(2, 50)]

    assert continued(log, log[-1].values, 90) == (log, "same")


def test_a_worker_with_older_parameters_does_not_bring_them_back():
    log = [generation(1, 0), generation(2, 50)]

    assert continued(log, log[0].values, 90) == (log, "older")


def test_new_parameters_begin_at_the_committed_offset():
    log = [generation(1, 0)]

    after, verdict = continued(log, {"monitoring.cusum_h": 9.0}, 90)

    assert verdict == "new"
    assert after[-1] == Generation(2, 90, {"monitoring.cusum_h": 9.0})


def test_generations_that_still_hold_above_the_floor_are_kept():
    log = [generation(number, 10 * number) for number in range(1, 21)]

    kept = pruned(log, floor=45)

    assert kept[0].number == 4
    assert pruned(log, floor=10_000)[0].number == 20 - KEPT_GENERATIONS + 1


def test_a_tick_is_stepped_under_the_parameters_of_its_offset():
    own = tunable_values(Config().predictor)
    log = [Generation(1, 0, own), Generation(2, 50, {**own, "monitoring.cusum_h": 6.0})]
    timeline = Timeline(Config().predictor, log)

    assert timeline.at(49).number == 1
    assert timeline.at(50).number == 2
    assert timeline.at(50).config.monitoring.cusum_h == 6.0
    assert timeline.at(50).config_hash != timeline.at(49).config_hash


def test_tunables_do_not_move_the_structure_and_structural_fields_do():
    default = Config()
    tuned = load(None, {"USP__MONITORING__CUSUM_H": "6.0", "USP__WORKER__MAX_BATCH": "7"})
    other = load(None, {"USP__DEVICE__TILE": "16"})

    assert structure_hash(tuned) == structure_hash(default)
    assert structure_hash(other) != structure_hash(default)
