"""Checksums, record batches and their decompression, without a server."""

from __future__ import annotations

import contextlib
import gzip
import struct

import pytest
from broker_batches import batch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.broker.checksum import crc32c
from pipeline.broker.compression import GZIP, LZ4, SNAPPY, Unreadable, decompress
from pipeline.broker.protocol import ErrorCode
from pipeline.broker.records import (
    control_marker,
    parse_produced,
    read_header,
    records,
    with_append_time,
)


def crc32c_bit_by_bit(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "checksum"),
    [  # RFC 3720, appendix B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_checksum_agrees_with_the_published_vectors(data, checksum):
    assert crc32c(data) == checksum


@given(st.integers(0, 5000), st.randoms(use_true_random=False))
def test_folded_checksum_agrees_with_the_definition(size, random):
    data = random.randbytes(size)

    assert crc32c(data) == crc32c_bit_by_bit(data)


def test_a_good_batch_is_accepted():
    assert parse_produced(batch(b"a", b"b")).record_count == 2


@pytest.mark.parametrize("position", [17, 40, 70])
def test_a_flipped_bit_is_noticed(position):
    damaged = bytearray(batch(b"key", padding=100))
    damaged[position] ^= 1

    assert parse_produced(memoryview(bytes(damaged))) is ErrorCode.CORRUPT_MESSAGE


@pytest.mark.parametrize("size", [0, 1, 60, 61, 65])
def test_a_truncated_batch_is_noticed(size):
    assert parse_produced(batch(b"key", padding=100)[:size]) is ErrorCode.CORRUPT_MESSAGE


def test_two_batches_at_once_are_refused():
    two = memoryview(bytes(batch(b"a")) * 2)

    assert parse_produced(two) is ErrorCode.CORRUPT_MESSAGE


def test_a_control_batch_of_a_client_is_refused():
    marker = memoryview(control_marker(7, 0, commit=True, timestamp=1))

    assert parse_produced(marker) is ErrorCode.INVALID_RECORD


@pytest.mark.parametrize(("commit", "kind"), [(False, 0), (True, 1)])
def test_a_marker_is_a_control_batch_with_a_right_checksum(commit, kind):
    marker = control_marker(77, 3, commit, timestamp=5)

    header = read_header(marker)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (77, 3, -1)
    assert header.is_control
    assert header.is_transactional
    assert header.checksum == crc32c_bit_by_bit(marker[21:])
    assert [record.key for record in records(marker)] == [struct.pack(">hh", 0, kind)]


def test_append_time_is_stamped_under_a_right_checksum():
    stamped = with_append_time(bytes(batch(b"a", timestamp=1)), 99)

    assert read_header(stamped).checksum == crc32c_bit_by_bit(stamped[21:])
    assert [record.timestamp for record in records(stamped)] == [99]


def test_records_that_end_early_are_unreadable():
    lying = bytearray(batch(b"a"))
    struct.pack_into(">i", lying, 57, 5)  # five records announced, one there

    with pytest.raises(Unreadable):
        list(records(bytes(lying)))


def test_lz4_matches_may_overlap_themselves():
    block = bytes([0x1F]) + b"a" + struct.pack("<H", 1) + bytes([0]) + bytes([0x10]) + b"z"
    frame = struct.pack("<IBBB", 0x184D2204, 0x40, 0x40, 0)
    frame += struct.pack("<I", len(block)) + block + bytes(4)

    assert decompress(LZ4, memoryview(frame)) == b"a" * 20 + b"z"


@given(st.binary(max_size=200))
def test_damaged_lz4_is_unreadable_and_nothing_worse(junk):
    frame = struct.pack("<IBBB", 0x184D2204, 0x40, 0x40, 0) + junk

    with contextlib.suppress(Unreadable):
        decompress(LZ4, memoryview(frame))


@pytest.mark.parametrize(
    ("codec", "data"), [(GZIP, b"not gzip"), (SNAPPY, b""), (LZ4, b"not an lz4 frame"), (7, b"")]
)
def test_other_data_is_unreadable(codec, data):
    with pytest.raises(Unreadable):
        decompress(codec, memoryview(data))


def test_a_small_batch_cannot_grow_without_bound():
    bomb = gzip.compress(bytes(65 << 20), compresslevel=1)

    with pytest.raises(Unreadable):
        decompress(GZIP, memoryview(bomb))
