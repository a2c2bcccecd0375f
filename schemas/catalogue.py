"""The bundled schemas: one file per record under `schemas/avro`."""

import copy
import functools
import json
from importlib import resources
from typing import Any, Literal, get_args

import fastavro
from fastavro.schema import fingerprint as _fingerprint_of
from fastavro.schema import to_parsing_canonical_form

RecordName = Literal["tick", "prediction", "telemetry", "event"]
RECORD_NAMES: tuple[RecordName, ...] = get_args(RecordName)


@functools.cache
def schema_text(name: RecordName) -> str:
    """Text of the bundled schema, as it is registered. Raises KeyError for an unknown name."""
    if name not in RECORD_NAMES:
        raise KeyError(f"no schema named {name!r}; there are {', '.join(RECORD_NAMES)}")
    path = resources.files("schemas").joinpath("avro", f"{name}.avsc")
    return path.read_text(encoding="utf-8")


def load_schema(name: RecordName) -> dict[str, Any]:
    """The bundled schema as plain JSON data; a fresh copy that the caller may change."""
    schema: dict[str, Any] = json.loads(schema_text(name))
    return schema


@functools.cache
def fingerprint(name: RecordName) -> bytes:
    """The 8 bytes of the CRC-64-AVRO fingerprint, in the order of the single-object header."""
    return fingerprint_of(load_schema(name))


def fingerprint_of(schema: dict[str, Any]) -> bytes:
    """CRC-64-AVRO over the parsing canonical form of any valid schema: 8 bytes, wire order."""
    canonical = to_parsing_canonical_form(schema)
    return bytes.fromhex(_fingerprint_of(canonical, "CRC-64-AVRO"))


@functools.cache
def parsed_schema(name: RecordName) -> Any:
    """The bundled schema without logical types, parsed for fastavro; shared, do not change it."""
    return fastavro.parse_schema(without_logical_types(load_schema(name)))


@functools.cache
def plain_schema_text(name: RecordName) -> str:
    """Text of the bundled schema without logical types, for pyruhvro, which panics on some."""
    return json.dumps(without_logical_types(load_schema(name)))


def nondeterministic_fields(name: RecordName) -> frozenset[str]:
    """Fields whose values differ between two runs over the same ticks."""
    fields = load_schema(name)["fields"]
    return frozenset(field["name"] for field in fields if field.get("deterministic") is False)


def without_logical_types(schema: Any) -> Any:
    """A copy of the schema in which every value is read as its plain Avro type.

    Times stay whole numbers of their unit that way, instead of becoming calendar objects of a
    narrower range.
    """
    if isinstance(schema, list):
        return [without_logical_types(branch) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: copy.deepcopy(value) for key, value in schema.items() if key != "logicalType"}
    for key in ("type", "items", "values"):
        if key in plain:
            plain[key] = without_logical_types(plain[key])
    if isinstance(plain.get("fields"), list):
        plain["fields"] = [without_logical_types(field) for field in plain["fields"]]
    return plain
