"""What the inbound edge reports, as values."""

from __future__ import annotations

from typing import NamedTuple


class Record(NamedTuple):
    """One fetched record; `timestamp_ms` is −1 where the broker gave none.

    `headers_lost` says that it has headers which the client cannot hand over.
    """

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]] | None
    headers_lost: bool = False


class Polled(NamedTuple):
    """One turn of polling: records in order per partition, the offsets at which the end of a
    partition was reached (everything below has been delivered), and what the client complained
    about without giving up, by the name of the error."""

    records: list[Record]
    ends: dict[int, int]
    complaints: dict[str, str]


class Located(NamedTuple):
    """A committed offset with its metadata; `offset` is None where nothing is committed."""

    offset: int | None
    metadata: str


class ConsumerFailed(Exception):
    """The group or the log refuses to go on; the message names the remedy.

    `kind` is one of `fenced`, `authentication`, `offset_out_of_range`, `settings`, `fatal`.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
