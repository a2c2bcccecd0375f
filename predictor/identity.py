"""Which asset a state belongs to, as numbers that fit into it."""

from __future__ import annotations

import hashlib


def identity_of(asset_id: str) -> tuple[int, int]:
    """First 8 bytes of the SHA-256 of the id, as two unsigned 32-bit integers."""
    digest = hashlib.sha256(asset_id.encode()).digest()
    return int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:8], "big")
