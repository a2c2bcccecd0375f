"""A strict reader that only looks: does this payload hold exactly one record of this schema?

The batch decoders accept bytes behind the record, and their errors do not say what was wrong.
The scanner walks the bytes once, copies nothing but the strings that it checks, and names the
first fault. What it accepts, a decoder can read without surprises.

Time and memory are bounded by the payload's length: `schemas.lint` refuses the schemas with which
a few bytes could stand for many items.
"""

from collections.abc import Callable
from typing import Any

from schemas.reasons import DeadLetterReason, Fault, Malformed

Walk = Callable[[bytes, int], int]
"""Reads one value at a position and returns the position behind it, or raises Malformed."""

_MAXIMUM_VARINT_BYTES = 10  # ceil(64 / 7)


class Scanner:
    """Checks payloads of one writer schema.

    **Arguments:**

    - `schema`: a parsed schema that passed `schemas.lint`.
    - `names`: the named types that it refers to, by full name.
    - `maximum_length`: the largest length, in bytes, that a string may declare; it bounds bytes
      and the item counts of array and map blocks as well. A declared length within it that runs
      over the end of the payload is `truncated`; beyond it, or negative, `length_out_of_bounds`.
    """

    def __init__(self, schema: Any, names: dict[str, Any], maximum_length: int) -> None:
        self._names = names
        self._maximum_length = maximum_length
        self._compiled: dict[str, Walk] = {}
        self._walk = self._compile(schema)

    def fault(self, payload: bytes) -> Fault | None:
        """The first fault of the payload (the bytes behind the header), or None."""
        try:
            end = self._walk(payload, 0)
        except Malformed as error:
            return error.fault
        if end != len(payload):
            surplus = len(payload) - end
            return Fault(DeadLetterReason.TRAILING_BYTES, f"{surplus} bytes after the record")
        return None

    def _compile(self, schema: Any) -> Walk:
        if isinstance(schema, list):
            return _union([self._compile(branch) for branch in schema])
        if isinstance(schema, str) and schema not in _PRIMITIVES:
            return self._compile_named(self._names[schema])
        kind = schema if isinstance(schema, str) else schema["type"]
        if kind in _PRIMITIVES:
            return _PRIMITIVES[kind](self._maximum_length)
        if kind == "array":
            return _blocks(self._compile(schema["items"]), self._maximum_length)
        if kind == "map":
            entry = _sequence([_text(self._maximum_length), self._compile(schema["values"])])
            return _blocks(entry, self._maximum_length)
        return self._compile_named(schema)

    def _compile_named(self, schema: dict[str, Any]) -> Walk:
        name = schema["name"]
        if name not in self._compiled:
            if schema["type"] == "enum":
                walk = _enum(len(schema["symbols"]))
            elif schema["type"] == "fixed":
                walk = _fixed(schema["size"])
            else:
                walk = _sequence([self._compile(field["type"]) for field in schema["fields"]])
            self._compiled[name] = walk
        return self._compiled[name]


def _truncated(wanted: int, data: bytes, position: int) -> Malformed:
    there = max(len(data) - position, 0)
    detail = f"{wanted} bytes wanted at byte {position}, {there} there"
    return Malformed(DeadLetterReason.TRUNCATED, detail)


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A zig-zag number of at most 64 bits and the position behind it."""
    try:
        byte = data[position]
        if byte < 0x80:
            return (byte >> 1) ^ -(byte & 1), position + 1
        start, shift, number = position, 7, byte & 0x7F
        while True:
            position += 1
            byte = data[position]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if position - start + 1 >= _MAXIMUM_VARINT_BYTES:
                raise _number_too_long(start)
    except IndexError:
        raise _truncated(1, data, position) from None
    if number >> 64:
        raise _number_too_long(start)
    return (number >> 1) ^ -(number & 1), position + 1


def _number_too_long(position: int) -> Malformed:
    detail = f"the number at byte {position} has more than 64 bits"
    return Malformed(DeadLetterReason.LENGTH_OUT_OF_BOUNDS, detail)


def _length(data: bytes, position: int, maximum: int) -> tuple[int, int]:
    """A declared length in bytes that the rest of the payload can hold."""
    length, behind = _varint(data, position)
    if not 0 <= length <= maximum:
        detail = f"length {length} at byte {position} is not between 0 and {maximum}"
        raise Malformed(DeadLetterReason.LENGTH_OUT_OF_BOUNDS, detail)
    if behind + length > len(data):
        raise _truncated(length, data, behind)
    return length, behind


def _null(_maximum: int) -> Walk:
    return lambda _data, position: position


def _number(bits: int) -> Callable[[int], Walk]:
    def walk(data: bytes, position: int) -> int:
        number, behind = _varint(data, position)
        if bits < 64 and not -(1 << (bits - 1)) <= number < 1 << (bits - 1):
            detail = f"the number at byte {position} has more than {bits} bits"
            raise Malformed(DeadLetterReason.LENGTH_OUT_OF_BOUNDS, detail)
        return behind

    return lambda _maximum: walk


def _fixed(size: int) -> Walk:
    def walk(data: bytes, position: int) -> int:
        if position + size > len(data):
            raise _truncated(size, data, position)
        return position + size

    return walk


def _boolean(_maximum: int) -> Walk:
    def walk(data: bytes, position: int) -> int:
        if position >= len(data):
            raise _truncated(1, data, position)
        if data[position] > 1:
            detail = f"the boolean at byte {position} is {data[position]}, neither 0 nor 1"
            raise Malformed(DeadLetterReason.LENGTH_OUT_OF_BOUNDS, detail)
        return position + 1

    return walk


def _opaque(maximum: int) -> Walk:
    def walk(data: bytes, position: int) -> int:
        length, position = _length(data, position, maximum)
        return position + length

    return walk


def _text(maximum: int) -> Walk:
    def walk(data: bytes, position: int) -> int:
        length, position = _length(data, position, maximum)
        end = position + length
        try:
            data[position:end].decode()
        except UnicodeDecodeError:
            detail = f"the string at byte {position} is not UTF-8"
            raise Malformed(DeadLetterReason.INVALID_UTF8, detail) from None
        return end

    return walk


def _enum(symbols: int) -> Walk:
    def walk(data: bytes, position: int) -> int:
        index, behind = _varint(data, position)
        if not 0 <= index < symbols:
            detail = f"symbol {index} at byte {position}, the enum has {symbols}"
            raise Malformed(DeadLetterReason.BAD_UNION_INDEX, detail)
        return behind

    return walk


def _union(branches: list[Walk]) -> Walk:
    def walk(data: bytes, position: int) -> int:
        index, behind = _varint(data, position)
        if not 0 <= index < len(branches):
            detail = f"branch {index} at byte {position}, the union has {len(branches)}"
            raise Malformed(DeadLetterReason.BAD_UNION_INDEX, detail)
        return branches[index](data, behind)

    return walk


def _sequence(parts: list[Walk]) -> Walk:
    def walk(data: bytes, position: int) -> int:
        for part in parts:
            position = part(data, position)
        return position

    return walk


def _blocks(item: Walk, maximum: int) -> Walk:
    """Array or map: blocks of a count and its items; a negative count is followed by a size.

    The declared size must be the real one, or a reader that skips by size would land elsewhere
    than one that reads.
    """

    def walk(data: bytes, position: int) -> int:
        while True:
            count, behind = _varint(data, position)
            declared_end = None
            if count < 0:
                size, behind = _length(data, behind, maximum)
                declared_end = behind + size
            if not 0 <= abs(count) <= maximum:
                detail = f"{abs(count)} items at byte {position}, at most {maximum} are allowed"
                raise Malformed(DeadLetterReason.LENGTH_OUT_OF_BOUNDS, detail)
            for _ in range(abs(count)):
                behind = item(data, behind)
            if declared_end is not None and behind != declared_end:
                detail = f"the block at byte {position} does not have its declared size"
                raise Malformed(DeadLetterReason.LENGTH_OUT_OF_BOUNDS, detail)
            position = behind
            if count == 0:
                return position

    return walk


_PRIMITIVES: dict[str, Callable[[int], Walk]] = {
    "null": _null,
    "boolean": _boolean,
    "int": _number(32),
    "long": _number(64),
    "float": lambda _maximum: _fixed(4),
    "double": lambda _maximum: _fixed(8),
    "bytes": _opaque,
    "string": _text,
}
