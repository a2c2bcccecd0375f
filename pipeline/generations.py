"""Which parameters are in force at which offset of a partition."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from functools import cache

import msgspec

from pipeline.config import Config
from pipeline.ledger import Generation
from pipeline.snapshot import canonical_hash
from predictor.config import PredictorConfig, config_hash, structure
from predictor.settings import Kind, declared_fields, replace_at, value_at

_TUNABLE = {
    ".".join(field.path): field
    for field in declared_fields(PredictorConfig)
    if field.kind is Kind.TUNABLE
}

KEPT_GENERATIONS = 8
"""Generations that a control record lists at the least, so that a worker with an older file
is recognised as such."""


def tunable_values(config: PredictorConfig) -> dict[str, float]:
    """The tunable values by dotted path, as they are logged."""
    return {name: float(value_at(config, field.path)) for name, field in _TUNABLE.items()}


def structure_hash(config: Config) -> str:
    """Hash of everything that decides a forecast and cannot change while states live: the
    predictor's structure, and the size beyond which a tick is a dead letter."""
    return canonical_hash([structure(config.predictor), config.schemas.max_tick_bytes])


@cache
def _with_values(config: PredictorConfig, values: tuple[tuple[str, float], ...]) -> PredictorConfig:
    for name, value in values:
        field = _TUNABLE[name]
        config = replace_at(config, field.path, field.type(value))
    return msgspec.convert(msgspec.to_builtins(config), PredictorConfig)


class InForce(msgspec.Struct, frozen=True):
    """What a tick is stepped with, and what its prediction says about it."""

    config: PredictorConfig
    number: int
    config_hash: str


@cache
def _in_force(base: PredictorConfig, number: int, values: tuple[tuple[str, float], ...]) -> InForce:
    config = _with_values(base, values)
    return InForce(config, number, config_hash(config))


def in_force(base: PredictorConfig, generation: Generation) -> InForce:
    """The configuration of a generation: structure from `base`, tunables from the log."""
    return _in_force(base, generation.number, tuple(sorted(generation.values.items())))


class Timeline:
    """Parameters of one partition by offset."""

    def __init__(self, base: PredictorConfig, generations: Sequence[Generation]) -> None:
        self._starts = [generation.start for generation in generations]
        self._in_force = [in_force(base, generation) for generation in generations]

    def at(self, offset: int) -> InForce:
        """What holds for a tick at `offset`; before the first start, the first."""
        if len(self._in_force) == 1 or offset >= self._starts[-1]:
            return self._in_force[-1]
        return self._in_force[max(bisect.bisect_right(self._starts, offset) - 1, 0)]


def continued(
    generations: list[Generation], own: dict[str, float], committed: int
) -> tuple[list[Generation], str]:
    """The generations of a partition that a worker with tunables `own` takes over.

    Equal to the newest: nothing changes. Equal to an older one: the log's newest parameters
    are kept, since two files in one group must not flip a partition at every move. Otherwise
    a new generation begins at the committed offset.

    **Returns:** the generations and `"same"`, `"older"` or `"new"`.
    """
    newest = generations[-1]
    if newest.values == own:
        return generations, "same"
    if any(generation.values == own for generation in generations):
        return generations, "older"
    return [*generations, Generation(newest.number + 1, committed, own)], "new"


def pruned(generations: list[Generation], floor: int) -> list[Generation]:
    """Without those that hold nowhere above the floor, but never fewer than are kept."""
    needed = 0
    for index, generation in enumerate(generations):
        if generation.start <= floor:
            needed = index
    first = max(0, min(needed, len(generations) - KEPT_GENERATIONS))
    return generations[first:]
