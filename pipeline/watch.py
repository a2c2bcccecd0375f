"""What the predictions topic says, per asset: the latest forecast and how good they were so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

Record = Mapping[str, Any]
Key = tuple[int, str]
"""Partition and asset: states belong to both."""

Order = Literal["asset", "latest", "worst", "busiest"]

UNSCORED_TICKS = 20
"""Forecasts before this sequence number come from a predictor that hardly knows the series."""

FLAGS = (
    ("emergency_mode", "emergency"),
    ("outlier_rejected", "outlier"),
    ("cusum_alarm", "cusum"),
    ("shift_alarm", "shift"),
    ("mode_collapse_warning", "collapse"),
    ("degraded_inference_mode", "degraded"),
)
"""Field of the record and the word for it."""


def flags(record: Record) -> list[str]:
    """Words for the flags that are set."""
    return [word for name, word in FLAGS if record[name]]


@dataclass
class AssetScore:
    """Forecasts of one asset, each compared with the value that followed.

    `squared_error` and `squared_step` are sums over the `scored` forecasts, in squared units of
    the series; `inside` counts values inside their interval.
    """

    latest: Record
    answered: int = 1
    scored: int = 0
    squared_error: float = 0.0
    squared_step: float = 0.0
    inside: int = 0
    alarms: int = 0

    def add(self, record: Record) -> None:
        """The next prediction of the asset."""
        said, value = self.latest, record["magnitude"]
        self.latest = record
        self.answered += 1
        self.alarms += bool(record["regime_change_detected"])
        usable = math.isfinite(value) and not record["outlier_rejected"]
        known = math.isfinite(said["magnitude"]) and not said["outlier_rejected"]
        if not (usable and known and said["sequence"] >= UNSCORED_TICKS):
            return
        self.scored += 1
        self.squared_error += (value - said["reference_prediction"]) ** 2
        self.squared_step += (value - said["magnitude"]) ** 2
        self.inside += said["confidence_lower"] <= value <= said["confidence_upper"]

    @property
    def ratio(self) -> float:
        """RMSE over that of persistence; NaN where nothing was scored or nothing moved."""
        if self.squared_step <= 0.0:
            return math.nan
        return math.sqrt(self.squared_error / self.squared_step)

    @property
    def coverage(self) -> float:
        """Share of values inside their interval; NaN where nothing was scored."""
        return self.inside / self.scored if self.scored else math.nan


class Row(NamedTuple):
    """One line of the table."""

    partition: int
    score: AssetScore


@dataclass
class Watch:
    """Folds predictions; knows nothing of Kafka or of terminals."""

    predictions: int = 0
    unreadable: int = 0
    assets: dict[Key, AssetScore] = field(default_factory=dict)

    def add(self, record: Record) -> AssetScore:
        """One prediction, in the order of its partition."""
        self.predictions += 1
        key = (record["source_partition"], record["asset_id"])
        score = self.assets.get(key)
        if score is None:
            score = AssetScore(record, alarms=bool(record["regime_change_detected"]))
            self.assets[key] = score
        else:
            score.add(record)
        return score

    def rows(self, order: Order, top: int) -> list[Row]:
        """The first `top` assets in an order; 0 is all of them."""
        key = _ORDERS[order]
        rows = [Row(partition, score) for (partition, _), score in self.assets.items()]
        rows.sort(key=lambda row: (key(row.score), row.score.latest["asset_id"], row.partition))
        return rows[:top] if top else rows

    @property
    def total(self) -> AssetScore | None:
        """Sums over all assets, each with its own scale taken out; None before the first.

        Squared errors are divided by the asset's mean squared step, so that no asset outweighs
        another by its unit.
        """
        scores = [score for score in self.assets.values() if score.squared_step > 0.0]
        if not scores:
            return None
        total = AssetScore(scores[0].latest, answered=self.predictions)
        for score in scores:
            total.scored += score.scored
            total.inside += score.inside
            total.squared_error += score.squared_error * score.scored / score.squared_step
            total.squared_step += score.scored
        return total


def _worst(score: AssetScore) -> float:
    return -score.ratio if math.isfinite(score.ratio) else math.inf


_ORDERS: dict[Order, Callable[[AssetScore], float]] = {
    "asset": lambda score: 0.0,
    "latest": lambda score: -score.latest["timestamp_ns"],
    "worst": _worst,
    "busiest": lambda score: -score.answered,
}


def time_text(timestamp_ns: int) -> str:
    """Event time to the millisecond, UTC, without a fraction that is zero."""
    text = str(np.datetime64(timestamp_ns, "ns").astype("datetime64[ms]")).replace("T", " ")
    return text.removesuffix(".000")


def summary(score: AssetScore) -> dict[str, Any]:
    """The latest prediction with the scores so far, as plain values."""
    return {**score.latest, "rmse_ratio": score.ratio, "coverage": score.coverage}


def line(score: AssetScore) -> str:
    """One prediction as one line."""
    said = score.latest
    parts = [
        time_text(said["timestamp_ns"]),
        said["asset_id"],
        f"value {said['magnitude']:.6g}",
        f"next {said['reference_prediction']:.6g}",
        f"[{said['confidence_lower']:.6g}, {said['confidence_upper']:.6g}]",
        said["operating_mode"],
    ]
    if score.scored:
        parts.append(f"rmse/persistence {score.ratio:.3f}")
        parts.append(f"coverage {score.coverage:.1%}")
    return "  ".join([*parts, *flags(said)])
