"""What the predictions topic says about itself: accuracy per process, losses, repetitions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

UNSCORED_TICKS = 100
"""Forecasts of an asset that are not scored: it is still learning what it is."""

Source = tuple[int, int]
"""Partition and offset of an input record."""


@dataclass
class _Errors:
    forecast: float = 0.0
    persistence: float = 0.0
    inside: int = 0
    scored: int = 0

    def add(self, said: Mapping[str, Any], value: float) -> None:
        self.forecast += (value - said["reference_prediction"]) ** 2
        self.persistence += (value - said["magnitude"]) ** 2
        self.inside += said["confidence_lower"] <= value <= said["confidence_upper"]
        self.scored += 1


class Accuracy(NamedTuple):
    """`rmse_ratio`: RMSE of the forecasts over that of persistence; NaN where nothing was
    scored or persistence was perfect. `coverage`: share of values inside the interval."""

    group: str
    answered: int
    scored: int
    rmse_ratio: float
    coverage: float


class Verdict(NamedTuple):
    """Inputs without an answer, and answers beyond the first of an input."""

    lost: int
    duplicated: int
    answered: int


@dataclass
class Scoreboard:
    """Folds decoded predictions; `group_of` maps an asset to the row it counts for."""

    group_of: Callable[[str], str]
    _last: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _errors: dict[str, _Errors] = field(default_factory=dict)
    _answers: Counter[Source] = field(default_factory=Counter)
    _groups: Counter[str] = field(default_factory=Counter)

    def prediction(self, record: Mapping[str, Any]) -> None:
        """One prediction, in the order of its partition."""
        asset = record["asset_id"]
        group = self.group_of(asset)
        self.answer((record["source_partition"], record["source_offset"]))
        self._groups[group] += 1
        said = self._last.get(asset)
        value = record["magnitude"]
        usable = said is not None and math.isfinite(value) and not record["outlier_rejected"]
        if said is not None and usable and record["sequence"] > UNSCORED_TICKS:
            self._errors.setdefault(group, _Errors()).add(said, value)
        self._last[asset] = record

    def answer(self, source: Source) -> None:
        """An input was answered: by a prediction, a dead letter or an order event."""
        self._answers[source] += 1

    @property
    def answered(self) -> int:
        """Inputs with at least one answer."""
        return len(self._answers)

    def accuracies(self) -> list[Accuracy]:
        """One row per group, in alphabetical order."""
        rows = []
        for group in sorted(self._groups):
            errors = self._errors.get(group, _Errors())
            known = errors.scored > 0 and errors.persistence > 0.0
            rows.append(
                Accuracy(
                    group,
                    self._groups[group],
                    errors.scored,
                    math.sqrt(errors.forecast / errors.persistence) if known else math.nan,
                    errors.inside / errors.scored if errors.scored else math.nan,
                )
            )
        return rows

    def verdict(self, produced: Iterable[Source]) -> Verdict:
        """Compare with what was produced, offset by offset."""
        lost = sum(1 for source in produced if source not in self._answers)
        duplicated = sum(count - 1 for count in self._answers.values())
        return Verdict(lost, duplicated, len(self._answers))
