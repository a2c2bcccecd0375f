"""Record batches made by hand, for tests of the parts below the sockets."""

from __future__ import annotations

import struct

from pipeline.broker.checksum import crc32c
from pipeline.broker.log import Appended, PartitionLog
from pipeline.broker.records import parse_produced


def varint(value: int) -> bytes:
    value = value << 1 ^ value >> 63
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(encoded) + bytes([value])


def batch(
    *keys: bytes | None,
    producer: int = -1,
    epoch: int = -1,
    sequence: int = -1,
    transactional: bool = False,
    timestamp: int = 1_000,
    padding: int = 0,
) -> memoryview:
    """An uncompressed batch with one record per key, of one timestamp."""
    content = b""
    for delta, key in enumerate(keys):
        written_key = varint(-1) if key is None else varint(len(key)) + key
        value = b"." * padding
        record = b"\0" + varint(0) + varint(delta) + written_key + varint(len(value)) + value
        record += varint(0)
        content += varint(len(record)) + record
    body = struct.pack(
        ">hiqqqhii",
        0x10 if transactional else 0,
        len(keys) - 1,
        timestamp,
        timestamp,
        producer,
        epoch,
        sequence,
        len(keys),
    )
    body += content
    return memoryview(struct.pack(">qiibI", 0, 9 + len(body), -1, 2, crc32c(body)) + body)


def append(log: PartitionLog, *keys: bytes | None, **options: object) -> Appended:
    made = batch(*keys, **options)
    return log.append(parse_produced(made), made, now_ms=5_000)
