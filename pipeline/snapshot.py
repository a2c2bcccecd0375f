"""Snapshots, control records and offset metadata: what recovery reads, and how it is sealed.

A snapshot is MessagePack followed by its SHA-256. Application, topic, partition and asset
are inside the hashed part, so that a record that was copied elsewhere is not believed.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgpack
import msgspec
import numpy as np

from pipeline.ledger import Generation

SCHEMA_VERSION = 1

CONTROL_KEY = b"\xffusp.control"
"""Key of a partition's control record; no asset can have it, since 0xFF is not UTF-8."""

DIGEST_BYTES = 32
METADATA_LIMIT_BYTES = 4096


class SnapshotError(Exception):
    """A record of the snapshots topic cannot be used; the message says why."""


class OtherVersion(SnapshotError):
    """The record is sound, and written by a version whose records this one does not read."""


class Origin(msgspec.Struct, frozen=True):
    """Whose state it is."""

    application_id: str
    topic: str
    partition: int


class AssetSnapshot(msgspec.Struct, frozen=True):
    """State of one asset after all its ticks below `next_offset`.

    `structure` is the fingerprint of the row's layout, `environment` that of the machine
    whose bits these are.
    """

    origin: Origin
    asset: str
    next_offset: int
    structure: str
    environment: str
    row: bytes
    version: int = SCHEMA_VERSION

    def words(self) -> np.ndarray[Any, Any]:
        """The row as unsigned 64-bit words."""
        return np.frombuffer(self.row, "<u8").astype(np.uint64)


class Control(msgspec.Struct, frozen=True):
    """What a replay of the partition needs besides ticks and snapshots.

    `generations` are those that hold somewhere above the floor, oldest first; `skipped` the
    offsets above the floor that were dead-lettered for reasons outside of the log;
    `structure_hash` covers the structural configuration.
    """

    origin: Origin
    generations: list[Generation]
    skipped: list[int]
    structure_hash: str
    version: int = SCHEMA_VERSION


class OffsetMetadata(msgspec.Struct, frozen=True):
    """Travels with the committed offset: the replay floor and the generation in force."""

    floor: int
    generation: int
    version: int = SCHEMA_VERSION

    def encode(self) -> str:
        """Compact JSON, far below the broker's limit."""
        return msgspec.json.encode(self).decode()


def decode_metadata(text: str) -> OffsetMetadata | None:
    """The metadata, or None where the text is not ours."""
    try:
        return msgspec.json.decode(text, type=OffsetMetadata)
    except msgspec.MsgspecError:
        return None


def _seal(body: Any) -> bytes:
    packed: bytes = msgpack.packb(msgspec.to_builtins(body, builtin_types=(bytes,)))
    return packed + hashlib.sha256(packed).digest()


def _open(value: bytes) -> dict[str, Any]:
    packed, digest = value[:-DIGEST_BYTES], value[-DIGEST_BYTES:]
    if len(value) <= DIGEST_BYTES or hashlib.sha256(packed).digest() != digest:
        raise SnapshotError("the SHA-256 does not match: the record was damaged")
    try:
        body = msgpack.unpackb(packed, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise SnapshotError(f"not MessagePack: {error}") from None
    if not isinstance(body, dict):
        raise SnapshotError("not a map")
    if body.get("version") != SCHEMA_VERSION:
        raise OtherVersion(
            f"schema version {body.get('version')!r}, this worker reads {SCHEMA_VERSION}"
        )
    return body


def encode_snapshot(snapshot: AssetSnapshot) -> bytes:
    """Seal a snapshot."""
    return _seal(snapshot)


def decode_snapshot(value: bytes) -> AssetSnapshot:
    """Open a snapshot; `SnapshotError` for damage, another version or a foreign content."""
    try:
        return msgspec.convert(_open(value), AssetSnapshot)
    except msgspec.ValidationError as error:
        raise SnapshotError(str(error)) from None


def encode_control(control: Control) -> bytes:
    """Seal a control record."""
    return _seal(control)


def decode_control(value: bytes) -> Control:
    """Open a control record; fails as `decode_snapshot`."""
    try:
        return msgspec.convert(_open(value), Control)
    except msgspec.ValidationError as error:
        raise SnapshotError(str(error)) from None


def canonical_hash(tree: Any) -> str:
    """SHA-256 over canonical JSON."""
    text = json.dumps(msgspec.to_builtins(tree), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
