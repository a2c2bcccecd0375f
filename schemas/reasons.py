"""Why a record goes to the dead-letter topic."""

from enum import StrEnum
from typing import NamedTuple


class DeadLetterReason(StrEnum):
    """Value of the header `usp.dlq.reason`; `meaning` says what the operator is looking at."""

    meaning: str

    NULL_VALUE = "null_value", "the record has no value (a tombstone)"
    EMPTY = "empty", "the value has no bytes"
    BAD_MAGIC = "bad_magic", "the value begins with neither C3 01 nor a zero byte"
    TRUNCATED = "truncated", "the bytes end before the record does"
    TRAILING_BYTES = "trailing_bytes", "bytes are left after the end of the record"
    UNKNOWN_FINGERPRINT = "unknown_fingerprint", "no bundled schema has this fingerprint"
    UNKNOWN_SCHEMA_ID = "unknown_schema_id", "no registry is set, or it does not know this id"
    SCHEMA_INCOMPATIBLE = "schema_incompatible", "the writer's schema does not resolve to a tick"
    SCHEMA_REJECTED = "schema_rejected", "the writer's schema is malformed or unsafe to read with"
    LENGTH_OUT_OF_BOUNDS = "length_out_of_bounds", "a length or number is outside what is allowed"
    INVALID_UTF8 = "invalid_utf8", "a string is not UTF-8"
    BAD_UNION_INDEX = "bad_union_index", "a union branch or enum symbol does not exist"
    OVERSIZE = "oversize", "the value is longer than this worker accepts"
    KEY_MISMATCH = "key_mismatch", "the record key differs from asset_id"
    TIMESTAMP_DRIFT = "timestamp_drift", "the event time is too far from the present"

    def __new__(cls, value: str, meaning: str) -> "DeadLetterReason":
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


class Fault(NamedTuple):
    """What is wrong with one value or one schema.

    `detail` is one clause for the operator; it never quotes the payload.
    """

    reason: DeadLetterReason
    detail: str


class Malformed(ValueError):
    """Raised inside the codec to leave a nested read; `fault` says why."""

    def __init__(self, reason: DeadLetterReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.fault = Fault(reason, detail)
