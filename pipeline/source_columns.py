"""Columns of a file as identifiers and magnitudes, with the rows that are neither.

Whatever the file's format, a column arrives as an Arrow array: of strings from text formats, of
any suitable type from Parquet.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MISSING = frozenset({"", "-", "na", "n/a", "nan", "null", "none", "nat", "."})

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE)

Mask = np.ndarray[Any, np.dtype[np.bool_]]


class Converted(NamedTuple):
    """A converted column.

    - `values`: `[n]`; of any content where `missing` or `bad`.
    - `missing`: the file says that there is no value.
    - `bad`: the file says something that is no value.
    """

    values: np.ndarray[Any, Any]
    missing: Mask
    bad: Mask


def plain(array: Any) -> pa.Array:
    """One Arrow array without dictionary encoding."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def is_text(array: pa.Array) -> bool:
    """Whether the values are strings."""
    return bool(pa.types.is_string(array.type) or pa.types.is_large_string(array.type))


def trimmed(array: pa.Array) -> tuple[pa.Array, Mask]:
    """Strings without surrounding spaces, and which of them say "missing"."""
    text = pc.utf8_trim_whitespace(array.cast(pa.string()))
    said = pc.is_in(pc.utf8_lower(text), value_set=pa.array(sorted(MISSING)))
    missing = mask(pc.fill_null(said, False)) | mask(pc.is_null(array))
    return text, missing


def mask(array: Any) -> Mask:
    """An Arrow array of booleans."""
    return np.asarray(array.to_numpy(zero_copy_only=False), bool)


def identifiers(array: pa.Array) -> Converted:
    """Names of assets; an empty one is bad."""
    text = pc.utf8_trim_whitespace(plain(array).cast(pa.string()))
    bad = mask(pc.fill_null(pc.equal(text, ""), True))
    return Converted(text.to_numpy(zero_copy_only=False), np.zeros(len(bad), bool), bad)


def magnitudes(array: pa.Array, decimal_comma: bool = False) -> Converted:
    """Observations as float64; an infinite one is bad, since a file's NaN means missing."""
    array = plain(array)
    values: np.ndarray[Any, Any]
    if not is_text(array):
        try:
            values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        except pa.ArrowException:
            return all_bad(len(array), np.float64)
        return Converted(values, np.isnan(values), np.isinf(values))
    text, missing = trimmed(array)
    if decimal_comma:
        text = pc.replace_substring(text, ",", ".")
    kept = pc.if_else(pa.array(missing), pa.scalar(None, pa.string()), text)
    try:
        values = kept.cast(pa.float64()).to_numpy(zero_copy_only=False)
        bad = ~missing & ~np.isfinite(values)
    except pa.ArrowException:
        values, bad = one_by_one(kept.to_pylist(), _float, np.float64)
        bad |= ~missing & ~np.isfinite(values)
    return Converted(values, missing, bad)


def _float(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) else None


def one_by_one(
    texts: list[str | None], parse: Callable[[str], Any], dtype: type
) -> tuple[np.ndarray[Any, Any], Mask]:
    """Slow and exact: only batches with something unusual in them come here."""
    values: np.ndarray[Any, Any] = np.zeros(len(texts), dtype)
    bad = np.zeros(len(texts), bool)
    for row, text in enumerate(texts):
        if text is None:
            continue
        value = parse(text)
        if value is None:
            bad[row] = True
        else:
            values[row] = value
    return values, bad


def all_bad(count: int, dtype: type) -> Converted:
    """A column of a type that has no such values."""
    return Converted(np.zeros(count, dtype), np.zeros(count, bool), np.ones(count, bool))
