"""Decompression of record batches, for looking at the keys and timestamps inside.

The broker stores and serves batches as it received them; only compaction and look-ups by time
look inside. The standard library has gzip; LZ4 is decoded here; Snappy and Zstandard are not,
and batches in these are treated as unreadable.
"""

from __future__ import annotations

import struct
import zlib

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)

LARGEST = 64 << 20
"""Bytes after which a decompression is given up: a small batch must not fill the memory."""


class Unreadable(Exception):
    """The data cannot be decompressed here: unknown codec, damage, or too large."""


def decompress(codec: int, data: memoryview) -> bytes:
    """The records of a batch, uncompressed.

    **Failure:** `Unreadable`.
    """
    if codec == NONE:
        return bytes(data)
    if codec == GZIP:
        return _gzip(data)
    if codec == LZ4:
        try:
            return _lz4_frame(bytes(data))
        except (IndexError, struct.error) as error:
            raise Unreadable("damaged LZ4 frame") from error
    raise Unreadable(f"no decoder for codec {codec}")


def _gzip(data: memoryview) -> bytes:
    inflater = zlib.decompressobj(wbits=31)
    try:
        records = inflater.decompress(data, LARGEST)
    except zlib.error as error:
        raise Unreadable("damaged gzip data") from error
    if inflater.unconsumed_tail:
        raise Unreadable("gzip data too large")
    return records


def _lz4_frame(frame: bytes) -> bytes:
    magic, flags = struct.unpack_from("<IB", frame)
    if magic != 0x184D2204:
        raise Unreadable("not an LZ4 frame")
    block_checksum, content_size, dictionary = flags & 0x10, flags & 0x08, flags & 0x01
    position = 7 + (8 if content_size else 0) + (4 if dictionary else 0)
    output = bytearray()
    while size := struct.unpack_from("<I", frame, position)[0]:
        position += 4
        stored = size & 0x80000000
        size &= 0x7FFFFFFF
        block = frame[position : position + size]
        if stored:
            output += block
        else:
            _lz4_block(block, output)
        position += size + (4 if block_checksum else 0)
    return bytes(output)


def _lz4_length(block: bytes, position: int, length: int) -> tuple[int, int]:
    """A length whose four bits are all set goes on in the following bytes."""
    if length == 15:
        while True:
            extra = block[position]
            position += 1
            length += extra
            if extra != 255:
                break
    return length, position


def _lz4_block(block: bytes, output: bytearray) -> None:
    position, end = 0, len(block)
    while position < end:
        token = block[position]
        literals, position = _lz4_length(block, position + 1, token >> 4)
        output += block[position : position + literals]
        position += literals
        if position >= end:  # the last sequence has no match
            return
        distance = block[position] | block[position + 1] << 8
        length, position = _lz4_length(block, position + 2, token & 15)
        length += 4
        start = len(output) - distance
        if distance == 0 or start < 0 or len(output) + length > LARGEST:
            raise Unreadable("impossible LZ4 match")
        if distance >= length:
            output += output[start : start + length]
        else:  # the match overlaps itself: a repeating pattern
            pattern = bytes(output[start:])
            output += (pattern * (length // distance + 1))[:length]
