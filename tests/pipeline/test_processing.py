"""From records to ticks: the clock of the gates, drift, and records that must wait."""

from __future__ import annotations

import numpy as np
import pytest

from consumers.events import Record
from pipeline.processing import decode, next_positions
from predictor.config import Ingestion
from schemas.codec import Framing, TickDecoder, encode_tick, schema_text

DAY_NS = 86_400_000_000_000
NOW_NS = 1_700_000_000_000_000_000
NOW_MS = NOW_NS // 1_000_000


def record(offset: int, event_ns: int = NOW_NS, partition: int = 0, **changes) -> Record:
    tick = {"asset_id": "a", "magnitude": 1.0, "timestamp_ns": event_ns}
    framing = changes.pop("framing", Framing.single_object())
    value = changes.pop("value", encode_tick(tick, framing))
    return Record(partition, offset, changes.pop("timestamp_ms", NOW_MS), b"a", value, None)


def decoded(records, rules=None, decoder=None):
    return decode(decoder or TickDecoder(registry=False), rules or Ingestion(), records, NOW_NS)


def test_the_clock_of_a_tick_is_the_timestamp_of_its_record():
    out = decoded([record(0, timestamp_ms=NOW_MS + 5)])

    assert out.ticks.now_ns.tolist() == [NOW_NS + 5_000_000]


def test_without_a_record_timestamp_the_clock_is_the_event_time():
    out = decoded([record(0, event_ns=123, timestamp_ms=-1)])

    assert out.ticks.now_ns.tolist() == [123]


def test_the_host_clock_is_used_only_where_it_is_asked_for():
    out = decoded([record(0, timestamp_ms=1)], Ingestion(clock="wall"))

    assert out.ticks.now_ns.tolist() == [NOW_NS]


@pytest.mark.parametrize(
    ("gates", "ahead_ns", "rejected"),
    [
        ("relative", DAY_NS, False),
        ("relative", DAY_NS + 1, True),
        ("relative", -10_000 * DAY_NS, False),
        ("absolute", 1_000_000_000, False),
        ("absolute", 1_000_000_001, True),
        ("absolute", -DAY_NS, False),
        ("absolute", -DAY_NS - 1, True),
        ("off", 10_000 * DAY_NS, False),
    ],
)
def test_event_times_too_far_from_the_clock_are_dead_letters(gates, ahead_ns, rejected):
    out = decoded([record(0, event_ns=NOW_NS + ahead_ns)], Ingestion(time_gates=gates))

    reasons = [str(r.reason) for r in out.rejected]
    assert reasons == (["timestamp_drift"] if rejected else [])
    assert len(out.positions) == (0 if rejected else 1)


def test_a_year_that_would_overflow_a_difference_is_still_judged():
    out = decoded([record(0, event_ns=np.iinfo(np.int64).max)])

    assert [str(r.reason) for r in out.rejected] == ["timestamp_drift"]


def test_an_unknown_schema_stops_its_partition_and_no_other():
    stranger = Framing.confluent(7)
    records = [
        record(0),
        record(1, framing=stranger),
        record(2),
        record(3, value=b"bad"),
        record(0, partition=1),
    ]

    out = decoded(records, decoder=TickDecoder(registry=True))

    assert out.waiting == {0: (1, 7)}
    assert out.positions.tolist() == [0, 4]
    assert out.rejected == []
    assert next_positions(records, out.waiting) == {0: 1, 1: 1}


def test_a_partition_that_begins_with_an_unknown_schema_does_not_move():
    records = [record(5, framing=Framing.confluent(7))]
    out = decoded(records, decoder=TickDecoder(registry=True))

    assert next_positions(records, out.waiting) == {}


def test_a_schema_that_became_known_lets_the_ticks_through():
    decoder = TickDecoder(registry=True)
    records = [record(1, framing=Framing.confluent(7))]
    decoder.add_writer(7, schema_text("tick"))

    out = decoded(records, decoder=decoder)

    assert (out.waiting, out.asset_id) == ({}, ["a"])
