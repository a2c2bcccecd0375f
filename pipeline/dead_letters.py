"""Records that could not be decoded, on their way to the dead-letter topic."""

from __future__ import annotations

from typing import NamedTuple

from consumers.events import Record
from pipeline.config import Topics
from pipeline.outputs import input_header
from producers.client import Headers, Outgoing
from schemas.codec import Rejection

RECORD_OVERHEAD_BYTES = 128
HEADER_OVERHEAD_BYTES = 16
"""Bounds on what the format adds to a record and to each of its headers."""

LONGEST_DETAIL = 1000
"""Characters of a detail, which may quote the names of a stranger's schema."""

REASON_BYTES = 16 * 1024
"""Bound on the headers that a dead letter adds."""


class _Parts(NamedTuple):
    key: bytes | None
    value: bytes | None
    headers: Headers


class DeadLetters:
    """Makes dead letters: the original's key, bytes and headers, with the reason beside them.

    **Arguments:** `largest_bytes`, the size of a record up to which topic and producer take it
    for sure. Records that were compressed on their way in may unfold to more. Such a dead letter
    would abort its transaction for ever: it goes without its bytes, then without its headers and
    its key, as far as needed, and says so.
    """

    def __init__(self, topics: Topics, worker: str, largest_bytes: int) -> None:
        self._topics = topics
        self._worker = worker
        self._largest = largest_bytes

    def make(self, record: Record, rejection: Rejection) -> Outgoing:
        """The dead letter of a record."""
        original: Headers = list(record.headers or [])
        notes = [rejection.detail[:LONGEST_DETAIL]]
        if record.headers_lost:
            notes.append("its headers are left out: the name of one is not UTF-8")
        parts = _Parts(record.key, record.value, original)
        for smaller, what in (
            (parts._replace(value=None), f"its {len(record.value or b'')} bytes of value"),
            (_Parts(record.key, None, []), "its headers"),
            (_Parts(None, None, []), f"its key of {len(record.key or b'')} bytes"),
        ):
            if _size(parts) <= self._largest - REASON_BYTES:
                break
            notes.append(f"{what} left out: more than the dead-letter topic takes")
            parts = smaller
        ticks = self._topics.ticks
        added = {
            "usp.dlq.reason": str(rejection.reason),
            "usp.dlq.detail": "; ".join(notes),
            "usp.dlq.topic": ticks,
            "usp.dlq.partition": str(record.partition),
            "usp.dlq.offset": str(record.offset),
            "usp.dlq.worker": self._worker,
        }
        headers = parts.headers + [
            (name, text.encode(errors="replace")) for name, text in added.items()
        ]
        return Outgoing(
            self._topics.dead_letters,
            record.partition,
            parts.key,
            parts.value,
            record.timestamp_ms,
            headers + input_header(ticks, record),
        )


def _size(parts: _Parts) -> int:
    """Upper bound on the bytes of a record before compression."""
    headers = sum(
        len(name.encode()) + len(value or b"") + HEADER_OVERHEAD_BYTES
        for name, value in parts.headers
    )
    return len(parts.key or b"") + len(parts.value or b"") + headers + RECORD_OVERHEAD_BYTES
