"""Output records to bytes: whole columns in one call, or one record at a time."""

import io
from collections.abc import Mapping
from typing import Any

import fastavro
import pyarrow as pa
import pyruhvro

from schemas.catalogue import RecordName, load_schema, parsed_schema, plain_schema_text
from schemas.columns import Column, ColumnTable
from schemas.ticks import is_panic
from schemas.wire import Framing


class RecordEncoder:
    """Encodes columns of one bundled record into framed values.

    What `encode` accepts for a field of `count` records:

    | Avro type | column |
    |---|---|
    | double, long, int, boolean | array or list `[n]`, or one scalar for all |
    | string | list of `n` strings, or one string for all |
    | null or T | as T without absences; `Nullable`; a list with None; None: absent throughout |
    | enum | list of `n` symbols, one for all, or an integer array `[n]` of symbol positions |
    | array of double | array `[n, k]` |
    """

    def __init__(self, name: RecordName, framing: Framing) -> None:
        self._name: RecordName = name
        self.header = framing.header(name)
        fields = {field["name"]: field["type"] for field in load_schema(name)["fields"]}
        self._table = ColumnTable(name, fields)

    def encode(self, columns: Mapping[str, Column], count: int) -> list[bytes]:
        """Framed values of `count` records, in order.

        Floating-point values keep their bits, NaN payloads and signed zeros included. The bytes of
        a record do not depend on the others, nor on whether the batch encoder or its
        record-by-record substitute wrote them.

        **Failure:** ValueError for missing or unknown fields, for columns of another length and
        for values outside their type, naming the field. These are errors of the caller.
        """
        if count == 0:
            return []
        batch = self._table.batch(columns, count)
        payloads = _write_batch(self._name, batch)
        if payloads is None or len(payloads) != count:
            payloads = [_write(self._name, record) for record in batch.to_pylist()]
        header = self.header
        return [header + payload for payload in payloads]

    def encode_record(self, record: Mapping[str, Any]) -> bytes:
        """The framed value of one record; nullable fields may be left out.

        **Failure:** ValueError for missing or unknown fields and for values outside their type.
        """
        return self.header + _write(self._name, record)


class PredictionEncoder(RecordEncoder):
    """Columns of the prediction record into framed values."""

    def __init__(self, framing: Framing) -> None:
        super().__init__("prediction", framing)


class TickEncoder(RecordEncoder):
    """Columns of the tick record into framed values."""

    def __init__(self, framing: Framing) -> None:
        super().__init__("tick", framing)


def encode_tick(tick: Mapping[str, Any], framing: Framing) -> bytes:
    """The framed value of one tick. Raises ValueError as `RecordEncoder.encode_record` does."""
    return framing.header("tick") + _write("tick", tick)


def encode_telemetry(telemetry: Mapping[str, Any], framing: Framing) -> bytes:
    """The framed value of one telemetry record; raises as `encode_tick` does."""
    return framing.header("telemetry") + _write("telemetry", telemetry)


def encode_event(event: Mapping[str, Any], framing: Framing) -> bytes:
    """The framed value of one event; raises as `encode_tick` does."""
    return framing.header("event") + _write("event", event)


def _write_batch(name: RecordName, batch: pa.RecordBatch) -> list[bytes] | None:
    """Payloads of the batch in one call; None when the batch encoder refuses it."""
    try:
        chunks = pyruhvro.serialize_record_batch(batch, plain_schema_text(name), 1)
        return [payload for chunk in chunks for payload in chunk.to_pylist()]
    except Exception:
        return None
    except BaseException as panic:
        if is_panic(panic):
            return None
        raise


def _write(name: RecordName, record: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    try:
        fastavro.schemaless_writer(
            buffer, parsed_schema(name), dict(record), strict_allow_default=True
        )
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError) as error:
        raise ValueError(f"{name}: {error}") from error
    return buffer.getvalue()
