"""CSV, Parquet and JSON Lines as Arrow batches with the numbers of their rows."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pipeline.errors import ExitCode, UserError
from pipeline.ticks import TICKS_PER_BATCH

FileFormat = Literal["csv", "parquet", "jsonl"]

EXTENSIONS: dict[str, FileFormat] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
COMPRESSIONS = (".gz", ".bz2", ".zst")
BLOCK_BYTES = 1 << 20
HEAD_BYTES = 1 << 16

Choose = Callable[[Sequence[str]], list[str]]
"""Told the names of all columns, says which ones are wanted."""


class Rows(NamedTuple):
    """Consecutive rows: the wanted columns, text formats as strings; and their numbers, from 1."""

    columns: pa.RecordBatch
    numbers: np.ndarray[Any, np.dtype[np.int64]]


class Dialect(NamedTuple):
    """What the head of a CSV file shows; `first_line` counts from 0."""

    names: list[str]
    delimiter: str
    first_line: int


def format_of(path: Path) -> FileFormat | None:
    """The format that a file's extension stands for."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in COMPRESSIONS]
    return EXTENSIONS.get(suffixes[-1]) if suffixes else None


class RowReader:
    """Reads one file once, a bounded part at a time.

    **Arguments:**

    - `skip_bad`: leave rows out that do not fit the file's format, and count them in `bad`.

    **Failure:** `UserError` naming file and row.
    """

    def __init__(self, path: Path, skip_bad: bool) -> None:
        self._path = path
        self._skip_bad = skip_bad
        self.bad = 0
        self.decimal_comma = False

    def rows(self, kind: FileFormat, choose: Choose) -> Iterator[Rows]:
        """The rows of the file, the wanted columns only."""
        reader = {"csv": self._csv, "parquet": self._parquet, "jsonl": self._json}[kind]
        try:
            yield from reader(choose)
        except (pa.ArrowException, OSError, ValueError) as error:
            detail = " ".join(str(error).split())[:200]
            raise self.error(f"cannot be read as {kind} ({detail}); is --format right?") from None

    def error(self, message: str) -> UserError:
        """A problem with the file."""
        return UserError(f"{self._path}: {message}", ExitCode.USAGE)

    def _stream(self) -> Any:
        return pa.input_stream(str(self._path), compression="detect")

    def _csv(self, choose: Choose) -> Iterator[Rows]:
        dialect = self._dialect()
        self.decimal_comma = dialect.delimiter != ","
        wanted = choose(dialect.names)
        ragged: list[UserError] = []

        def on_ragged(row: Any) -> str:
            if self._skip_bad:
                self.bad += 1
                return "skip"
            ragged.append(
                self.error(
                    f"row {row.number}: {row.actual_columns} fields where the header has "
                    f"{row.expected_columns}; correct it or pass --skip-bad"
                )
            )
            return "error"

        with self._stream() as stream:
            try:
                batches = pyarrow.csv.open_csv(
                    stream,
                    read_options=pyarrow.csv.ReadOptions(
                        use_threads=False,
                        block_size=BLOCK_BYTES,
                        column_names=dialect.names,
                        skip_rows=dialect.first_line + 1,
                    ),
                    parse_options=pyarrow.csv.ParseOptions(
                        delimiter=dialect.delimiter,
                        newlines_in_values=True,
                        invalid_row_handler=on_ragged,
                    ),
                    convert_options=pyarrow.csv.ConvertOptions(
                        column_types=dict.fromkeys(wanted, pa.string()), include_columns=wanted
                    ),
                )
                yield from _numbered(batches, dialect.first_line + 2)
            except pa.ArrowException:
                if ragged:
                    raise ragged[0] from None
                raise

    def _dialect(self) -> Dialect:
        with self._stream() as stream:
            head = stream.read(HEAD_BYTES).decode("utf-8-sig", errors="replace")
        lines = head.splitlines()
        first_line = next((number for number, line in enumerate(lines) if line.strip()), None)
        if first_line is None:
            raise self.error("the file is empty")
        line = lines[first_line]
        delimiter = max(",;\t|", key=line.count)
        names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter))]
        if all(_is_number(name) for name in names):
            raise self.error("the first row holds numbers, not column names; add a header")
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise self.error(f"column {repeated[0]!r} occurs twice; rename one")
        return Dialect(names, delimiter, first_line)

    def _parquet(self, choose: Choose) -> Iterator[Rows]:
        with pyarrow.parquet.ParquetFile(self._path) as file:
            wanted = choose(file.schema_arrow.names)
            yield from _numbered(file.iter_batches(TICKS_PER_BATCH, columns=wanted), 1)

    def _json(self, choose: Choose) -> Iterator[Rows]:
        wanted: list[str] | None = None
        with self._stream() as stream:
            lines = enumerate(_lines(stream), 1)
            while part := list(itertools.islice(lines, TICKS_PER_BATCH)):
                records = [(n, r) for n, line in part for r in self._record(n, line)]
                if wanted is None and records:
                    wanted = choose(list(dict.fromkeys(k for _, r in records[:100] for k in r)))
                if wanted is None:
                    continue
                columns = [pa.array([_text(r.get(name)) for _, r in records]) for name in wanted]
                yield Rows(
                    pa.RecordBatch.from_arrays([c.cast(pa.string()) for c in columns], wanted),
                    np.array([number for number, _ in records], np.int64),
                )

    def _record(self, number: int, line: bytes) -> list[dict[str, Any]]:
        """The object of a line; nothing for an empty line or a skipped one."""
        if not line.strip():
            return []
        try:
            record = msgspec.json.decode(line)
            reason = "is no JSON object"
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            record, reason = None, f"is no JSON ({error})"
        if isinstance(record, dict):
            return [record]
        if not self._skip_bad:
            raise self.error(f"row {number}: {reason}; correct it or pass --skip-bad")
        self.bad += 1
        return []


def _numbered(batches: Any, first: int) -> Iterator[Rows]:
    for batch in batches:
        yield Rows(batch, np.arange(first, first + batch.num_rows, dtype=np.int64))
        first += batch.num_rows


def _lines(stream: Any) -> Iterator[bytes]:
    rest = b""
    while block := stream.read(BLOCK_BYTES):
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else str(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
