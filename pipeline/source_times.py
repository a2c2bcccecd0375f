"""Columns of a file as event times, in all the forms that files write them in."""

from __future__ import annotations

import datetime
import re
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.source_columns import (
    Converted,
    Mask,
    all_bad,
    is_text,
    mask,
    one_by_one,
    plain,
    trimmed,
)

TimeUnit = Literal["auto", "s", "ms", "us", "ns"]

NANOSECONDS: dict[str, int] = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
UNIT_LIMITS = (("s", 1e11), ("ms", 1e14), ("us", 1e17))
"""Numbers below the limit are of that unit: 1e11 s, 1e14 ms and 1e17 µs are the year 5138."""

INT64 = np.iinfo(np.int64)
_WHOLE = re.compile(r"[+-]?\d+(\.\d*)?")
_FRACTION = re.compile(r"[.,](\d+)")


class EventTimes:
    """Event times as int64 nanoseconds since the Unix epoch.

    Understood: ISO 8601 with or without a zone (UTC without), dates, `YYYYMMDD`, years in a
    column of that name, and numbers since the epoch in seconds to nanoseconds. The unit of
    numbers is judged once, by the largest of the first rows, and then held. A missing time is bad.

    **Arguments:**

    - `unit`: of numbers; `auto` judges by magnitude.
    - `layout`: as `datetime.strptime` takes it; None is all of the above.
    - `years`: whole numbers are calendar years.
    """

    def __init__(
        self, unit: TimeUnit = "auto", layout: str | None = None, years: bool = False
    ) -> None:
        self._unit = unit
        self._layout = layout
        self._years = years

    def convert(self, array: pa.Array) -> Converted:
        """The times of one batch."""
        array = plain(array)
        if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
            return _calendar(array)
        if is_text(array):
            return self._text(array)
        if pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
            missing = mask(pc.is_null(array, nan_is_null=True))
            return self._numbers(pc.fill_null(array, 0), missing)
        return all_bad(len(array), np.int64)

    def _text(self, array: pa.Array) -> Converted:
        text, missing = trimmed(array)
        kept = pc.if_else(pa.array(missing), pa.scalar(None, pa.string()), text)
        none = np.zeros(len(missing), bool)
        if self._layout is None:
            for kind in (pa.timestamp("ns"), pa.timestamp("ns", "UTC"), pa.int64(), pa.float64()):
                try:
                    cast = kept.cast(kind)
                except pa.ArrowException:
                    continue
                if pa.types.is_timestamp(kind):
                    return Converted(_whole(cast), none, missing)
                return self._numbers(pc.fill_null(cast, 0), missing)
        values, bad = one_by_one(kept.to_pylist(), self._parse, np.int64)
        return Converted(values, none, bad | missing)

    def _numbers(self, array: pa.Array, missing: Mask) -> Converted:
        values = array.to_numpy(zero_copy_only=False)
        none = np.zeros(len(values), bool)
        if self._unit == "auto":
            dates = None if missing.all() else self._as_dates(values, missing)
            if dates is not None:
                return Converted(dates, none, missing)
        factor = NANOSECONDS[self._held_unit(values)]
        with np.errstate(invalid="ignore", over="ignore"):
            floats = values.astype(np.float64) * factor
            bad = missing | ~(np.abs(floats) < float(INT64.max))
            if values.dtype.kind == "f":
                # A double holds seconds of this century to a quarter of a microsecond.
                scaled = np.rint(np.where(bad, 0.0, values) * (factor / 1000.0))
                nanoseconds = scaled.astype(np.int64) * 1000
            else:
                nanoseconds = np.where(bad, 0, values).astype(np.int64) * factor
        return Converted(nanoseconds, none, bad)

    def _as_dates(self, values: np.ndarray[Any, Any], missing: Mask) -> np.ndarray[Any, Any] | None:
        """Numbers that spell calendar days (or years), if all of them do."""
        if values.dtype.kind != "i":
            return None
        shown = values[~missing]
        if self._years and ((shown >= 1000) & (shown <= 2999)).all():
            texts = [f"{value:04d}" for value in values.tolist()]
        elif ((shown >= 18_000_101) & (shown <= 22_001_231)).all():
            texts = [
                f"{v // 10_000:04d}-{v // 100 % 100:02d}-{v % 100:02d}" for v in values.tolist()
            ]
        else:
            return None
        texts = ["1970" if absent else text for text, absent in zip(texts, missing, strict=True)]
        try:
            return np.array(texts, "datetime64[ns]").astype(np.int64)
        except ValueError:
            return None

    def _held_unit(self, values: np.ndarray[Any, Any]) -> str:
        if self._unit == "auto" and len(values):
            largest = float(np.nanmax(np.abs(values.astype(np.float64))))
            names = [name for name, limit in UNIT_LIMITS if largest < limit]
            self._unit = names[0] if names else "ns"  # type: ignore[assignment]
        return "s" if self._unit == "auto" else self._unit

    def _parse(self, text: str) -> int | None:
        if self._layout is not None:
            try:
                # A layout without a zone means UTC.
                return _nanoseconds(datetime.datetime.strptime(text, self._layout))  # noqa: DTZ007
            except ValueError:
                return None
        if _WHOLE.fullmatch(text):
            one = self._numbers(pa.array([float(text)]), np.zeros(1, bool))
            return None if one.bad[0] else int(one.values[0])
        # `fromisoformat` reads microseconds; what is finer is added afterwards.
        fraction = _FRACTION.search(text)
        extra = 0
        if fraction and len(fraction[1]) > 6:
            extra = int(fraction[1][:9].ljust(9, "0")) % 1000
            text = text[: fraction.start(1) + 6] + text[fraction.end(1) :]
        try:
            moment = datetime.datetime.fromisoformat(text)
        except ValueError:
            return _reduced(text)
        nanoseconds = _nanoseconds(moment)
        return None if nanoseconds is None else nanoseconds + extra


def _reduced(text: str) -> int | None:
    """A month or a year."""
    if not re.fullmatch(r"\d{4}(-\d{2})?", text):
        return None
    try:
        return int(np.datetime64(text, "ns").astype(np.int64))
    except ValueError:
        return None


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def _nanoseconds(moment: datetime.datetime) -> int | None:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    elapsed = moment - _EPOCH
    nanoseconds = (elapsed.days * 86_400 + elapsed.seconds) * 10**9 + elapsed.microseconds * 1000
    return nanoseconds if INT64.min < nanoseconds <= INT64.max else None


def _calendar(array: pa.Array) -> Converted:
    none = np.zeros(len(array), bool)
    missing = mask(pc.is_null(array))
    zone = array.type.tz if pa.types.is_timestamp(array.type) else None
    try:
        return Converted(_whole(array.cast(pa.timestamp("ns", zone))), none, missing)
    except pa.ArrowException:
        # Outside 1677 to 2262, where nanoseconds end; which rows, only a look at each can tell.
        values, bad = one_by_one(array.to_pylist(), _moment, np.int64)
        return Converted(values, none, bad | missing)


def _moment(value: Any) -> int | None:
    if not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day, tzinfo=datetime.UTC)
    return _nanoseconds(value)


def _whole(array: pa.Array) -> np.ndarray[Any, Any]:
    numbers = array.cast(pa.int64())
    return np.asarray(pc.fill_null(numbers, 0).to_numpy(zero_copy_only=False), np.int64)
