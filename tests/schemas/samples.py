"""Ticks, bytes and faults that the tests of the codec share."""

import math
import struct
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from schemas.codec import DeadLetterReason, DecodedTicks, Framing, encode_tick

# The same examples on every run; the first call of a codec imports and compiles.
examples = settings(deadline=None, derandomize=True, max_examples=200)

SINGLE = Framing.single_object()
START_NS = 1_700_000_000_000_000_000

doubles = st.floats(allow_nan=True, allow_infinity=True, width=64)
longs = st.integers(-(2**63), 2**63 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)

ticks = st.fixed_dictionaries(
    {
        "asset_id": texts.filter(bool),
        "magnitude": doubles,
        "timestamp_ns": st.one_of(longs, st.integers(START_NS, START_NS + 10**15)),
        "dispersion_proxy": st.none() | doubles,
        "state_tag": st.none() | texts,
        "reference": st.none() | doubles,
        "request_id": st.none() | texts,
    }
)

PLAIN = {
    "asset_id": "BTC-USD",
    "magnitude": 1.5,
    "timestamp_ns": START_NS,
    "dispersion_proxy": None,
    "state_tag": None,
    "reference": None,
    "request_id": None,
}


def zigzag(number: int) -> bytes:
    """A long in its shortest form."""
    number = ((number << 1) ^ (number >> 63)) & (2**64 - 1)
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


HEADER = SINGLE.header("tick")
MIDDLE = struct.pack("<d", 1.5) + zigzag(START_NS)
NULLS = zigzag(0) * 4
ASSET = zigzag(3) + b"abc"


def framed(*parts: bytes) -> bytes:
    """A single-object value of a hand-made payload."""
    return HEADER + b"".join(parts)


GOOD = framed(ASSET, MIDDLE, NULLS)
R = DeadLetterReason

# What is wrong, the bytes, and the reason; the decoder of the tests takes 2,000 bytes and strings
# of 300.
POISON: dict[str, tuple[bytes | None, DeadLetterReason]] = {
    "null": (None, R.NULL_VALUE),
    "empty": (b"", R.EMPTY),
    "text": (b"hello, world", R.BAD_MAGIC),
    "json": (b'{"asset_id": "abc"}', R.BAD_MAGIC),
    "version 2 of single-object encoding": (b"\xc3\x02" + GOOD[2:], R.BAD_MAGIC),
    "one byte of a single-object header": (b"\xc3", R.TRUNCATED),
    "nine bytes of a single-object header": (GOOD[:9], R.TRUNCATED),
    "one byte of a Confluent header": (b"\x00", R.TRUNCATED),
    "four bytes of a Confluent header": (b"\x00\x00\x00\x00", R.TRUNCATED),
    "foreign fingerprint": (b"\xc3\x01" + b"\x11" * 8 + GOOD[10:], R.UNKNOWN_FINGERPRINT),
    "fingerprint of another record": (SINGLE.header("event") + GOOD[10:], R.UNKNOWN_FINGERPRINT),
    "header alone": (HEADER, R.TRUNCATED),
    "end within asset_id": (framed(zigzag(3), b"ab"), R.TRUNCATED),
    "end within magnitude": (framed(ASSET, MIDDLE[:5]), R.TRUNCATED),
    "end within timestamp_ns": (framed(ASSET, MIDDLE[:-1]), R.TRUNCATED),
    "end before the last union": (GOOD[:-1], R.TRUNCATED),
    "string longer than the rest": (framed(zigzag(200), b"abc", MIDDLE, NULLS), R.TRUNCATED),
    "string of 2^60 bytes": (framed(zigzag(2**60), b"abc"), R.LENGTH_OUT_OF_BOUNDS),
    "string of -1 bytes": (framed(zigzag(-1), b"abc", MIDDLE, NULLS), R.LENGTH_OUT_OF_BOUNDS),
    "string of -2^63 bytes": (framed(zigzag(-(2**63)), MIDDLE, NULLS), R.LENGTH_OUT_OF_BOUNDS),
    "string over the bound, all there": (
        framed(zigzag(301), b"x" * 301, MIDDLE, NULLS),
        R.LENGTH_OUT_OF_BOUNDS,
    ),
    "request_id of 2^60 bytes": (
        framed(ASSET, MIDDLE, NULLS[:3], zigzag(1), zigzag(2**60)),
        R.LENGTH_OUT_OF_BOUNDS,
    ),
    "empty asset_id": (framed(zigzag(0), MIDDLE, NULLS), R.LENGTH_OUT_OF_BOUNDS),
    "number of eleven bytes": (
        framed(ASSET, MIDDLE[:8], b"\xff" * 10 + b"\x00", NULLS),
        R.LENGTH_OUT_OF_BOUNDS,
    ),
    "number of 70 bits": (
        framed(ASSET, MIDDLE[:8], b"\xff" * 9 + b"\x7f", NULLS),
        R.LENGTH_OUT_OF_BOUNDS,
    ),
    "number without an end": (framed(b"\xff" * 100), R.LENGTH_OUT_OF_BOUNDS),
    "asset_id in Latin-1": (framed(zigzag(3), b"a\xe9b", MIDDLE, NULLS), R.INVALID_UTF8),
    "asset_id with a surrogate": (
        framed(zigzag(3), b"\xed\xa0\x80", MIDDLE, NULLS),
        R.INVALID_UTF8,
    ),
    "state_tag with an overlong form": (
        framed(ASSET, MIDDLE, zigzag(0), zigzag(1), zigzag(2), b"\xc0\x80", NULLS[:2]),
        R.INVALID_UTF8,
    ),
    "character cut between two strings": (
        # Joined, the strings of the batch would be UTF-8; each alone is not.
        framed(zigzag(1), b"\xc3", MIDDLE, NULLS),
        R.INVALID_UTF8,
    ),
    "union branch 2 of 2": (framed(ASSET, MIDDLE, zigzag(2), NULLS[:3]), R.BAD_UNION_INDEX),
    "union branch -1": (framed(ASSET, MIDDLE, zigzag(-1), NULLS[:3]), R.BAD_UNION_INDEX),
    "union branch 2^62": (framed(ASSET, MIDDLE, zigzag(2**62), NULLS[:3]), R.BAD_UNION_INDEX),
    "one trailing byte": (GOOD + b"\x00", R.TRAILING_BYTES),
    "a second record behind": (GOOD + GOOD[10:], R.TRAILING_BYTES),
    "oversize by one byte": (GOOD + b"\x00" * (2001 - len(GOOD)), R.OVERSIZE),
    "oversize and not Avro": (b"x" * 5000, R.OVERSIZE),
}

MAX_BYTES = 2000
MAX_STRING_BYTES = 300


def value_of(tick: dict[str, Any], framing: Framing = SINGLE) -> bytes:
    return encode_tick(tick, framing)


def bits(number: float | None) -> bytes:
    """The eight bytes of a double, with null as the decoder's NaN."""
    return np.float64(math.nan if number is None else number).tobytes()


def rows(decoded: DecodedTicks) -> dict[int, tuple[Any, ...]]:
    """The outcome per input position, comparable bit for bit."""
    columns = (
        decoded.asset_id,
        [value.tobytes() for value in decoded.magnitude],
        decoded.timestamp_ns.tolist(),
        [value.tobytes() for value in decoded.dispersion_proxy],
        decoded.state_tag,
        [value.tobytes() for value in decoded.reference],
        decoded.request_id,
    )
    good = dict(zip(decoded.index.tolist(), zip(*columns, strict=True), strict=True))
    rejected = {one.index: (one.reason, one.detail) for one in decoded.rejected}
    unresolved = {one.index: (one.schema_id,) for one in decoded.unresolved}
    assert list(good) == sorted(good)
    assert list(rejected) == sorted(rejected)
    assert len(good) + len(rejected) + len(unresolved) == len(good | rejected | unresolved)
    return good | rejected | unresolved


def expected_row(tick: dict[str, Any]) -> tuple[Any, ...]:
    """What `rows` says about a good tick."""
    return (
        tick["asset_id"],
        bits(tick["magnitude"]),
        tick["timestamp_ns"],
        bits(tick["dispersion_proxy"]),
        tick["state_tag"],
        bits(tick["reference"]),
        tick["request_id"],
    )
