"""Ticks from bytes, a micro-batch at a time.

Two ways lead to the same result. Values under the reader's own schema go through a batch decoder
in one call; where that refuses, or its outcome does not account for every byte, each value of the
batch is scanned alone and only the sound ones are decoded again. Values under another schema are
scanned and resolved one by one. Which way ran is not visible: a value's fate depends on its bytes,
its key and the schemas declared so far, never on its neighbours.
"""

from collections.abc import Sequence

import numpy as np

from schemas.catalogue import fingerprint_of, schema_text
from schemas.lint import lint
from schemas.reasons import DeadLetterReason, Fault
from schemas.ticks import (
    DecodedTicks,
    Rejection,
    TickColumns,
    Unresolved,
    columns_from_records,
    read_batch,
)
from schemas.wire import confluent_header, read_header, schema_id_of, single_object_header
from schemas.writers import Writer, WriterTable

# A tick of the bundled schema with its three strings at their bound takes 12 KiB. The rest is for
# fields of other schemas, which are scanned at about 2 MB a second in the worst case.
MAXIMUM_VALUE_BYTES = 64 * 1024
# Generous for labels and identifiers; each is copied to the prediction, the snapshot and the key.
MAXIMUM_STRING_BYTES = 4096

_Sound = tuple[int, Writer, bytes]
"""Input position, writer and payload of a value that was scanned without a fault."""


class TickDecoder:
    """Decodes ticks in either framing. Not thread-safe.

    **Arguments:**

    - `max_bytes`: the longest value accepted, header included, in bytes.
    - `max_string_bytes`: the longest string accepted, in bytes.
    - `registry`: whether somebody can look up schema ids. Without, a Confluent frame is
      `unknown_schema_id` at once, unless its id was declared.
    - `earlier_schemas`: texts of former versions of the bundled schema, whose fingerprints are
      accepted in single-object headers.
    - `reader_schema`: text of the schema to resolve to; the bundled one unless given. It must have
      the seven fields of a tick.

    An empty `asset_id` is rejected as `length_out_of_bounds`: it would name no series.
    """

    def __init__(
        self,
        *,
        max_bytes: int = MAXIMUM_VALUE_BYTES,
        max_string_bytes: int = MAXIMUM_STRING_BYTES,
        registry: bool = True,
        earlier_schemas: Sequence[str] = (),
        reader_schema: str | None = None,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_string_bytes = max_string_bytes
        self._registry = registry
        # The batch decoder's accounting of bytes knows the bundled layout only.
        self._batched = reader_schema is None
        reader_text = reader_schema or schema_text("tick")
        self._writers = WriterTable(lint(reader_text), max_string_bytes)
        for text in (*earlier_schemas, reader_text):
            header = single_object_header(fingerprint_of(lint(text).declared))
            fault = self._writers.declare(header, text)
            if fault is not None:
                raise ValueError(f"{fault.reason}: {fault.detail}")

    def add_writer(self, schema_id: int, schema_json: str) -> Fault | None:
        """Declare what the registry holds under an id.

        **Returns:** None when its ticks can be read from now on; otherwise the fault with which
        every value under this id will be rejected (`schema_rejected`, `schema_incompatible`).
        """
        return self._writers.declare(confluent_header(schema_id), schema_json)

    def add_unknown(self, schema_id: int) -> None:
        """Declare that the registry definitely does not know an id."""
        detail = f"the registry has no schema {schema_id}"
        fault = Fault(DeadLetterReason.UNKNOWN_SCHEMA_ID, detail)
        self._writers.refuse(confluent_header(schema_id), fault)

    def forget_unknown(self) -> None:
        """Take back every `add_unknown`, so that the registry is asked again: it may have learnt.

        What was dead-lettered so far stays so.
        """
        self._writers.forget(DeadLetterReason.UNKNOWN_SCHEMA_ID)

    def decode(self, values: Sequence[bytes | None], keys: Sequence[bytes | None]) -> DecodedTicks:
        """Decode a batch: values and keys of the same `n` records, in order.

        **Failure:** none is raised for any content; ValueError if the lengths differ.

        **Cost:** linear in the bytes of the batch. See `tests/benchmarks/bench_codec.py`.
        """
        if len(values) != len(keys):
            raise ValueError(f"{len(values)} values, but {len(keys)} keys")
        columns = self._all_own(values)
        if columns is not None:
            return _matched_with_keys(list(range(len(values))), columns, keys, [], [])
        sound, rejected, unresolved = self._sort_out(values)
        positions, columns, faults = self._read(sound)
        return _matched_with_keys(positions, columns, keys, rejected + faults, unresolved)

    def _all_own(self, values: Sequence[bytes | None]) -> TickColumns | None:
        """The columns when every value has one header, of the reader's schema, and is sound."""
        if not self._batched or not values or None in values:
            return None
        header = read_header(values[0])
        if isinstance(header, Fault):
            return None
        writer = self._writers.get(header)
        if not isinstance(writer, Writer) or not writer.is_reader:
            return None
        skip = len(header)
        payloads = [value[skip:] for value in values if value and value.startswith(header)]
        if len(payloads) < len(values) or max(map(len, payloads)) + skip > self._max_bytes:
            return None
        return read_batch(payloads, self._max_string_bytes)

    def _sort_out(
        self, values: Sequence[bytes | None]
    ) -> tuple[list[_Sound], list[Rejection], list[Unresolved]]:
        sound: list[_Sound] = []
        rejected: list[Rejection] = []
        unresolved: list[Unresolved] = []
        for index, value in enumerate(values):
            opened = self._open(value)
            if isinstance(opened, Fault):
                rejected.append(Rejection(index, *opened))
            elif isinstance(opened, int):
                unresolved.append(Unresolved(index, opened))
            else:
                sound.append((index, *opened))
        return sound, rejected, unresolved

    def _open(self, value: bytes | None) -> tuple[Writer, bytes] | Fault | int:
        """Writer and scanned payload of a value, or its fault, or its undeclared schema id."""
        header = read_header(value)
        if value is not None and len(value) > self._max_bytes:
            detail = f"{len(value)} bytes, at most {self._max_bytes} are accepted"
            return Fault(DeadLetterReason.OVERSIZE, detail)
        if isinstance(header, Fault):
            return header
        writer = self._writers.get(header)
        if isinstance(writer, Fault):
            return writer
        if writer is None or value is None:
            return self._undeclared(header)
        payload = value[len(header) :]
        return writer.fault(payload) or (writer, payload)

    def _undeclared(self, header: bytes) -> Fault | int:
        schema_id = schema_id_of(header)
        if schema_id is None:
            detail = f"fingerprint {header[2:].hex()} belongs to no bundled schema"
            return Fault(DeadLetterReason.UNKNOWN_FINGERPRINT, detail)
        if not self._registry:
            detail = f"schema id {schema_id}, and no registry is set"
            return Fault(DeadLetterReason.UNKNOWN_SCHEMA_ID, detail)
        return schema_id

    def _read(self, sound: list[_Sound]) -> tuple[list[int], TickColumns, list[Rejection]]:
        """Positions and columns of scanned values; resolution can still refuse some."""
        if self._batched and sound and all(writer.is_reader for _, writer, _ in sound):
            payloads = [payload for _, _, payload in sound]
            columns = read_batch(payloads, self._max_string_bytes, scanned=True)
            if columns is not None:
                return [index for index, _, _ in sound], columns, []
        positions, records, rejected = [], [], []
        for index, writer, payload in sound:
            record = writer.read(payload)
            if isinstance(record, dict) and not record["asset_id"]:
                record = Fault(DeadLetterReason.LENGTH_OUT_OF_BOUNDS, "asset_id is empty")
            if isinstance(record, Fault):
                rejected.append(Rejection(index, *record))
            else:
                positions.append(index)
                records.append(record)
        return positions, columns_from_records(records), rejected


def _matched_with_keys(
    positions: list[int],
    columns: TickColumns,
    keys: Sequence[bytes | None],
    rejected: list[Rejection],
    unresolved: list[Unresolved],
) -> DecodedTicks:
    """The outcome, without the ticks whose record key is set and names another asset."""
    expected = [asset_id.encode() for asset_id in columns.asset_id]
    given = [keys[position] for position in positions]
    mismatched = set()
    if given != expected:
        triples = zip(positions, given, expected, strict=True)
        mismatched = {i for i, key, asset_id in triples if key is not None and key != asset_id}
    if mismatched:
        detail = "the record key is set and is not asset_id in UTF-8"
        rejected += [Rejection(i, DeadLetterReason.KEY_MISMATCH, detail) for i in mismatched]
        keep = [row for row, i in enumerate(positions) if i not in mismatched]
        columns, positions = columns.take(keep), [positions[row] for row in keep]
    rejected.sort(key=lambda rejection: rejection.index)
    return DecodedTicks(np.array(positions, np.int64), *columns, rejected, unresolved)
