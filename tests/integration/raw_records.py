"""Records that no client of ours could write: one batch by hand, in one Produce request."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence

from pipeline.broker.checksum import crc32c

RawHeader = tuple[bytes, bytes | None]


def _varint(value: int) -> bytes:
    value = value << 1 ^ value >> 63
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(encoded) + bytes([value])


def _nullable(content: bytes | None) -> bytes:
    return _varint(-1) if content is None else _varint(len(content)) + content


def _batch(
    key: bytes | None, value: bytes | None, headers: Sequence[RawHeader], timestamp_ms: int
) -> bytes:
    record = b"\0" + _varint(0) + _varint(0) + _nullable(key) + _nullable(value)
    record += _varint(len(headers))
    for name, content in headers:
        record += _varint(len(name)) + name + _nullable(content)
    body = struct.pack(">hiqqqhii", 0, 0, timestamp_ms, timestamp_ms, -1, -1, -1, 1)
    body += _varint(len(record)) + record
    return struct.pack(">qiibI", 0, 9 + len(body), -1, 2, crc32c(body)) + body


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


_NOT_YET = {3, 5, 6}
"""Errors of a topic whose leader has only just been elected."""


def write(
    bootstrap_servers: str,
    topic: str,
    partition: int,
    *,
    key: bytes | None = None,
    value: bytes | None = b"",
    headers: Sequence[RawHeader] = (),
    timestamp_ms: int = 1_700_000_000_000,
) -> int:
    """Append one record with headers of any bytes; returns its offset."""
    batch = _batch(key, value, headers, timestamp_ms)
    request = struct.pack(">hhi", 0, 7, 1) + _string("raw")  # Produce, version 7
    request += struct.pack(">hhi", -1, -1, 10_000)  # no transaction, all replicas
    request += struct.pack(">i", 1) + _string(topic) + struct.pack(">ii", 1, partition)
    request += struct.pack(">i", len(batch)) + batch
    start = 4 + 4 + 2 + len(topic) + 4 + 4
    deadline = time.monotonic() + 10.0
    while True:
        error, offset = struct.unpack_from(">hq", _answer(bootstrap_servers, request), start)
        if not error:
            return int(offset)
        if error not in _NOT_YET or time.monotonic() > deadline:
            raise AssertionError(f"the broker refused the record with error {error}")
        time.sleep(0.02)


def _answer(bootstrap_servers: str, request: bytes) -> bytes:
    host, _, port = bootstrap_servers.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        stream = connection.makefile("rb")
        (size,) = struct.unpack(">i", stream.read(4))
        return stream.read(size)
