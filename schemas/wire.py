"""The two framings: Avro single-object encoding, and the Confluent wire format.

| framing | header |
|---|---|
| single object | `C3 01`, then the schema's CRC-64-AVRO fingerprint, little-endian: 10 bytes |
| Confluent | `00`, then the registry's schema id, big-endian: 5 bytes |
"""

import struct
from dataclasses import dataclass

from schemas.catalogue import RecordName, fingerprint
from schemas.reasons import DeadLetterReason, Fault

SINGLE_OBJECT_MAGIC = b"\xc3\x01"
SINGLE_OBJECT_HEADER_BYTES = 10
CONFLUENT_MAGIC = b"\x00"
CONFLUENT_HEADER_BYTES = 5

_MAXIMUM_SCHEMA_ID = 2**31 - 1  # registries number schemas with a signed 32-bit integer


@dataclass(frozen=True, slots=True)
class Framing:
    """How an encoder marks its values: by the schema's fingerprint, or by a registry id."""

    schema_id: int | None = None

    @classmethod
    def single_object(cls) -> "Framing":
        """Fingerprint of the bundled schema; needs no registry."""
        return cls(None)

    @classmethod
    def confluent(cls, schema_id: int) -> "Framing":
        """The id under which the registry holds the bundled schema, 0 to 2^31 - 1."""
        if not 0 <= schema_id <= _MAXIMUM_SCHEMA_ID:
            raise ValueError(f"schema id {schema_id} is not between 0 and {_MAXIMUM_SCHEMA_ID}")
        return cls(schema_id)

    def header(self, name: RecordName) -> bytes:
        """The bytes in front of every value of this record."""
        if self.schema_id is None:
            return single_object_header(fingerprint(name))
        return confluent_header(self.schema_id)


def single_object_header(fingerprint: bytes) -> bytes:
    return SINGLE_OBJECT_MAGIC + fingerprint


def confluent_header(schema_id: int) -> bytes:
    return CONFLUENT_MAGIC + struct.pack(">I", schema_id)


def schema_id_of(header: bytes) -> int | None:
    """The registry id in a Confluent header; None for a single-object header."""
    if header[:1] != CONFLUENT_MAGIC:
        return None
    (schema_id,) = struct.unpack_from(">I", header, 1)
    return int(schema_id)


def read_header(value: bytes | None) -> bytes | Fault:
    """The header of a value, whole, or why the value has none."""
    if value is None:
        return Fault(DeadLetterReason.NULL_VALUE, "the value is null")
    if not value:
        return Fault(DeadLetterReason.EMPTY, "the value is empty")
    if value[:1] == CONFLUENT_MAGIC:
        length = CONFLUENT_HEADER_BYTES
    elif value[:1] == SINGLE_OBJECT_MAGIC[:1]:
        length = SINGLE_OBJECT_HEADER_BYTES
    else:
        return Fault(DeadLetterReason.BAD_MAGIC, f"the first byte is {value[0]:#04x}")
    if len(value) > 1 and length == SINGLE_OBJECT_HEADER_BYTES and value[1] != 1:
        return Fault(DeadLetterReason.BAD_MAGIC, f"single-object version {value[1]}, not 1")
    if len(value) < length:
        return Fault(DeadLetterReason.TRUNCATED, f"{len(value)} of {length} header bytes")
    return value[:length]
