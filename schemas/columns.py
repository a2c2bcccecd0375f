"""Columns of an output record as Arrow arrays, checked against the schema."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike


class Nullable(NamedTuple):
    """A column some of whose values are absent.

    **Fields:**

    - `values`: `[n]`, of any content where `present` is False; NaN is a value, not an absence.
    - `present`: bool `[n]`.
    """

    values: ArrayLike
    present: ArrayLike


Column = Nullable | ArrayLike | Sequence[str | None] | None

Converter = Callable[[Any, int], pa.Array]
"""Takes a column and the number of records; may raise what NumPy and Arrow raise."""


class _Primitive(NamedTuple):
    arrow: pa.DataType
    numpy: np.dtype[Any] | None


_PRIMITIVES = {
    "string": _Primitive(pa.string(), None),
    "double": _Primitive(pa.float64(), np.dtype(np.float64)),
    "long": _Primitive(pa.int64(), np.dtype(np.int64)),
    "int": _Primitive(pa.int32(), np.dtype(np.int32)),
    "boolean": _Primitive(pa.bool_(), np.dtype(np.bool_)),
}


class ColumnTable:
    """Turns the columns of one record into an Arrow batch.

    **Arguments:**

    - `name`: of the record, for messages.
    - `fields`: Avro type by field name, in schema order.
    """

    def __init__(self, name: str, fields: dict[str, Any]) -> None:
        self._name = name
        self._converters = {field: converter(kind) for field, kind in fields.items()}
        self._schema = pa.schema([(field, arrow_type(kind)) for field, kind in fields.items()])
        self._required = [not isinstance(kind, list) for kind in fields.values()]

    def batch(self, columns: Mapping[str, Column], count: int) -> pa.RecordBatch:
        """The batch of `count` records; ValueError naming the field where one does not fit."""
        if columns.keys() != self._converters.keys():
            missing = sorted(self._converters.keys() - columns.keys())
            unknown = sorted(columns.keys() - self._converters.keys())
            raise ValueError(f"{self._name}: missing fields {missing}, unknown fields {unknown}")
        arrays = []
        for (field, convert), required in zip(
            self._converters.items(), self._required, strict=True
        ):
            try:
                array = convert(columns[field], count)
            except (ValueError, TypeError, OverflowError, pa.ArrowException) as error:
                raise ValueError(f"{self._name}.{field}: {error}") from error
            if len(array) != count:
                raise ValueError(f"{self._name}.{field}: {len(array)} values, {count} records")
            if required and array.null_count:
                raise ValueError(f"{self._name}.{field}: {array.null_count} values are missing")
            arrays.append(array)
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)


def arrow_type(kind: Any) -> pa.DataType:
    """The Arrow type in which the batch encoder wants a field of an Avro type."""
    if isinstance(kind, list):
        (kind,) = [branch for branch in kind if branch != "null"]
    kind, declared = (kind, None) if isinstance(kind, str) else (kind["type"], kind)
    if kind == "enum":
        return pa.string()
    if kind == "array":
        assert declared is not None
        return pa.list_(arrow_type(declared["items"]))
    return _PRIMITIVES[kind].arrow


def converter(kind: Any) -> Converter:
    """How columns of a field of this Avro type become Arrow arrays."""
    if isinstance(kind, list):
        (kind,) = [branch for branch in kind if branch != "null"]
        return _optional(arrow_type(kind), converter(kind))
    if isinstance(kind, dict):
        if kind["type"] == "enum":
            return _symbols(kind["symbols"])
        if kind["type"] == "array":
            return _rows
        kind = kind["type"]
    if kind == "string":
        return _strings
    return _numbers(_PRIMITIVES[kind])


def _optional(arrow: pa.DataType, present: Converter) -> Converter:
    def convert(column: Any, count: int) -> pa.Array:
        if column is None:
            return pa.nulls(count, arrow)
        if isinstance(column, Nullable):
            absent = ~np.asarray(column.present, bool)
            values = np.asarray(column.values)
            array = pa.array(values, mask=absent, from_pandas=False)
            return array if array.type == arrow else array.cast(arrow)
        if isinstance(column, list | tuple):
            return pa.array(column, arrow, from_pandas=False)
        return present(column, count)

    return convert


def _strings(column: Any, count: int) -> pa.Array:
    if isinstance(column, str):
        return pa.repeat(pa.scalar(column, pa.string()), count)
    return pa.array(column, pa.string(), from_pandas=False)


def _numbers(primitive: _Primitive) -> Converter:
    def convert(column: Any, count: int) -> pa.Array:
        values = np.asarray(column)
        if values.ndim == 0:
            values = _repeated(values, count, primitive)
        array = pa.array(values, from_pandas=False)
        return array if values.dtype == primitive.numpy else array.cast(primitive.arrow)

    return convert


def _repeated(value: np.ndarray[Any, Any], count: int, primitive: _Primitive) -> Any:
    """One number `count` times; through Arrow, since NumPy would narrow it without a word."""
    wanted = primitive.numpy
    assert wanted is not None
    if value.dtype.kind not in {"f": "fiu", "i": "iu", "b": "b"}[wanted.kind]:
        raise TypeError(f"{value.dtype} where {wanted} is wanted")
    return np.full(count, pa.scalar(value.item(), primitive.arrow).as_py(), wanted)


def _symbols(symbols: list[str]) -> Converter:
    positions = {symbol: position for position, symbol in enumerate(symbols)}

    def convert(column: Any, count: int) -> pa.Array:
        if isinstance(column, str):
            column = [column] * count
        if isinstance(column, list | tuple):
            unknown = set(column) - positions.keys()
            if unknown:
                raise ValueError(f"{sorted(map(str, unknown))} are not among {symbols}")
            return pa.array(column, pa.string())
        codes = np.asarray(column)
        if not np.issubdtype(codes.dtype, np.integer):
            raise TypeError(f"symbol positions are integers, not {codes.dtype}")
        if codes.size and not 0 <= codes.min() <= codes.max() < len(symbols):
            raise ValueError(f"a position is outside the {len(symbols)} symbols")
        return pa.array([symbols[code] for code in codes.tolist()], pa.string())

    return convert


def _rows(column: Any, count: int) -> pa.Array:
    values = np.ascontiguousarray(column, np.float64)
    if values.ndim != 2:
        raise ValueError(f"an array of shape [n, k] is wanted, not {list(values.shape)}")
    rows, width = values.shape
    offsets = np.arange(rows + 1, dtype=np.int32) * np.int32(width)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))
