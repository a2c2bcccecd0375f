"""Ticks out of files: which column is what, which rows count, in the order of the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.source_columns import Converted, Mask, identifiers, magnitudes
from pipeline.source_files import FileFormat, RowReader, Rows, format_of
from pipeline.source_times import EventTimes, TimeUnit
from pipeline.synthetic import SECOND_NS, START_NS
from pipeline.ticks import TickBatch

ASSET_NAMES = (
    *("asset_id", "asset", "symbol", "ticker", "instrument", "series_id", "series", "unique_id"),
    *("key", "sensor", "device", "item_id", "item", "id", "name"),
)
VALUE_NAMES = (
    *("magnitude", "value", "close", "price", "y", "mid", "last", "observation", "measurement"),
    *("reading", "target", "x"),
)
TIME_NAMES = (
    *("timestamp_ns", "timestamp", "time", "datetime", "event_time", "date", "ds", "ts", "t"),
    *("month", "year"),
)
"""Column names that are taken without being told, in this order, in any case."""


@dataclass(frozen=True)
class SourceOptions:
    """How to read a file.

    - `format`: None goes by the extension.
    - `asset_column`, `value_column`, `time_column`: None looks for a customary name. For a wide
      file `value_column` may name several, separated by commas.
    - `time_unit`, `time_format`: as in `EventTimes`.
    - `asset`: name of the only series of a file without asset column; None is the file's stem.
    - `wide`: every column but the time is a series of its own name.
    - `has_time`: False counts rows, one second apart, instead.
    - `skip_bad`: leave out rows that make no sense, and count them, instead of ending.
    """

    format: FileFormat | None = None
    asset_column: str | None = None
    value_column: str | None = None
    time_column: str | None = None
    time_unit: TimeUnit = "auto"
    time_format: str | None = None
    asset: str | None = None
    wide: bool = False
    has_time: bool = True
    skip_bad: bool = False


class Columns(NamedTuple):
    """Which columns of a file are what."""

    time: str | None
    asset: str | None
    values: tuple[str, ...]

    @property
    def wanted(self) -> list[str]:
        """Each of them once."""
        return list(dict.fromkeys(name for name in (self.time, self.asset, *self.values) if name))


@dataclass
class TickFile:
    """One file of ticks.

    While the batches are taken, `missing` counts values that the file leaves out and `bad` rows
    that were skipped.

    **Failure:** `UserError` naming file, row and column, and the option that helps. Rows count
    from 1, the header of a CSV being one of them, as in editors and spreadsheets.
    """

    path: Path
    options: SourceOptions = SourceOptions()
    missing: int = 0
    bad: int = 0
    _columns: Columns = field(default=Columns(None, None, ()), init=False)

    def batches(self) -> Iterator[TickBatch]:
        """The ticks, streamed; batches are not empty."""
        reader = RowReader(self.path, self.options.skip_bad)
        if not self.path.is_file():
            raise reader.error("no such file")
        kind = self.options.format or format_of(self.path)
        if kind is None:
            raise reader.error("unknown extension; say --format csv, parquet or jsonl")

        def choose(names: Sequence[str]) -> list[str]:
            self._columns = find_columns(names, self.options, reader)
            return self._columns.wanted

        times: EventTimes | None = None
        ticks = 0
        for rows in reader.rows(kind, choose):
            times = times or self._times()
            batch = self._ticks(rows, times, reader)
            ticks += len(batch)
            if len(batch):
                yield batch
        self.bad += reader.bad
        if not ticks:
            raise reader.error("holds no ticks")

    def _times(self) -> EventTimes:
        name = (self._columns.time or "").lower()
        unit = self.options.time_unit
        if unit == "auto" and name.endswith(("_ns", "_us", "_ms")):
            unit = name[-2:]  # type: ignore[assignment]
        return EventTimes(unit, self.options.time_format, years=name == "year")

    def _ticks(self, rows: Rows, times: EventTimes, reader: RowReader) -> TickBatch:
        found = self._columns
        count = rows.columns.num_rows
        good = np.ones(count, bool)
        if found.time is not None:
            stamps = times.convert(rows.columns[found.time])
            self._reject(stamps, good, rows, found.time, reader)
            stamp_values = stamps.values
        else:
            stamp_values = START_NS + rows.numbers * SECOND_NS
        if self.options.wide:
            return self._wide(rows, stamp_values, good, reader)
        ids: Any = np.full(count, self.options.asset or self.path.name.split(".")[0], object)
        if found.asset is not None:
            names = identifiers(rows.columns[found.asset])
            self._reject(names, good, rows, found.asset, reader)
            ids = names.values
        kept, values = self._values(rows, found.values[0], good, reader)
        return TickBatch(ids[kept].tolist(), values[kept], stamp_values[kept])

    def _wide(self, rows: Rows, stamps: Any, good: Mask, reader: RowReader) -> TickBatch:
        """Row by row, the series in the order of their columns."""
        names = np.array(self._columns.values, object)
        columns = [self._values(rows, name, good, reader) for name in names]
        kept = np.stack([kept for kept, _ in columns], axis=1)
        values = np.stack([values for _, values in columns], axis=1)
        row, column = np.nonzero(kept)
        return TickBatch(names[column].tolist(), values[row, column], stamps[row])

    def _values(self, rows: Rows, name: str, good: Mask, reader: RowReader) -> tuple[Mask, Any]:
        """Which rows have a value in this column, and the values."""
        converted = magnitudes(rows.columns[name], reader.decimal_comma)
        good = good.copy()
        self._reject(converted, good, rows, name, reader)
        self.missing += int((converted.missing & good).sum())
        return good & ~converted.missing, converted.values

    def _reject(
        self, converted: Converted, good: Mask, rows: Rows, name: str, reader: RowReader
    ) -> None:
        """Clear `good` where the column is bad; or end with the first such row."""
        bad = converted.bad & good
        if not bad.any():
            return
        if self.options.skip_bad:
            self.bad += int(bad.sum())
            good &= ~bad
            return
        row = int(np.argmax(bad))
        shown = rows.columns[name][row].as_py()
        kind, remedy = "a number", ""
        if name == self._columns.time:
            kind = "a time"
            remedy = " --time-format '%d/%m/%Y' or" if shown is not None else ""
        elif name == self._columns.asset:
            kind = "a name"
        raise reader.error(
            f"row {rows.numbers[row]}, column {name!r}: {shown!r} is not {kind}; correct it, or "
            f"pass{remedy} --skip-bad"
        )


def find_columns(names: Sequence[str], options: SourceOptions, reader: RowReader) -> Columns:
    """Told and customary columns; `UserError` where one is missing."""
    time = None
    if options.has_time:
        time = _named(options.time_column, names, "--time-column", reader)
        time = time or _customary(TIME_NAMES, names)
        if time is None:
            raise reader.error(
                f"no time column among {_listed(names)}; name it with --time-column, or pass "
                "--no-time to count rows"
            )
    if options.wide:
        told = [each.strip() for each in (options.value_column or "").split(",") if each.strip()]
        for each in told:
            _named(each, names, "--value-column", reader)
        values = tuple(told or (name for name in names if name != time))
        if not values:
            raise reader.error("no columns beside the time; leave out --wide")
        return Columns(time, None, values)
    value = _named(options.value_column, names, "--value-column", reader)
    asset = _named(options.asset_column, names, "--asset-column", reader)
    if asset is None and options.asset is None:
        free = [name for name in names if name not in (time, value)]
        asset = _customary(ASSET_NAMES, free)
    rest = [name for name in names if name not in (time, asset)]
    value = value or _customary(VALUE_NAMES, rest)
    if value is None and len(rest) == 1:
        value = rest[0]
    if value is None:
        raise reader.error(
            f"no value column among {_listed(names)}; name it with --value-column, or pass --wide "
            "where each column is a series"
        )
    return Columns(time, asset, (value,))


def _customary(known: Sequence[str], names: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in known if name in lower), None)


def _named(told: str | None, names: Sequence[str], option: str, reader: RowReader) -> str | None:
    if told is not None and told not in names:
        raise reader.error(f"{option} {told}: no such column; there are {_listed(names)}")
    return told


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:12])
    return shown + (f" and {len(names) - 12} more" if len(names) > 12 else "")
