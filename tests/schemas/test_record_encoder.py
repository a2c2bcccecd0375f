"""Columns to bytes: the same bytes as record by record, and errors that name the field."""

import io
import json
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from samples import SINGLE, doubles, examples, longs, texts, ticks

from schemas.catalogue import parsed_schema
from schemas.codec import (
    Framing,
    Malformed,
    Nullable,
    PredictionEncoder,
    RecordDecoder,
    RecordEncoder,
    TickEncoder,
    decode_record,
    encode_event,
    encode_telemetry,
    encode_tick,
    load_schema,
    schema_text,
)

HEADER_BYTES = 10
EVENT: dict[str, Any] = {"kind": "REBASED", "severity": "info", "detail": "x"}
ENCODER = PredictionEncoder(SINGLE)
FIELDS = {field["name"]: field["type"] for field in load_schema("prediction")["fields"]}


def columns_of(count: int, seed: int = 0) -> dict[str, Any]:
    """Predictions of every shape: unusual numbers, absences, all symbols."""
    generator = np.random.default_rng(seed)
    unusual = np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324, 1e308, 0.1])

    def numbers(*shape: int) -> Any:
        return generator.choice(unusual, shape)

    makers = {
        "double": lambda: numbers(count),
        "long": lambda: generator.integers(-(2**63), 2**63 - 1, count),
        "int": lambda: generator.integers(-(2**31), 2**31 - 1, count, dtype=np.int32),
        "boolean": lambda: generator.random(count) < 0.5,
        "string": lambda: [f"é{i}" for i in range(count)],
    }
    columns: dict[str, Any] = {}
    for name, kind in FIELDS.items():
        if isinstance(kind, list):
            present = generator.random(count) < 0.5
            values = makers[kind[1]]()
            if kind[1] == "string":
                columns[name] = [
                    value if there else None for value, there in zip(values, present, strict=True)
                ]
            else:
                columns[name] = Nullable(values, present)
        elif isinstance(kind, str):
            columns[name] = makers[kind]()
        elif kind["type"] == "enum":
            columns[name] = generator.integers(0, len(kind["symbols"]), count)
        elif kind["type"] == "array":
            columns[name] = numbers(count, 4)
        else:
            columns[name] = makers[kind["type"]]()
    return columns


def record_at(columns: dict[str, Any], row: int) -> dict[str, Any]:
    """One row of the columns as plain Python values."""
    record = {}
    for name, column in columns.items():
        kind = FIELDS[name]
        if isinstance(column, Nullable):
            value = column.values[row] if column.present[row] else None
        else:
            value = column[row]
        if isinstance(kind, dict) and kind["type"] == "enum":
            value = kind["symbols"][value]
        record[name] = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    return record


def written_alone(name: Any, record: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, parsed_schema(name), record)
    return buffer.getvalue()


class TestPredictions:
    @pytest.mark.parametrize("count", [1, 2, 3, 64, 200])
    def test_have_the_bytes_of_the_record_by_record_writer(self, count):
        columns = columns_of(count, seed=count)

        values = ENCODER.encode(columns, count)

        assert values == [
            ENCODER.header + written_alone("prediction", record_at(columns, row))
            for row in range(count)
        ]

    def test_have_the_same_bytes_however_the_batch_is_cut(self):
        whole = columns_of(50)

        def part(start: int, end: int) -> list[bytes]:
            cut = {
                name: Nullable(column.values[start:end], column.present[start:end])
                if isinstance(column, Nullable)
                else column[start:end]
                for name, column in whole.items()
            }
            return ENCODER.encode(cut, end - start)

        assert [*part(0, 1), *part(1, 30), *part(30, 50)] == ENCODER.encode(whole, 50)

    @examples
    @given(arrays.arrays(np.uint64, 5, elements=st.integers(0, 2**64 - 1)))
    def test_keep_every_bit_of_their_numbers(self, patterns):
        numbers = patterns.view(np.float64)
        columns = columns_of(5) | {"magnitude": numbers, "kurtosis": Nullable(numbers, [True] * 5)}

        values = ENCODER.encode(columns, 5)

        for row, value in enumerate(values):
            record = decode_record("prediction", value)
            for name in ("magnitude", "kurtosis"):
                assert np.float64(record[name]).tobytes() == numbers[row].tobytes()

    def test_tell_nan_from_absent(self):
        column = Nullable(np.array([np.nan, np.nan]), np.array([True, False]))

        values = ENCODER.encode(columns_of(2) | {"free_energy": column}, 2)

        first, second = (decode_record("prediction", value)["free_energy"] for value in values)
        assert np.isnan(first)
        assert second is None

    def test_take_one_value_for_all_rows(self):
        constants = {
            "source_partition": 3,
            "config_generation": np.int64(7),
            "config_hash": "abc",
            "mode": "robust",
            "scale": 2,
            "emergency_mode": True,
            "request_id": None,
            "kurtosis": None,
            "holder_exponent": 0.5,
            "sinkhorn_converged": None,
        }

        values = ENCODER.encode(columns_of(3) | constants, 3)

        for value in values:
            record = decode_record("prediction", value)
            assert {name: record[name] for name in constants} == constants

    def test_take_symbols_by_name_and_by_position(self):
        by_name = columns_of(2) | {"mode": ["robust", "standard"]}
        by_position = by_name | {"mode": np.array([1, 0], np.int32)}

        assert ENCODER.encode(by_name, 2) == ENCODER.encode(by_position, 2)

    def test_of_no_rows_are_no_values(self):
        assert ENCODER.encode(columns_of(0), 0) == []

    def test_carry_the_registry_id_when_asked_to(self):
        values = PredictionEncoder(Framing.confluent(258)).encode(columns_of(1), 1)

        assert values[0][:5] == b"\x00\x00\x00\x01\x02"
        assert values[0][5:] == ENCODER.encode(columns_of(1), 1)[0][HEADER_BYTES:]

    @pytest.mark.parametrize("failure", ["panic", "error", "short"])
    def test_have_the_same_bytes_when_the_batch_encoder_fails(self, monkeypatch, failure):
        class PanicException(BaseException):
            """What a Rust extension raises when it panics."""

        def fail(*_: object) -> list[object]:
            if failure == "short":
                return []
            raise PanicException if failure == "panic" else RuntimeError

        columns = columns_of(20)
        expected = ENCODER.encode(columns, 20)
        monkeypatch.setattr("schemas.encode.pyruhvro.serialize_record_batch", fail)

        assert ENCODER.encode(columns, 20) == expected

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"magnitude": np.zeros(3)}, "magnitude: 3 values, 2 records"),
            ({"magnitude": ["a", "b"]}, "magnitude"),
            ({"magnitude": None}, "magnitude"),
            ({"source_partition": np.array([0, 2**31])}, "source_partition"),
            ({"source_partition": 2**31}, "source_partition"),
            ({"source_offset": np.array([0.5, 1.0])}, "source_offset"),
            ({"signature_depth": 2.5}, "signature_depth"),
            ({"asset_id": ["a", None]}, "asset_id: 1 values are missing"),
            ({"mode": ["robust", "Robust"]}, "mode"),
            ({"mode": np.array([0, 3])}, "mode"),
            ({"mode": np.array([-1, 0])}, "mode"),
            ({"mode": np.array([0.0, 1.0])}, "mode"),
            ({"weights": np.zeros(8)}, "weights"),
            ({"kurtosis": Nullable(np.zeros(3), [True] * 3)}, "kurtosis"),
            ({"nonsense": np.zeros(2)}, "unknown fields .'nonsense'"),
        ],
    )
    def test_that_do_not_fit_are_refused_by_name(self, change, message):
        with pytest.raises(ValueError, match=message):
            ENCODER.encode(columns_of(2) | change, 2)

    def test_without_a_field_are_refused_by_name(self):
        columns = columns_of(1)
        del columns["scale"]

        with pytest.raises(ValueError, match=r"missing fields .'scale'"):
            ENCODER.encode(columns, 1)


class TestOtherRecords:
    @examples
    @given(st.lists(ticks, min_size=1, max_size=10))
    def test_ticks_have_the_same_bytes_alone_and_together(self, batch):
        names = list(batch[0])
        columns = {name: [tick[name] for tick in batch] for name in names}

        together = TickEncoder(SINGLE).encode(columns, len(batch))

        assert together == [encode_tick(tick, SINGLE) for tick in batch]

    @examples
    @given(st.data())
    def test_telemetry_comes_back(self, data):
        made = {
            "string": texts,
            "double": doubles.filter(lambda number: number == number),
            "long": longs,
            "int": st.integers(-(2**31), 2**31 - 1),
        }
        record = {}
        for field in load_schema("telemetry")["fields"]:
            kind = field["type"]
            if isinstance(kind, list):
                record[field["name"]] = data.draw(st.none() | made[kind[1]])
            elif isinstance(kind, str):
                record[field["name"]] = data.draw(made[kind])
            elif kind["type"] == "array":
                record[field["name"]] = data.draw(st.lists(made["double"], max_size=4))
            else:
                record[field["name"]] = data.draw(longs)

        value = encode_telemetry(record, SINGLE)

        assert decode_record("telemetry", value) == record

    def test_events_leave_out_what_is_absent(self):
        event = {"kind": "STALENESS", "severity": "warning", "detail": "gap of 12 medians"}

        record = decode_record("event", encode_event(event, SINGLE))

        assert {name: value for name, value in record.items() if value is not None} == event

    @pytest.mark.parametrize(
        "change",
        [
            {"kind": "EXPLOSION"},
            {"severity": None},
            {"detail": 3},
            {"source_partition": 2**31},
            {"asset": "misspelt"},
        ],
    )
    def test_events_that_do_not_fit_are_refused(self, change):
        event = {"kind": "STALENESS", "severity": "warning", "detail": "x"}

        with pytest.raises(ValueError, match="event"):
            encode_event(event | change, SINGLE)

    def test_a_missing_field_is_refused(self):
        with pytest.raises(ValueError, match="tick"):
            encode_tick({"asset_id": "a", "magnitude": 1.0}, SINGLE)

    def test_an_encoder_writes_single_records_too(self):
        tick = {"asset_id": "a", "magnitude": 1.0, "timestamp_ns": 5}

        assert RecordEncoder("tick", SINGLE).encode_record(tick) == encode_tick(tick, SINGLE)


class TestRecordDecoder:
    def test_reads_an_undeclared_id_as_the_bundled_schema(self):
        value = encode_event(EVENT, Framing.confluent(5))

        assert decode_record("event", value)["kind"] == "REBASED"

    def test_reads_a_declared_id_as_declared(self):
        schema = load_schema("event")
        schema["fields"] = [field for field in schema["fields"] if field["name"] != "asset_id"]
        decoder = RecordDecoder("event")

        assert decoder.add_writer(5, json.dumps(schema)) is None
        payload = io.BytesIO()
        fastavro.schemaless_writer(payload, fastavro.parse_schema(schema), EVENT)

        record = decoder.decode(Framing.confluent(5).header("event") + payload.getvalue())

        assert record["asset_id"] is None

    def test_reads_a_later_symbol_as_the_default(self):
        schema = load_schema("event")
        schema["fields"][0]["type"]["symbols"].append("LATER")
        decoder = RecordDecoder("event")

        decoder.add_writer(5, json.dumps(schema))
        payload = io.BytesIO()
        later = EVENT | {"kind": "LATER"}
        fastavro.schemaless_writer(payload, fastavro.parse_schema(schema), later)

        record = decoder.decode(Framing.confluent(5).header("event") + payload.getvalue())

        assert record["kind"] == "UNKNOWN"

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (None, "null_value"),
            (b"", "empty"),
            (b"?", "bad_magic"),
            (
                encode_tick({"asset_id": "a", "magnitude": 1.0, "timestamp_ns": 5}, SINGLE),
                "unknown",
            ),
            (encode_event(EVENT, SINGLE) + b"x", "trailing_bytes"),
            (encode_event(EVENT, SINGLE)[:-1], "truncated"),
        ],
    )
    def test_says_why_it_refuses(self, value, reason):
        with pytest.raises(Malformed, match=reason):
            decode_record("event", value)

    def test_refuses_what_was_declared_unreadable(self):
        decoder = RecordDecoder("event")
        decoder.add_writer(5, schema_text("tick"))

        with pytest.raises(Malformed, match="schema_incompatible"):
            decoder.decode(encode_event(EVENT, Framing.confluent(5)))
