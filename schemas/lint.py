"""Which foreign schemas are safe to read with.

A schema comes from whoever may write to the registry, and a reader is a small machine that runs
it: a type that contains itself can exhaust the stack, an array of items without bytes turns a
count into memory, and records nested in records can stand for billions of steps. All of these are
refused before the schema meets a decoder, so that reading stays linear in the payload.
"""

import json
from dataclasses import dataclass
from typing import Any

import fastavro

from schemas.catalogue import without_logical_types
from schemas.reasons import DeadLetterReason, Malformed

MAXIMUM_TEXT_BYTES = 64 * 1024
MAXIMUM_DEPTH = 32
MAXIMUM_EXPANDED_TYPES = 4096
"""Types after every reference is replaced by what it names: the steps of an empty record."""
MAXIMUM_FIXED_BYTES = 1024 * 1024

# A record, its list of fields, a field, and the field's type: four levels of JSON for one of Avro.
_MAXIMUM_JSON_DEPTH = 4 * MAXIMUM_DEPTH

_LEAF_WIDTHS = {
    "null": 0,
    "boolean": 1,
    "int": 1,
    "long": 1,
    "float": 4,
    "double": 8,
    "bytes": 1,
    "string": 1,
}


@dataclass(frozen=True, slots=True)
class SafeSchema:
    """A schema that passed the lint.

    **Fields:**

    - `declared`: the JSON data as written, logical types included.
    - `plain`: the same without logical types, parsed for fastavro.
    - `names`: the named types within `plain`, by full name.
    """

    declared: dict[str, Any]
    plain: dict[str, Any]
    names: dict[str, Any]


def lint(text: str) -> SafeSchema:
    """Parse a schema, or raise `Malformed` with `schema_rejected` and the first objection.

    **Cost:** linear in the text, which is at most 64 KiB.
    """
    if len(text.encode(errors="surrogatepass")) > MAXIMUM_TEXT_BYTES:
        raise _rejected(f"the text is longer than {MAXIMUM_TEXT_BYTES} bytes")
    try:
        declared = json.loads(text)
    except (ValueError, RecursionError):
        raise _rejected("the text is not JSON, or is nested too deeply") from None
    _check_json(declared)
    if not isinstance(declared, dict) or declared.get("type") != "record":
        raise _rejected("the schema is not a record")
    names: dict[str, Any] = {}
    plain: Any
    try:
        plain = fastavro.parse_schema(without_logical_types(declared), names)
        _Expansion(names).measure(plain, depth=1)
        _check_fields(declared)
    except Malformed:
        raise
    except Exception as error:  # the parser's errors on odd input have no common class
        raise _rejected(f"the parser refuses it ({type(error).__name__})") from None
    return SafeSchema(declared, plain, names)


def _rejected(detail: str) -> Malformed:
    return Malformed(DeadLetterReason.SCHEMA_REJECTED, detail)


def _check_json(data: Any) -> None:
    """Bound the depth, with a stack of our own, and refuse the parser's private markers."""
    pending = [(data, 1)]
    while pending:
        node, depth = pending.pop()
        if depth > _MAXIMUM_JSON_DEPTH:
            raise _rejected(f"the JSON is nested deeper than {_MAXIMUM_JSON_DEPTH} levels")
        if isinstance(node, dict):
            if any(key.startswith("__") for key in node):
                raise _rejected("a key begins with two underscores")
            pending.extend((value, depth + 1) for value in node.values())
        elif isinstance(node, list):
            pending.extend((value, depth + 1) for value in node)


def _check_fields(record: dict[str, Any]) -> None:
    names = [field["name"] for field in record["fields"]]
    if len(set(names)) < len(names):
        raise _rejected("a record has two fields of one name")


@dataclass(frozen=True, slots=True)
class _Size:
    """Least number of bytes that a value of a type occupies, its types and levels, expanded."""

    width: int
    types: int
    depth: int


class _Expansion:
    """Measures types after expansion, each named type once; refuses what is out of bounds."""

    def __init__(self, names: dict[str, Any]) -> None:
        self._names = names
        self._measured: dict[str, _Size] = {}
        self._open: set[str] = set()

    def measure(self, schema: Any, depth: int) -> _Size:
        size = self._measure(schema, depth)
        if size.types > MAXIMUM_EXPANDED_TYPES:
            raise _rejected(f"it expands to more than {MAXIMUM_EXPANDED_TYPES} types")
        if depth + size.depth - 1 > MAXIMUM_DEPTH:
            raise _rejected(f"types are nested deeper than {MAXIMUM_DEPTH} levels")
        return size

    def _measure(self, schema: Any, depth: int) -> _Size:
        if depth > MAXIMUM_DEPTH:
            raise _rejected(f"types are nested deeper than {MAXIMUM_DEPTH} levels")
        if isinstance(schema, list):
            if any(isinstance(branch, list) for branch in schema):
                raise _rejected("a union lies directly within a union")
            return self._container([self.measure(branch, depth + 1) for branch in schema], 1)
        kind = schema if isinstance(schema, str) else schema.get("type")
        if not isinstance(kind, str):
            raise _rejected("a type is wrapped in another")
        if kind in _LEAF_WIDTHS:
            return _Size(_LEAF_WIDTHS[kind], 1, 1)
        if kind in ("array", "map"):
            item = self.measure(schema["items" if kind == "array" else "values"], depth + 1)
            if item.width == 0:
                raise _rejected(f"the items of {_article(kind)} occupy no bytes")
            return self._container([item], 1)
        if isinstance(schema, str):
            if schema in self._open:
                raise _rejected("a type contains itself")
            if schema in self._measured:
                return self._measured[schema]
            schema = self._names.get(schema)
            if not isinstance(schema, dict):
                raise _rejected("a type is used before it is defined")
        return self._named(schema, depth)

    def _named(self, schema: dict[str, Any], depth: int) -> _Size:
        name, kind = schema["name"], schema["type"]
        if name in self._open:
            raise _rejected("a type contains itself")
        self._open.add(name)
        if kind == "enum":
            size = _Size(1, 1, 1)
        elif kind == "fixed":
            if (
                not isinstance(schema["size"], int)
                or not 0 <= schema["size"] <= MAXIMUM_FIXED_BYTES
            ):
                raise _rejected(f"a fixed is not between 0 and {MAXIMUM_FIXED_BYTES} bytes")
            size = _Size(schema["size"], 1, 1)
        elif kind in ("record", "error"):
            _check_fields(schema)
            parts = [self.measure(field["type"], depth + 1) for field in schema["fields"]]
            size = self._container(parts, sum(part.width for part in parts))
        else:
            raise _rejected("a type is neither a primitive nor defined")
        self._open.remove(name)
        self._measured[name] = size
        return size

    @staticmethod
    def _container(parts: list[_Size], width: int) -> _Size:
        types = 1 + sum(part.types for part in parts)
        return _Size(width, types, 1 + max((part.depth for part in parts), default=0))


def _article(kind: str) -> str:
    return "an array" if kind == "array" else "a map"
