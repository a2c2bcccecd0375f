"""Dead letters: what they keep of the original, and what happens where that is too much."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.events import Record
from pipeline.config import Topics
from pipeline.dead_letters import LONGEST_DETAIL, REASON_BYTES, DeadLetters
from schemas.codec import DeadLetterReason, Rejection

LARGEST = 1_000_000
REJECTION = Rejection(0, DeadLetterReason.OVERSIZE, "70000 bytes, at most 65536 are accepted")


def record(**fields) -> Record:
    original = Record(3, 41, 1_700_000_000_000, b"key", b"value", None)
    return original._replace(**fields)


def letters(largest: int = LARGEST) -> DeadLetters:
    return DeadLetters(Topics(), "worker-1", largest)


def added(outgoing) -> dict[str, bytes]:
    return {name: value for name, value in outgoing.headers if name.startswith("usp.")}


def test_key_bytes_headers_partition_and_time_are_those_of_the_original():
    headers = [("a", b"1"), ("a", b"2"), ("nothing", None), ("", b""), ("usp.input", b"earlier")]

    made = letters().make(record(headers=headers), REJECTION)

    assert (made.key, made.value, made.partition) == (b"key", b"value", 3)
    assert made.timestamp_ms == 1_700_000_000_000
    assert made.headers[: len(headers)] == headers
    assert added(made) == {
        "usp.dlq.reason": b"oversize",
        "usp.dlq.detail": b"70000 bytes, at most 65536 are accepted",
        "usp.dlq.topic": b"usp.ticks.v1",
        "usp.dlq.partition": b"3",
        "usp.dlq.offset": b"41",
        "usp.dlq.worker": b"worker-1",
        "usp.input": b"usp.ticks.v1/3/41",
    }


@pytest.mark.parametrize(("key", "value"), [(None, None), (None, b""), (b"", None)])
def test_null_and_empty_keys_and_values_stay_what_they_are(key, value):
    made = letters().make(record(key=key, value=value), REJECTION)

    assert (made.key, made.value) == (key, value)


def test_headers_that_the_client_cannot_hand_over_are_declared_missing():
    made = letters().make(record(headers_lost=True), REJECTION)

    assert b"headers are left out" in added(made)["usp.dlq.detail"]
    assert made.value == b"value"


def size(outgoing) -> int:
    headers = sum(len(name.encode()) + len(value or b"") for name, value in outgoing.headers)
    return len(outgoing.key or b"") + len(outgoing.value or b"") + headers


sizes = st.integers(0, 2 * LARGEST)


@settings(deadline=None, max_examples=60)
@given(sizes, sizes, st.lists(sizes, max_size=3))
def test_a_dead_letter_is_never_larger_than_its_topic_takes(key, value, headers):
    original = record(
        key=bytes(key), value=bytes(value), headers=[(f"h{n}", bytes(n)) for n in headers]
    )

    made = letters().make(original, REJECTION)

    assert size(made) <= LARGEST
    fits = size(made._replace(key=original.key, value=original.value, headers=original.headers))
    if fits < LARGEST - REASON_BYTES - 1000:
        assert (made.key, made.value) == (original.key, original.value)
        assert made.headers[: len(headers)] == original.headers


def test_what_does_not_fit_is_left_out_value_first_and_said():
    made = letters().make(record(value=bytes(LARGEST), headers=[("a", b"1")]), REJECTION)

    assert (made.key, made.value) == (b"key", None)
    assert ("a", b"1") in made.headers
    assert b"1000000 bytes of value left out" in added(made)["usp.dlq.detail"]


def test_a_detail_of_any_length_and_any_characters_is_bounded():
    rejection = Rejection(0, DeadLetterReason.SCHEMA_INCOMPATIBLE, "\ud800" * 100_000)

    made = letters().make(record(), rejection)

    assert len(added(made)["usp.dlq.detail"]) <= LONGEST_DETAIL
