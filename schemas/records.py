"""Any bundled record from bytes, one at a time: for tools that look into topics."""

import functools
from typing import Any

from schemas.catalogue import RecordName, fingerprint, schema_text
from schemas.lint import lint
from schemas.reasons import DeadLetterReason, Fault, Malformed
from schemas.wire import confluent_header, read_header, schema_id_of, single_object_header
from schemas.writers import WriterTable

# Tools read what the worker wrote; the bound only keeps a damaged length from being believed.
_MAXIMUM_STRING_BYTES = 1024 * 1024


class RecordDecoder:
    """Decodes one kind of record in either framing, resolved to its bundled schema.

    A Confluent id that was not declared with `add_writer` is read as the bundled schema: the
    worker that wrote the topic registered just that.
    """

    def __init__(self, name: RecordName) -> None:
        self._writers = WriterTable(lint(schema_text(name)), _MAXIMUM_STRING_BYTES)
        self._own_header = single_object_header(fingerprint(name))
        self._writers.declare(self._own_header, schema_text(name))

    def add_writer(self, schema_id: int, schema_json: str) -> Fault | None:
        """Declare what the registry holds under an id; the fault if it cannot be read."""
        return self._writers.declare(confluent_header(schema_id), schema_json)

    def decode(self, value: bytes | None) -> dict[str, Any]:
        """The record as a dictionary. Raises `Malformed`, whose `fault` says why."""
        header = read_header(value)
        if isinstance(header, Fault):
            raise Malformed(*header)
        assert value is not None
        writer = self._writers.get(header)
        if writer is None and schema_id_of(header) is not None:
            writer = self._writers.get(self._own_header)
        if writer is None:
            detail = f"fingerprint {header[2:].hex()} belongs to another record"
            raise Malformed(DeadLetterReason.UNKNOWN_FINGERPRINT, detail)
        if isinstance(writer, Fault):
            raise Malformed(*writer)
        payload = value[len(header) :]
        outcome = writer.fault(payload) or writer.read(payload)
        if isinstance(outcome, Fault):
            raise Malformed(*outcome)
        return outcome


@functools.cache
def _decoder(name: RecordName) -> RecordDecoder:
    return RecordDecoder(name)


def decode_record(name: RecordName, value: bytes | None) -> dict[str, Any]:
    """One record under the bundled schema. Raises `Malformed`, whose `fault` says why."""
    return _decoder(name).decode(value)
