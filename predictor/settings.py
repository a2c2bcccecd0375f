"""How one configuration field is declared: type, unit, range, kind and search range, once.

Validation, documentation, the JSON schema, hashes and search spaces are all derived from
these declarations; no second list of names exists anywhere.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
from msgspec import Meta


class Kind(StrEnum):
    """What a change of the field costs while a worker runs."""

    TUNABLE = "tunable"  # a traced scalar: a change recompiles nothing
    STRUCTURAL = "structural"  # fixes a shape or a branch: needs a new compilation
    LOCKED = "locked"  # never changed by a tuner or at run time
    OPERATIONAL = "operational"  # cannot change a forecast


class Field(NamedTuple):
    """One declared field of the configuration tree."""

    path: tuple[str, ...]
    type: Any
    default: Any
    kind: Kind
    unit: str
    description: str
    search: tuple[float, float] | None


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every configuration table: immutable, hashable, and closed to unknown keys."""


def _meta(
    kind: Kind,
    description: str,
    unit: str,
    search: tuple[float, float] | None,
    bounds: dict[str, Any],
) -> Meta:
    extra = {"kind": kind.value, "unit": unit, "search": search}
    return Meta(description=description, extra=extra, **bounds)


def tunable(
    description: str, unit: str = "", search: tuple[float, float] | None = None, **bounds: Any
) -> Meta:
    """Declare a number that may change while the worker runs (`bounds`: `ge`, `gt`, `le`, `lt`)."""
    return _meta(Kind.TUNABLE, description, unit, search, bounds)


def structural(description: str, unit: str = "", **bounds: Any) -> Meta:
    """Declare a field that fixes a shape or a branch of the compiled step."""
    return _meta(Kind.STRUCTURAL, description, unit, None, bounds)


def locked(description: str, unit: str = "", **bounds: Any) -> Meta:
    """Declare a field that no tuner and no running worker may change."""
    return _meta(Kind.LOCKED, description, unit, None, bounds)


def operational(description: str, unit: str = "", **bounds: Any) -> Meta:
    """Declare a field that can change no forecast (addresses, intervals, limits)."""
    return _meta(Kind.OPERATIONAL, description, unit, None, bounds)


def declared_fields(section: type[Section], prefix: tuple[str, ...] = ()) -> Iterator[Field]:
    """Every leaf field below `section`, depth first, in the order of declaration."""
    hints = typing.get_type_hints(section, include_extras=True)
    for info in msgspec.structs.fields(section):
        path = (*prefix, info.name)
        hint = hints[info.name]
        base = typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint
        if isinstance(base, type) and issubclass(base, Section):
            yield from declared_fields(base, path)
            continue
        meta = next((m for m in typing.get_args(hint)[1:] if isinstance(m, Meta)), None)
        if meta is None or meta.extra is None:
            raise TypeError(f"field {'.'.join(path)} is declared without its kind and description")
        default = info.default
        if default is msgspec.NODEFAULT and info.default_factory is not msgspec.NODEFAULT:
            default = info.default_factory()
        yield Field(
            path,
            base,
            default,
            Kind(meta.extra["kind"]),
            meta.extra["unit"],
            meta.description or "",
            meta.extra["search"],
        )


def value_at(section: Section, path: tuple[str, ...]) -> Any:
    """The value of the field at `path`."""
    value: Any = section
    for name in path:
        value = getattr(value, name)
    return value


def replace_at(section: Any, path: tuple[str, ...], value: Any) -> Any:
    """A copy of the tree with one field replaced; the new value is not validated."""
    head, *rest = path
    inner = replace_at(getattr(section, head), tuple(rest), value) if rest else value
    return msgspec.structs.replace(section, **{head: inner})
