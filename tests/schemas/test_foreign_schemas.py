"""Producers with schemas of their own: what resolves, what is refused, and at what cost."""

import copy
import io
import json
import time
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import PLAIN, START_NS, R, bits, examples, rows, zigzag

from schemas.codec import (
    Framing,
    Malformed,
    TickDecoder,
    incompatibilities,
    lint,
    load_schema,
    schema_text,
)

SCHEMA_ID = 77
FRAME = Framing.confluent(SCHEMA_ID).header("tick")

Schema = dict[str, Any]


def changed(field: str, **attributes: Any) -> Schema:
    """The bundled schema with one field changed, a copy."""
    schema = load_schema("tick")
    for declared in schema["fields"]:
        if declared["name"] == field:
            declared.update(attributes)
    return schema


def with_fields(*fields: Schema) -> Schema:
    schema = load_schema("tick")
    schema["fields"] += fields
    return schema


def without(field: str) -> Schema:
    schema = load_schema("tick")
    schema["fields"] = [declared for declared in schema["fields"] if declared["name"] != field]
    return schema


def value_under(schema: Schema, tick: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(schema), tick)
    return FRAME + buffer.getvalue()


def decode_under(schema: Schema, *values: bytes, **options: Any):
    decoder = TickDecoder(**options)
    assert decoder.add_writer(SCHEMA_ID, json.dumps(schema)) is None
    return decoder.decode(values, [None] * len(values))


def refusal(schema: Schema | str, **options: Any):
    """The fault of the schema, which every value under it must share."""
    text = schema if isinstance(schema, str) else json.dumps(schema)
    decoder = TickDecoder(**options)
    fault = decoder.add_writer(SCHEMA_ID, text)
    assert fault is not None
    decoded = decoder.decode([FRAME, FRAME + b"\x06abc"], [None, None])
    assert [(one.reason, one.detail) for one in decoded.rejected] == [fault] * 2
    return fault


class TestEvolution:
    def test_a_field_that_the_reader_lacks_is_skipped(self):
        schema = with_fields(
            {"name": "venue", "type": "string"},
            {"name": "levels", "type": {"type": "array", "items": "double"}},
            {"name": "tags", "type": {"type": "map", "values": "long"}},
            {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["BID", "ASK"]}},
        )
        extra = {"venue": "X", "levels": [1.0, 2.0], "tags": {"a": 1}, "kind": "ASK"}

        decoded = decode_under(schema, value_under(schema, PLAIN | extra))

        assert decoded.asset_id == ["BTC-USD"]
        assert decoded.magnitude.tolist() == [1.5]

    def test_a_field_that_the_writer_lacks_takes_its_default(self):
        schema = without("request_id")

        decoded = decode_under(schema, value_under(schema, PLAIN))

        assert decoded.request_id == [None]

    def test_an_added_field_with_a_default_is_filled_in(self):
        reader = changed("reference", default=None)
        reader["fields"][5] = {"name": "reference", "type": "double", "default": 2.5}
        older = without("reference")

        decoded = decode_under(older, value_under(older, PLAIN), reader_schema=json.dumps(reader))

        assert decoded.reference.tolist() == [2.5]

    def test_a_renamed_field_is_found_by_its_alias(self):
        reader = changed("magnitude", aliases=["price"])
        older = changed("magnitude", name="price")
        tick = PLAIN | {"price": -0.0}

        decoded = decode_under(older, value_under(older, tick), reader_schema=json.dumps(reader))

        assert decoded.magnitude.tobytes() == bits(-0.0)

    def test_a_renamed_field_without_an_alias_is_incompatible(self):
        assert refusal(changed("magnitude", name="price")).reason == R.SCHEMA_INCOMPATIBLE

    @pytest.mark.parametrize(
        ("kind", "number"), [("int", 7), ("long", 2**53), ("float", 0.5), ("double", 0.1)]
    )
    def test_numbers_are_promoted_to_double(self, kind, number):
        schema = changed("magnitude", type=kind)

        decoded = decode_under(schema, value_under(schema, PLAIN | {"magnitude": number}))

        assert decoded.magnitude.dtype == np.float64
        assert decoded.magnitude.tolist() == [number]

    @pytest.mark.parametrize("kind", [["null", "int"], ["double", "null"], "double", "null"])
    def test_optional_fields_take_any_part_of_the_union(self, kind):
        schema = changed("reference", type=kind)
        schema["fields"][5].pop("default")
        reference = None if kind == "null" else 3

        decoded = decode_under(schema, value_under(schema, PLAIN | {"reference": reference}))

        assert decoded.reference.tobytes() == bits(reference)

    def test_an_int_timestamp_and_bytes_for_a_string_resolve(self):
        schema = changed("timestamp_ns", type="int")
        schema["fields"][0]["type"] = "bytes"
        tick = PLAIN | {"timestamp_ns": -5, "asset_id": "é".encode()}

        decoded = decode_under(schema, value_under(schema, tick))

        assert (decoded.asset_id, decoded.timestamp_ns.tolist()) == (["é"], [-5])

    def test_bytes_that_are_no_string_are_invalid(self):
        schema = changed("asset_id", type="bytes")
        values = [value_under(schema, PLAIN | {"asset_id": one}) for one in (b"\xff", b"ok", b"")]

        decoded = decode_under(schema, *values)

        assert decoded.asset_id == ["ok"]
        assert [one.reason for one in decoded.rejected] == [R.INVALID_UTF8, R.LENGTH_OUT_OF_BOUNDS]

    def test_another_namespace_and_the_order_of_fields_do_not_matter(self):
        schema = load_schema("tick") | {"namespace": "com.example"}
        schema["fields"].reverse()

        decoded = decode_under(schema, value_under(schema, PLAIN))

        assert decoded.asset_id == ["BTC-USD"]

    def test_a_uuid_stays_a_string(self):
        uuid = "00000000-0000-0000-0000-000000000001"
        kind = ["null", {"type": "string", "logicalType": "uuid"}]
        value = value_under(load_schema("tick"), PLAIN | {"request_id": uuid})

        decoded = decode_under(changed("request_id", type=kind), value)

        assert decoded.request_id == [uuid]

    def test_an_equal_schema_in_other_words_takes_the_fast_way(self, monkeypatch):
        schema = load_schema("tick")
        schema["doc"] = "another text"
        schema["fields"][2]["type"] = "long"
        monkeypatch.setattr(TickDecoder, "_sort_out", None)

        assert len(decode_under(schema, value_under(schema, PLAIN))) == 1

    def test_values_of_several_writers_keep_their_order(self):
        newer = with_fields({"name": "venue", "type": "string"})
        decoder = TickDecoder()
        decoder.add_writer(SCHEMA_ID, json.dumps(newer))
        decoder.add_writer(1, schema_text("tick"))
        own = Framing.confluent(1).header("tick")
        foreign = value_under(newer, PLAIN | {"venue": "X", "asset_id": "B"})
        plain = own + value_under(load_schema("tick"), PLAIN | {"asset_id": "A"})[5:]

        decoded = decoder.decode([plain, foreign, b"?", plain], [None, b"B", None, b"A"])

        assert decoded.asset_id == ["A", "B", "A"]
        assert decoded.index.tolist() == [0, 1, 3]
        assert [one.index for one in decoded.rejected] == [2]

    def test_earlier_versions_are_known_by_their_fingerprint(self):
        earlier = without("request_id")
        header = b"\xc3\x01" + bytes.fromhex(
            fastavro.schema.fingerprint(
                fastavro.schema.to_parsing_canonical_form(earlier), "CRC-64-AVRO"
            )
        )
        value = header + value_under(earlier, PLAIN)[len(FRAME) :]

        accepted = TickDecoder(earlier_schemas=[json.dumps(earlier)]).decode([value], [None])
        refused = TickDecoder().decode([value], [None])

        assert accepted.asset_id == ["BTC-USD"]
        assert refused.rejected[0].reason == R.UNKNOWN_FINGERPRINT

    def test_bad_values_of_a_foreign_writer_get_the_same_reasons(self):
        schema = with_fields(
            {"name": "flag", "type": "boolean"},
            {"name": "small", "type": "int"},
            {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["BID", "ASK"]}},
            {"name": "levels", "type": {"type": "array", "items": "float"}},
            {"name": "hash", "type": {"type": "fixed", "name": "Hash", "size": 4}},
        )
        good = {"flag": True, "small": 1, "kind": "BID", "levels": [1.0], "hash": b"1234"}
        whole = value_under(schema, PLAIN | good)
        head, tail = whole[:-13], whole[-13:]
        # The tail: flag, small, kind, an array of one float, its end, and the fixed.
        assert tail[:4] == b"\x01\x02\x00\x02"
        faults = {
            head + b"\x02" + tail[1:]: R.LENGTH_OUT_OF_BOUNDS,  # a boolean of 2
            head + b"\x01" + zigzag(2**31) + tail[2:]: R.LENGTH_OUT_OF_BOUNDS,  # an int of 33 bits
            head + tail[:2] + b"\x04" + tail[3:]: R.BAD_UNION_INDEX,  # a third symbol
            head + tail[:3] + zigzag(2**60) + tail[4:]: R.LENGTH_OUT_OF_BOUNDS,  # items
            head + tail[:3] + zigzag(-(2**60)) + tail[4:]: R.LENGTH_OUT_OF_BOUNDS,
            head + tail[:3] + zigzag(100) + tail[4:]: R.TRUNCATED,
            head + tail[:3] + zigzag(-1) + zigzag(3) + tail[4:]: R.LENGTH_OUT_OF_BOUNDS,  # size
            whole[:-1]: R.TRUNCATED,
            whole + b"\x00": R.TRAILING_BYTES,
        }

        decoded = decode_under(schema, whole, *faults)

        assert [one.reason for one in decoded.rejected] == list(faults.values())
        assert decoded.index.tolist() == [0]

    def test_blocks_with_their_size_are_read(self):
        schema = with_fields({"name": "levels", "type": {"type": "array", "items": "long"}})
        plain = value_under(schema, PLAIN | {"levels": []})[:-1]
        blocks = zigzag(-2) + zigzag(2) + zigzag(1) * 2 + zigzag(1) + zigzag(9) + zigzag(0)

        assert rows(decode_under(schema, plain + blocks))[0][0] == "BTC-USD"


class TestIncompatible:
    @pytest.mark.parametrize(
        "schema",
        [
            without("magnitude"),
            without("asset_id"),
            changed("magnitude", type="string"),
            changed("magnitude", type=["null", "double"]),
            changed("timestamp_ns", type="double"),
            changed("asset_id", type="long"),
            changed("reference", type=["null", "string"]),
            load_schema("tick") | {"name": "Trade"},
            load_schema("event"),
        ],
    )
    def test_schemas_are_refused_whatever_the_data(self, schema):
        assert refusal(schema).reason == R.SCHEMA_INCOMPATIBLE

    @pytest.mark.parametrize("unit", ["timestamp-millis", "timestamp-micros"])
    def test_another_unit_of_time_is_not_taken_for_nanoseconds(self, unit):
        schema = changed("timestamp_ns", type={"type": "long", "logicalType": unit})

        assert "timestamp-nanos" in refusal(schema).detail

    def test_pairs_are_compared_by_structure(self):
        def pair(writer: Any, reader: Any) -> list[str]:
            return incompatibilities(*(lint(record_of(kind)) for kind in (writer, reader)))

        enum = {"type": "enum", "name": "E", "symbols": ["A", "B"]}
        fixed = {"type": "fixed", "name": "F", "size": 4}

        def array(items: Any) -> Any:
            return {"type": "array", "items": items}

        def mapping(values: Any) -> Any:
            return {"type": "map", "values": values}

        assert pair(enum, enum) == []
        assert pair(enum | {"symbols": ["A", "B", "C"]}, enum)
        assert pair(enum | {"symbols": ["A", "B", "C"]}, enum | {"default": "A"}) == []
        assert pair(enum, enum | {"name": "Other"})
        assert pair(enum, enum | {"name": "Other", "aliases": ["E"]}) == []
        assert pair(fixed, fixed | {"size": 8})
        assert pair(array("int"), array("double")) == []
        assert pair(array("string"), array("double"))
        assert pair(mapping("int"), mapping("long")) == []
        assert pair(mapping("long"), mapping("int"))
        assert pair("int", ["null", "double"]) == []
        assert pair(["null", "int"], ["null", "double"]) == []
        assert pair(["null", "int", "string"], ["null", "double"])


def record_of(kind: Any) -> str:
    fields = [{"name": "x", "type": kind}]
    return json.dumps({"type": "record", "name": "Tick", "fields": fields})


def nested_records(depth: int) -> str:
    kind: Any = "double"
    for level in range(depth):
        fields = [{"name": "x", "type": kind}]
        kind = {"type": "record", "name": f"R{level}", "fields": fields}
    return record_of(kind)


def doubling_records(levels: int) -> str:
    """Each record holds the one before twice: a few lines that stand for 2^levels types."""
    fields: list[Any] = [{"name": "start", "type": {"type": "record", "name": "R0", "fields": []}}]
    for level in range(1, levels):
        twice = [{"name": name, "type": f"R{level - 1}"} for name in "ab"]
        kind = {"type": "record", "name": f"R{level}", "fields": twice}
        fields.append({"name": f"f{level}", "type": kind})
    return json.dumps({"type": "record", "name": "Tick", "fields": fields})


def array_of(items: Any) -> str:
    return record_of({"type": "array", "items": items})


EMPTY_RECORD = {"type": "record", "name": "Empty", "fields": []}

HOSTILE = {
    "not JSON": "{",
    "nothing": "",
    "10,000 levels of JSON": "[" * 10_000 + "]" * 10_000,
    "200 levels of JSON": '{"type": "record", "name": "T", "doc": ' + "[" * 200 + "]" * 200 + "}",
    "a primitive": '"string"',
    "a union of records": "[" + schema_text("tick") + "]",
    "an enum": '{"type": "enum", "name": "Tick", "symbols": ["A"]}',
    "no fields": '{"type": "record", "name": "Tick"}',
    "no name": '{"type": "record", "fields": []}',
    "fields that are no list": '{"type": "record", "name": "Tick", "fields": 3}',
    "a field that is no object": '{"type": "record", "name": "Tick", "fields": [3]}',
    "a type that is a number": record_of(3),
    "a type that does not exist": record_of("strong"),
    "a field twice": json.dumps(with_fields({"name": "magnitude", "type": "double"})),
    "more than 64 KiB": json.dumps(load_schema("tick") | {"doc": "x" * 70_000}),
    "a record that contains itself": record_of("Tick"),
    "a record that contains itself in a union": record_of(["null", "Tick"]),
    "a record that contains itself in an array": array_of("Tick"),
    "two records that contain each other": record_of(
        {
            "type": "record",
            "name": "A",
            "fields": [
                {
                    "name": "b",
                    "type": {
                        "type": "record",
                        "name": "B",
                        "fields": [{"name": "a", "type": ["null", "A"]}],
                    },
                }
            ],
        }
    ),
    "an array of null": array_of("null"),
    "a map of null": record_of({"type": "map", "values": "null"}),
    "an array of empty records": array_of(EMPTY_RECORD),
    "an array of records of null": array_of(
        {"type": "record", "name": "N", "fields": [{"name": "n", "type": "null"}]}
    ),
    "an array of fixed of no bytes": array_of({"type": "fixed", "name": "F", "size": 0}),
    "a fixed of a gigabyte": record_of({"type": "fixed", "name": "F", "size": 2**30}),
    "a fixed of negative size": record_of({"type": "fixed", "name": "F", "size": -1}),
    "a fixed whose size is a string": record_of({"type": "fixed", "name": "F", "size": "4"}),
    "33 levels of records": nested_records(33),
    "40 levels of arrays": record_of(
        json.loads('{"type": "array", "items": ' * 40 + '"int"' + "}" * 40)
    ),
    "records that double 30 times": doubling_records(30),
    "a union in a union": record_of(["null", ["int", "string"]]),
    "a wrapped type": record_of({"type": {"type": "string"}}),
    "the parser's own marker": json.dumps(
        load_schema("tick") | {"__fastavro_parsed": True, "__named_schemas": {}}
    ),
    "a default of another type": json.dumps(
        with_fields({"name": "n", "type": "int", "default": {}})
    ),
}


ODD = st.sampled_from(
    [None, True, 0, -1, 2.5, "", "null", "record", "Tick", "enum", "x.y", [], {}, ["null"], [[]]]
)


@st.composite
def mutations(draw: Any, node: Any) -> Any:
    """The same JSON with something odd in up to three places."""
    node = copy.deepcopy(node)
    for _ in range(draw(st.integers(1, 3))):
        place: Any = node
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and draw(st.booleans()):
                place = place[key]
                continue
            place[key] = copy.deepcopy(draw(ODD))
            break
    return node


class TestHostile:
    @pytest.mark.parametrize("name", HOSTILE)
    def test_schemas_are_refused_before_they_are_used(self, name):
        started = time.perf_counter()

        assert refusal(HOSTILE[name]).reason == R.SCHEMA_REJECTED

        assert time.perf_counter() - started < 30

    def test_a_schema_at_the_bounds_passes(self):
        assert lint(nested_records(30))
        assert lint(doubling_records(8))

    def test_the_lint_raises_what_it_found(self):
        with pytest.raises(Malformed, match="contains itself"):
            lint(record_of("Tick"))

    @examples
    @given(st.data())
    def test_damaged_schemas_are_accepted_or_refused_and_never_more(self, data):
        damaged = data.draw(mutations(load_schema("tick")))
        text = json.dumps(damaged)
        values = [
            FRAME + data.draw(st.binary(max_size=40)),
            value_under(load_schema("tick"), PLAIN),
        ]
        decoder = TickDecoder()

        fault = decoder.add_writer(SCHEMA_ID, text)
        decoded = decoder.decode(values, [None, None])

        assert len(decoded) + len(decoded.rejected) == 2
        if fault is not None:
            assert fault.reason in (R.SCHEMA_REJECTED, R.SCHEMA_INCOMPATIBLE)
            assert [one.reason for one in decoded.rejected] == [fault.reason] * 2

    def test_many_items_in_few_bytes_are_refused_quickly(self):
        schema = with_fields({"name": "levels", "type": {"type": "array", "items": "long"}})
        hostile = value_under(schema, PLAIN | {"levels": []})[:-1] + zigzag(10**9)

        started = time.perf_counter()
        decoded = decode_under(schema, *[hostile] * 100, max_string_bytes=2**62)

        assert {one.reason for one in decoded.rejected} == {R.TRUNCATED}
        assert time.perf_counter() - started < 30

    def test_every_byte_flipped_under_a_foreign_schema_is_survived(self):
        schema = with_fields(
            {"name": "levels", "type": {"type": "array", "items": ["null", "string"]}},
            {"name": "tags", "type": {"type": "map", "values": "bytes"}},
        )
        whole = value_under(
            schema,
            PLAIN | {"levels": ["a", None], "tags": {"k": b"v"}, "timestamp_ns": START_NS},
        )
        values = [
            whole[:byte] + bytes([whole[byte] ^ mask]) + whole[byte + 1 :]
            for byte in range(len(FRAME), len(whole))
            for mask in (1, 2, 0x40, 0x80, 0xFF)
        ]

        decoded = decode_under(schema, *values)

        assert len(decoded) + len(decoded.rejected) == len(values)
        assert not any("resolution failed" in one.detail for one in decoded.rejected)
