"""Record batches (message format v2): their header, their records, and control markers.

A batch is a 61-byte header followed by its records, possibly compressed. The broker reads the
header, puts in the base offset, and keeps the rest as opaque bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from .checksum import crc32c
from .compression import Unreadable, decompress
from .protocol import ErrorCode

_HEADER = struct.Struct(">qiibIhiqqqhii")
_PREFIX = struct.Struct(">qiibI")  # base offset, length, leader epoch, magic, checksum
_OFFSET_AND_LENGTH = struct.Struct(">qi")

_CODEC_MASK = 0x07
_LOG_APPEND_TIME = 0x08
_TRANSACTIONAL = 0x10
_CONTROL = 0x20

_CHECKSUMMED_FROM = 21  # the checksum covers the attributes and all that follows
_LARGEST_CODEC = 4

NO_PRODUCER = -1


class BatchHeader(NamedTuple):
    """The fields of a record batch's header, in wire order. Timestamps are milliseconds."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    checksum: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def codec(self) -> int:
        return self.attributes & _CODEC_MASK

    @property
    def is_transactional(self) -> bool:
        return bool(self.attributes & _TRANSACTIONAL)

    @property
    def is_control(self) -> bool:
        return bool(self.attributes & _CONTROL)

    @property
    def is_log_append_time(self) -> bool:
        return bool(self.attributes & _LOG_APPEND_TIME)


class Record(NamedTuple):
    """What compaction and look-ups need of one record."""

    offset_delta: int
    timestamp: int
    key: bytes | None


def read_header(batch: bytes | memoryview) -> BatchHeader:
    return BatchHeader._make(_HEADER.unpack_from(batch))


def parse_produced(batch: memoryview) -> BatchHeader | ErrorCode:
    """Check one batch as a producer sent it.

    **Returns:** its header, or the error with which to refuse it. Nothing inside the records is
    checked beyond the checksum.
    """
    if len(batch) < _HEADER.size:
        return ErrorCode.CORRUPT_MESSAGE
    header = read_header(batch)
    if header.magic in (0, 1):
        return ErrorCode.UNSUPPORTED_FOR_MESSAGE_FORMAT
    if header.magic != 2 or _OFFSET_AND_LENGTH.size + header.length != len(batch):
        return ErrorCode.CORRUPT_MESSAGE
    if crc32c(batch[_CHECKSUMMED_FROM:]) != header.checksum:
        return ErrorCode.CORRUPT_MESSAGE
    if header.record_count < 1 or header.last_offset_delta != header.record_count - 1:
        return ErrorCode.INVALID_RECORD
    if header.is_control or (header.is_transactional and header.producer_id < 0):
        return ErrorCode.INVALID_RECORD
    if header.producer_id >= 0 and (header.base_sequence < 0 or header.producer_epoch < 0):
        return ErrorCode.INVALID_RECORD
    if header.codec > _LARGEST_CODEC:
        return ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
    return header


def with_offset(batch: memoryview, base_offset: int) -> bytes:
    """The batch with its place in the log; the checksum does not cover these bytes."""
    return b"".join((base_offset.to_bytes(8, "big"), batch[8:12], b"\0\0\0\0", batch[16:]))


def with_append_time(batch: bytes, timestamp: int) -> bytes:
    """The batch stamped with the broker's time, for `message.timestamp.type=LogAppendTime`."""
    body = bytearray(batch[_CHECKSUMMED_FROM:])
    struct.pack_into(">h", body, 0, struct.unpack_from(">h", body)[0] | _LOG_APPEND_TIME)
    struct.pack_into(">q", body, 14, timestamp)  # the field max_timestamp
    return batch[:17] + struct.pack(">I", crc32c(body)) + bytes(body)


def control_marker(producer_id: int, epoch: int, commit: bool, timestamp: int) -> bytes:
    """A batch of one control record that ends a transaction, to be placed with `with_offset`."""
    key = struct.pack(">hh", 0, int(commit))  # version, then 0 for abort or 1 for commit
    value = struct.pack(">hi", 0, 0)  # version, coordinator epoch
    fields = b"\0\0\0" + _varint(len(key)) + key + _varint(len(value)) + value + b"\0"
    record = _varint(len(fields)) + fields
    attributes = _TRANSACTIONAL | _CONTROL
    body = (
        struct.pack(">hiqqqhii", attributes, 0, timestamp, timestamp, producer_id, epoch, -1, 1)
        + record
    )
    length = _PREFIX.size - _OFFSET_AND_LENGTH.size + len(body)
    return _PREFIX.pack(0, length, 0, 2, crc32c(body)) + body


def records(batch: bytes) -> Iterator[Record]:
    """The records of a batch in order.

    **Failure:** `Unreadable` if the batch is compressed in a way not decoded here, or damaged.
    """
    header = read_header(batch)
    content = decompress(header.codec, memoryview(batch)[_HEADER.size :])
    position = 0
    for _ in range(header.record_count):
        try:
            size, position = _read_varint(content, position)
            end = position + size
            delta, position = _read_varint(content, position + 1)
            offset_delta, position = _read_varint(content, position)
            key_size, position = _read_varint(content, position)
        except IndexError as error:
            raise Unreadable("records end early") from error
        if size < 0 or end > len(content) or position + max(key_size, 0) > end:
            raise Unreadable("record longer than its batch")
        key = None if key_size < 0 else content[position : position + key_size]
        timestamp = (
            header.max_timestamp if header.is_log_append_time else header.base_timestamp + delta
        )
        yield Record(offset_delta, timestamp, key)
        position = end


def _varint(value: int) -> bytes:
    """Zigzag varint of a small non-negative number, as in records (not in flexible requests)."""
    encoded = bytearray()
    value <<= 1
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), position
        shift += 7
        if shift > 63:
            raise Unreadable("varint too long")
