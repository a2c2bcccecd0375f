"""Ticks as columns: from the batch decoder, or from records read one by one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyruhvro
from numpy.typing import NDArray

from schemas.catalogue import plain_schema_text
from schemas.reasons import DeadLetterReason


@dataclass(frozen=True, slots=True)
class Rejection:
    """A value for the dead-letter topic; `index` is its position in the input."""

    index: int
    reason: DeadLetterReason
    detail: str


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A value whose registry id is not declared yet; `index` is its position in the input."""

    index: int
    schema_id: int


@dataclass(frozen=True, slots=True)
class DecodedTicks:
    """The outcome of one batch: every input position is in exactly one of the three parts.

    The columns have one entry per good tick, in input order.

    **Fields:**

    - `index`: position in the input, int64 `[n]`, ascending.
    - `asset_id`: `n` strings.
    - `magnitude`: float64 `[n]`, unit of the series; NaN and infinities are kept, bit for bit.
    - `timestamp_ns`: int64 `[n]`, nanoseconds since the Unix epoch.
    - `dispersion_proxy`, `reference`: float64 `[n]`, unit of the series; NaN for null.
    - `state_tag`, `request_id`: `n` strings or None.
    - `rejected`: values to dead-letter, in input order.
    - `unresolved`: values to decode again once their schema id is declared, in input order.

    The arrays may be read-only views.
    """

    index: NDArray[np.int64]
    asset_id: list[str]
    magnitude: NDArray[np.float64]
    timestamp_ns: NDArray[np.int64]
    dispersion_proxy: NDArray[np.float64]
    state_tag: list[str | None]
    reference: NDArray[np.float64]
    request_id: list[str | None]
    rejected: list[Rejection]
    unresolved: list[Unresolved]

    def __len__(self) -> int:
        return len(self.asset_id)


class TickColumns(NamedTuple):
    """The seven fields of `n` ticks, as in `DecodedTicks`."""

    asset_id: list[str]
    magnitude: NDArray[np.float64]
    timestamp_ns: NDArray[np.int64]
    dispersion_proxy: NDArray[np.float64]
    state_tag: list[str | None]
    reference: NDArray[np.float64]
    request_id: list[str | None]

    def take(self, keep: list[int]) -> "TickColumns":
        """The ticks at these positions."""
        taken = (
            [column[i] for i in keep] if isinstance(column, list) else column[keep]
            for column in self
        )
        return TickColumns._make(taken)


def columns_from_records(records: Sequence[dict[str, Any]]) -> TickColumns:
    """Columns of records under the reader's schema, read one by one."""

    def listed(name: str) -> list[Any]:
        return [record[name] for record in records]

    def numbers(name: str) -> NDArray[np.float64]:
        values = (record[name] for record in records)
        filled = (np.nan if value is None else value for value in values)
        return np.fromiter(filled, np.float64, len(records))

    return TickColumns(
        listed("asset_id"),
        numbers("magnitude"),
        np.fromiter(listed("timestamp_ns"), np.int64, len(records)),
        numbers("dispersion_proxy"),
        listed("state_tag"),
        numbers("reference"),
        listed("request_id"),
    )


def read_batch(
    payloads: list[bytes], max_string_bytes: int, *, scanned: bool = False
) -> TickColumns | None:
    """Columns of payloads under the bundled schema, in one call.

    The batch decoder is lenient about what follows a record and about long strings; `scanned`
    says that both were checked before. Otherwise the columns are re-measured here.

    **Returns:** None when the decoder refuses any payload, or the payloads hold more bytes than
    their ticks need, or a string is empty or too long where it must not be. None says nothing
    about which payload it was.
    """
    try:
        batch = pyruhvro.deserialize_array(payloads, plain_schema_text("tick"))
        if not (scanned or _accounts_for(batch, sum(map(len, payloads)), max_string_bytes)):
            return None
        # Conversion to Python strings is what finds invalid UTF-8.
        columns = TickColumns(
            *(
                column.to_pylist() if column.type == pa.string() else _numbers(column)
                for column in batch.columns
            )
        )
    except Exception:
        return None
    except BaseException as panic:
        if is_panic(panic):
            return None
        raise
    return None if "" in columns.asset_id else columns


def is_panic(error: BaseException) -> bool:
    """Whether a Rust extension panicked: its exception derives from BaseException alone."""
    return type(error).__name__ == "PanicException"


def _numbers(column: pa.Array) -> Any:
    return column.to_numpy(zero_copy_only=False)


def _accounts_for(batch: pa.RecordBatch, size: int, max_string_bytes: int) -> bool:
    """Whether the shortest encoding of these ticks takes exactly `size` bytes.

    A payload is never shorter than the shortest encoding of what was read from it, so equal sums
    mean that every payload was consumed to its last byte.
    """
    asset_id, _, timestamp_ns, dispersion_proxy, state_tag, reference, request_id = batch.columns
    times = timestamp_ns.to_numpy()
    if times.min() < -_TEN_BYTES_FROM or times.max() >= _TEN_BYTES_FROM:
        # Of a tenth byte the decoder keeps one bit and drops six without a word.
        return False
    unions = 4 * len(batch)
    doubles = 2 * len(batch) - dispersion_proxy.null_count + len(batch) - reference.null_count
    needed = unions + 8 * doubles + _varint_bytes(times)
    for column in (asset_id, state_tag, request_id):
        if column.null_count == len(column):
            continue
        present = column if column.null_count == 0 else column.drop_null()
        offsets = np.frombuffer(present.buffers()[1], np.int32)[
            present.offset : present.offset + len(present) + 1
        ]
        lengths = np.diff(offsets)
        if lengths.max() > max_string_bytes:
            return False
        needed += int(offsets[-1] - offsets[0]) + _varint_bytes(lengths)
    return needed == size


# A number n takes one byte more from each of these on, as does -n - 1: zig-zag, seven bits a byte.
_VARINT_STEPS = np.array([1 << (7 * k - 1) for k in range(1, 10)], np.int64)

_TEN_BYTES_FROM = 1 << 62  # in nanoseconds the year 2116


def _varint_bytes(numbers: NDArray[np.integer[Any]]) -> int:
    """Bytes that the numbers take together, each in its shortest form."""
    smallest, largest = int(numbers.min()), int(numbers.max())
    if smallest >= 0:
        # Nearly always all numbers of a column are equally long.
        shortest, longest = np.searchsorted(_VARINT_STEPS, (smallest, largest), side="right")
        if shortest == longest:
            return int(shortest + 1) * len(numbers)
    magnitudes = np.where(numbers < 0, ~numbers, numbers).astype(np.int64)
    return int(np.searchsorted(_VARINT_STEPS, magnitudes, side="right").sum()) + len(numbers)
