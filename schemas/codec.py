"""The codec's public names, gathered."""

from schemas.catalogue import (
    RECORD_NAMES,
    RecordName,
    fingerprint,
    load_schema,
    nondeterministic_fields,
    schema_text,
)
from schemas.columns import Column, Nullable
from schemas.decode import TickDecoder
from schemas.encode import (
    PredictionEncoder,
    RecordEncoder,
    TickEncoder,
    encode_event,
    encode_telemetry,
    encode_tick,
)
from schemas.lint import lint
from schemas.reasons import DeadLetterReason, Fault, Malformed
from schemas.records import RecordDecoder, decode_record
from schemas.resolution import incompatibilities
from schemas.ticks import DecodedTicks, Rejection, Unresolved
from schemas.wire import Framing

__all__ = [
    "RECORD_NAMES",
    "Column",
    "DeadLetterReason",
    "DecodedTicks",
    "Fault",
    "Framing",
    "Malformed",
    "Nullable",
    "PredictionEncoder",
    "RecordDecoder",
    "RecordEncoder",
    "RecordName",
    "Rejection",
    "TickDecoder",
    "TickEncoder",
    "Unresolved",
    "decode_record",
    "encode_event",
    "encode_telemetry",
    "encode_tick",
    "fingerprint",
    "incompatibilities",
    "lint",
    "load_schema",
    "nondeterministic_fields",
    "schema_text",
]
