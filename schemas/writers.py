"""What is known about the schemas that producers write with, by the header of their values."""

import io
from typing import Any

import fastavro

from schemas.catalogue import fingerprint_of
from schemas.lint import SafeSchema, lint
from schemas.reasons import DeadLetterReason, Fault, Malformed
from schemas.resolution import incompatibilities
from schemas.scanner import Scanner

# Ids that a registry does not know are as many as a hostile producer cares to send. Old ones are
# forgotten and asked for again; the number exceeds any micro-batch, so that asking ends.
_MAXIMUM_REFUSALS = 65_536


class Writer:
    """One writer schema that resolves to the reader's.

    Raises `Malformed` with `schema_rejected` or `schema_incompatible` when it does not.
    """

    def __init__(self, schema: SafeSchema, reader: SafeSchema, maximum_length: int) -> None:
        problems = incompatibilities(schema, reader)
        if problems:
            raise Malformed(DeadLetterReason.SCHEMA_INCOMPATIBLE, "; ".join(problems[:3]))
        self.is_reader = fingerprint_of(schema.declared) == fingerprint_of(reader.declared)
        self._plain = schema.plain
        self._reader = None if self.is_reader else reader.plain
        self._scanner = Scanner(schema.plain, schema.names, maximum_length)

    def fault(self, payload: bytes) -> Fault | None:
        """Why the payload is not exactly one record of this schema, or None when it is."""
        return self._scanner.fault(payload)

    def read(self, payload: bytes) -> dict[str, Any] | Fault:
        """The record, resolved to the reader's schema; call `fault` first."""
        try:
            record = fastavro.schemaless_reader(io.BytesIO(payload), self._plain, self._reader)
        except UnicodeDecodeError:
            return Fault(DeadLetterReason.INVALID_UTF8, "bytes read as a string are not UTF-8")
        except Exception as error:  # what the checks above do not foresee must not end the worker
            detail = f"resolution failed ({type(error).__name__})"
            return Fault(DeadLetterReason.SCHEMA_INCOMPATIBLE, detail)
        return record  # type: ignore[return-value]


class WriterTable:
    """Maps the header of a value to its writer, or to the reason why there is none."""

    def __init__(self, reader: SafeSchema, maximum_length: int) -> None:
        self.reader = reader
        self._maximum_length = maximum_length
        self._writers: dict[bytes, Writer] = {}
        self._refusals: dict[bytes, Fault] = {}

    def get(self, header: bytes) -> Writer | Fault | None:
        """None for a header that has not been declared either way."""
        return self._writers.get(header) or self._refusals.get(header)

    def declare(self, header: bytes, schema_text: str) -> Fault | None:
        """Accept a writer schema, or refuse it and every value under this header."""
        try:
            writer = Writer(lint(schema_text), self.reader, self._maximum_length)
        except Malformed as error:
            self.refuse(header, error.fault)
            return error.fault
        except Exception as error:  # no schema of a stranger may end the worker
            detail = f"it cannot be used ({type(error).__name__})"
            fault = Fault(DeadLetterReason.SCHEMA_REJECTED, detail)
            self.refuse(header, fault)
            return fault
        self._refusals.pop(header, None)
        self._writers[header] = writer
        return None

    def refuse(self, header: bytes, fault: Fault) -> None:
        self._writers.pop(header, None)
        self._refusals[header] = fault
        if len(self._refusals) > _MAXIMUM_REFUSALS:
            del self._refusals[next(iter(self._refusals))]

    def forget(self, reason: DeadLetterReason) -> None:
        """Drop the refusals for one reason; their headers count as undeclared again."""
        kept = {header: fault for header, fault in self._refusals.items() if fault.reason != reason}
        self._refusals = kept
