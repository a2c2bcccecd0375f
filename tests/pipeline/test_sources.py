"""Ticks out of files."""

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from pipeline.errors import ExitCode, UserError
from pipeline.sources import SourceOptions, TickFile

SECOND = 10**9
NEW_YEAR_1990 = 631_152_000 * SECOND


def read(path: Path, **options):
    """All ticks of a file as (asset, magnitude, time) rows, and the file."""
    file = TickFile(path, SourceOptions(**options))
    rows = [
        (asset, float(value), int(stamp))
        for batch in file.batches()
        for asset, value, stamp in zip(
            batch.asset_ids, batch.magnitudes, batch.timestamps_ns, strict=True
        )
    ]
    return rows, file


@pytest.fixture
def written(tmp_path):
    """Write a file and return its path."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def message_of(path: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        read(path, **options)
    assert caught.value.exit_code == ExitCode.USAGE
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


# -- columns ---------------------------------------------------------------------------------------


def test_customary_column_names_are_found_in_any_case(written):
    path = written("p.csv", "Date,Open,Symbol,Close\n1990-01-01,0,AA,1.5\n1990-01-02,0,BB,2.5\n")
    rows, _ = read(path)
    assert rows == [("AA", 1.5, NEW_YEAR_1990), ("BB", 2.5, NEW_YEAR_1990 + 86_400 * SECOND)]


def test_columns_can_be_told(written):
    path = written("p.csv", "a,b,c,close\nX,1990-01-01,7,1\n")
    rows, _ = read(path, asset_column="a", time_column="b", value_column="c")
    assert rows == [("X", 7.0, NEW_YEAR_1990)]


def test_a_file_without_asset_column_is_one_series_of_the_files_name(written):
    path = written("rates.csv", "ds,y\n1990-01-01,1\n")
    assert read(path)[0][0][0] == "rates"
    assert read(path, asset="EUR")[0][0][0] == "EUR"


def test_the_only_column_left_is_the_value(written):
    assert read(written("t.csv", "time,temperature\n1990-01-01,3\n"))[0][0][1] == 3.0


def test_every_column_of_a_wide_file_is_a_series(written):
    path = written("w.csv", "date,north,south\n1990-01-01,1,2\n1990-01-02,,4\n")
    rows, file = read(path, wide=True)
    day = 86_400 * SECOND
    assert rows == [
        ("north", 1.0, NEW_YEAR_1990),
        ("south", 2.0, NEW_YEAR_1990),
        ("south", 4.0, NEW_YEAR_1990 + day),
    ]
    assert file.missing == 1


def test_a_wide_file_can_be_narrowed_to_some_columns(written):
    path = written("w.csv", "date,north,note\n1990-01-01,1,cold\n")
    assert read(path, wide=True, value_column="north")[0] == [("north", 1.0, NEW_YEAR_1990)]


def test_rows_are_counted_where_there_is_no_time(written):
    rows, _ = read(written("n.csv", "y\n1\n2\n"), has_time=False)
    assert rows[1][2] - rows[0][2] == SECOND


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("date,a,b\n1990-01-01,1,2\n", {}, ["no value column", "'a'", "--value-column", "--wide"]),
        ("when,value\n1990-01-01,1\n", {}, ["no time column", "'when'", "--time-column"]),
        ("date,value\n1990-01-01,1\n", {"value_column": "x"}, ["--value-column x", "'value'"]),
        ("1990,1.5\n1991,2.5\n", {}, ["header"]),
        ("", {}, ["empty"]),
        ("date,value\n", {}, ["no ticks"]),
        ("date,value,value\n1990-01-01,1,2\n", {}, ["'value' occurs twice"]),
        ("date,value\n1990-01-01,1\n1990-01-02,abc\n", {}, ["row 3", "'value'", "'abc'"]),
        ("date,value\n1990-01-01,1\nsoon,2\n", {}, ["row 3", "'date'", "'soon'", "--time-format"]),
        ("date,value\n1990-01-01,inf\n", {}, ["row 2", "'inf'", "--skip-bad"]),
        ("date,value\n1990-01-01,1,9\n", {}, ["row 2", "3 fields", "2", "--skip-bad"]),
        ("date,asset,value\n1990-01-01,,9\n", {}, ["row 2", "'asset'"]),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(written, text, options, says):
    message = message_of(written("bad.csv", text), **options)
    for part in says:
        assert part in message


def test_a_missing_file_and_an_unknown_extension_are_told(written, tmp_path):
    assert "no such file" in message_of(tmp_path / "nowhere.csv")
    assert "--format" in message_of(written("x.dat", "date,value\n1990-01-01,1\n"))
    assert read(written("x.dat", "date,value\n1990-01-01,1\n"), format="csv")[0]


def test_a_file_of_another_format_is_told(written):
    assert "--format" in message_of(written("x.parquet", "date,value\n1990-01-01,1\n"))


# -- rows ------------------------------------------------------------------------------------------


def test_missing_values_are_left_out_and_counted(written):
    rows = "\n".join(
        f"1990-01-0{i + 1},{v}" for i, v in enumerate(["1", "", "NA", "nan", "-", "2"])
    )
    ticks, file = read(written("m.csv", f"date,value\n{rows}\n"))
    assert [value for _, value, _ in ticks] == [1.0, 2.0]
    assert file.missing == 4


def test_bad_rows_are_skipped_and_counted_on_demand(written):
    text = "date,value\n1990-01-01,1\nsoon,2\n1990-01-03,x\n1990-01-04,4,4\n1990-01-05,5\n"
    ticks, file = read(written("b.csv", text), skip_bad=True)
    assert [value for _, value, _ in ticks] == [1.0, 5.0]
    assert file.bad == 3


def test_semicolons_and_decimal_commas_are_understood(written):
    assert read(written("e.csv", "date;value\n1990-01-01;1,5\n"))[0] == [("e", 1.5, NEW_YEAR_1990)]


def test_byte_order_mark_quotes_and_compression_do_not_disturb(tmp_path):
    path = tmp_path / "q.csv.gz"
    path.write_bytes(gzip.compress('\ufeff"date","value"\r\n"1990-01-01","1.5"\r\n'.encode()))
    assert read(path)[0] == [("q", 1.5, NEW_YEAR_1990)]


def test_a_row_far_behind_the_first_block_is_named_exactly(written):
    lines = ["date,value"] + ["1990-01-01,1"] * 200_000
    lines[150_000 - 1] = "1990-01-01,oops"
    assert "row 150000," in message_of(written("long.csv", "\n".join(lines) + "\n"))


def test_a_long_file_comes_in_bounded_batches(written):
    path = written("long.csv", "date,value\n" + "1990-01-01,1\n" * 200_000)
    sizes = [len(batch) for batch in TickFile(path).batches()]
    assert sum(sizes) == 200_000
    assert max(sizes) < 150_000


# -- times -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1990-01-01", 631_152_000),
        ("1990-01-01T00:00:00Z", 631_152_000),
        ("1990-01-01 01:00:00+01:00", 631_152_000),
        ("1990-01-01T00:00:00.5", 631_152_000.5),
        ("1969-12-31T23:59:59Z", -1),
        ("1850-06-01", -3_773_779_200),
        ("631152000", 631_152_000),
        ("631152000.25", 631_152_000.25),
        ("631152000000", 631_152_000),
        ("631152000000000", 631_152_000),
        ("631152000000000000", 631_152_000),
        ("-86400", -86_400),
        ("19900101", 631_152_000),
    ],
)
def test_times_are_understood_in_every_customary_form(written, text, seconds):
    rows, _ = read(written("t.csv", f"time,value\n{text},1\n"))
    assert rows[0][2] == int(seconds * 4) * SECOND // 4


def test_forms_may_change_within_a_file(written):
    forms = ("1990-01-01", "1990-01-01T00:00:00Z", "1990-01", "1990-01-01T00:00:00.123456789Z")
    text = "time,value\n" + "".join(f"{form},1\n" for form in forms)
    stamps = [stamp for _, _, stamp in read(written("t.csv", text))[0]]
    assert stamps == [NEW_YEAR_1990] * 3 + [NEW_YEAR_1990 + 123_456_789]


def test_nanoseconds_keep_every_digit(written):
    rows, _ = read(written("t.csv", "timestamp_ns,value\n1700000000123456789,1\n"))
    assert rows[0][2] == 1_700_000_000_123_456_789


def test_the_unit_of_numbers_is_judged_once_and_held(written):
    # Milliseconds through the epoch: the small ones alone would look like seconds.
    text = "time,value\n-600000000000,1\n0,2\n1000,3\n600000000000,4\n"
    stamps = [stamp for _, _, stamp in read(written("t.csv", text))[0]]
    assert stamps == [-600 * 10**15, 0, 10**9, 600 * 10**15]


def test_the_unit_of_numbers_can_be_told(written):
    rows, _ = read(written("t.csv", "time,value\n1000,1\n"), time_unit="ms")
    assert rows[0][2] == SECOND


def test_years_are_years_in_a_column_of_that_name(written):
    rows, _ = read(written("y.csv", "year,value\n1990,1\n1700,2\n"))
    assert rows[0][2] == NEW_YEAR_1990
    assert rows[1][2] == int(np.datetime64("1700", "ns").astype(np.int64))


def test_another_layout_can_be_told(written):
    path = written("d.csv", "date,value\n02/01/1990,1\n")
    rows, _ = read(path, time_format="%d/%m/%Y")
    assert rows[0][2] == NEW_YEAR_1990 + 86_400 * SECOND
    assert "--time-format" in message_of(path)


def test_times_that_nanoseconds_cannot_hold_are_bad(written):
    assert "row 2" in message_of(written("t.csv", "date,value\n1600-01-01,1\n"))


# -- other formats ---------------------------------------------------------------------------------


def test_json_lines_take_numbers_strings_and_nulls(written):
    records = [
        {"symbol": "A", "ts": 631_152_000, "price": 1.5},
        {"symbol": "B", "ts": 631_152_001, "price": "2.5"},
        {"symbol": "A", "ts": 631_152_002, "price": None},
    ]
    text = "\n".join(json.dumps(record) for record in records) + "\n\n"
    rows, file = read(written("j.jsonl", text))
    assert rows == [("A", 1.5, NEW_YEAR_1990), ("B", 2.5, NEW_YEAR_1990 + SECOND)]
    assert file.missing == 1


def test_a_broken_json_line_is_named_or_skipped(written):
    text = '{"ts": 631152000, "y": 1}\n\n{"ts": \n[1]\n'
    path = written("j.jsonl", text)
    assert "row 3: is no JSON" in message_of(path)
    rows, file = read(path, skip_bad=True)
    assert len(rows) == 1
    assert file.bad == 2


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_parquet_timestamps_of_every_unit_are_understood(tmp_path, unit):
    table = pa.table(
        {
            "symbol": pa.array(["A", "B"]).dictionary_encode(),
            "time": pa.array([NEW_YEAR_1990, -SECOND])
            .cast(pa.timestamp("ns"))
            .cast(pa.timestamp(unit, "UTC")),
            "close": pa.array([1.5, 2.5], pa.float32()),
        }
    )
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(table, path)
    assert read(path)[0] == [("A", 1.5, NEW_YEAR_1990), ("B", 2.5, -SECOND)]


def test_parquet_dates_integers_and_nulls_are_understood(tmp_path):
    table = pa.table(
        {
            "key": pa.array([7, 7, 7]),
            "date": pa.array([7305, 7306, 7307], pa.int32()).cast(pa.date32()),
            "value": pa.array([1, None, 3]),
        }
    )
    path = tmp_path / "d.parquet"
    pyarrow.parquet.write_table(table, path)
    rows, file = read(path)
    assert rows == [("7", 1.0, NEW_YEAR_1990), ("7", 3.0, NEW_YEAR_1990 + 2 * 86_400 * SECOND)]
    assert file.missing == 1


def test_a_parquet_column_that_holds_no_numbers_is_told(tmp_path):
    path = tmp_path / "d.parquet"
    table = pa.table({"ts": pa.array([1]), "value": pa.array([[1.0]])})
    pyarrow.parquet.write_table(table, path)
    assert "'value'" in message_of(path)
