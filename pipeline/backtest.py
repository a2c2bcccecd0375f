"""A backtest: the numerical core over recorded series, judged against persistence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.ticks import TickBatch
from predictor import FunctionalPredictor, Observation, PredictorConfig

Floats = np.ndarray[Any, np.dtype[np.float64]]
Integers = np.ndarray[Any, np.dtype[np.int64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]

LONGEST_WARM_UP = 200
CELLS_PER_SCAN = 65_536
"""Ticks per call of the scan: bounds the memory of its results to some 50 MB."""
TILES_PER_GROUP = 16
MISS_PENALTY = 2.0 / 0.05
"""Winkler's price of a value outside a 95 % interval, per unit of distance."""
NORMAL_95 = 1.959963984540054


class Series(NamedTuple):
    """One asset: magnitudes in its own unit and event times, in the order of time."""

    asset: str
    magnitudes: Floats
    timestamps_ns: Integers


class Forecasts(NamedTuple):
    """What was said after each answered tick about the next one; all arrays `[n]`.

    - `unanswered`: ticks that the order gate refused; they are in none of the arrays.
    """

    asset: str
    timestamps_ns: Integers
    magnitudes: Floats
    forecast: Floats
    lower: Floats
    upper: Floats
    alarm: Flags
    unanswered: int


class Score(NamedTuple):
    """How good the forecasts of one asset were, next to persistence (the last value).

    Ratios are NaN where persistence made no error or nothing was scored.

    - `rmse`, `mean_width`: in the unit of the series.
    - `skill`: one less the mean squared error over that of persistence, which has none; a forecast
      that is never wrong has 1.
    - `winkler_ratio`: interval score over that of the last value ± 1.96 root mean squared past
      steps.
    - `alarms_per_1000`: regime alarms per 1,000 scored ticks.
    """

    asset: str
    ticks: int
    scored: int
    rmse: float
    skill: float
    rmse_ratio: float
    mae_ratio: float
    coverage: float
    mean_width: float
    winkler_ratio: float
    alarms_per_1000: float


def collect(batches: Iterable[TickBatch]) -> list[Series]:
    """Series by asset, each sorted by time, in the order of first appearance."""
    numbers: dict[str, int] = {}
    indices, values, times = [], [], []
    for batch in batches:
        indices.append(np.array([numbers.setdefault(a, len(numbers)) for a in batch.asset_ids]))
        values.append(batch.magnitudes)
        times.append(batch.timestamps_ns)
    if not numbers:
        return []
    index, value, stamp = map(np.concatenate, (indices, values, times))
    order = np.lexsort((stamp, index))  # stable: ticks of one time keep their order
    bounds = np.searchsorted(index[order], np.arange(len(numbers) + 1))
    return [
        Series(asset, value[order[first:last]], stamp[order[first:last]])
        for asset, first, last in zip(numbers, bounds[:-1], bounds[1:], strict=True)
    ]


def run(
    config: PredictorConfig, series: Sequence[Series], progress: Callable[[int], None]
) -> list[Forecasts]:
    """Forecasts of every series, in the order given.

    Series of like length share a scan, since the shorter ones of a scan wait for the longest.

    **Arguments:**

    - `progress`: called with the count of ticks done since the last call.
    """
    predictor = FunctionalPredictor(config)
    by_length = sorted(range(len(series)), key=lambda number: -len(series[number].magnitudes))
    size = config.tile * TILES_PER_GROUP
    done: dict[int, Forecasts] = {}
    for first in range(0, len(by_length), size):
        group = by_length[first : first + size]
        forecasts = _scan(predictor, [series[number] for number in group], progress)
        done.update(zip(group, forecasts, strict=True))
    return [done[number] for number in range(len(series))]


def _scan(
    predictor: FunctionalPredictor, group: list[Series], progress: Callable[[int], None]
) -> list[Forecasts]:
    lengths = np.array([len(each.magnitudes) for each in group])
    rows, lanes = int(lengths.max()), len(group)
    magnitude = np.zeros((rows, lanes))
    stamps = np.zeros((rows, lanes), np.int64)
    for lane, each in enumerate(group):
        magnitude[: lengths[lane], lane] = each.magnitudes
        stamps[: lengths[lane], lane] = each.timestamps_ns
    present = np.arange(rows)[:, None] < lengths
    said = np.empty((3, rows, lanes))
    alarm = np.zeros((rows, lanes), bool)
    answered = np.zeros((rows, lanes), bool)
    states = predictor.init_states(lanes, [each.asset for each in group])
    step = max(16, CELLS_PER_SCAN // lanes)
    for first in range(0, rows, step):
        part = slice(first, min(first + step, rows))
        ticks = Observation(magnitude[part], stamps[part], present=present[part])
        states, result = predictor.scan_batch(states, ticks)
        said[0, part] = result.reference_prediction
        said[1, part] = result.confidence_lower
        said[2, part] = result.confidence_upper
        alarm[part] = result.regime_change_detected
        answered[part] = result.answered
        progress(int(present[part].sum()))
    return [
        _forecasts(each, lane, said, alarm, answered & present) for lane, each in enumerate(group)
    ]


def _forecasts(series: Series, lane: int, said: Floats, alarm: Flags, answered: Flags) -> Forecasts:
    kept = np.flatnonzero(answered[:, lane])
    forecast, lower, upper = said[:, kept, lane]
    return Forecasts(
        series.asset,
        series.timestamps_ns[kept],
        series.magnitudes[kept],
        forecast,
        lower,
        upper,
        alarm[kept, lane],
        len(series.magnitudes) - len(kept),
    )


def score(forecasts: Forecasts) -> Score:
    """Compare each forecast with the tick that followed, after `min(200, n/4)` ticks."""
    count = len(forecasts.magnitudes)
    warm_up = min(LONGEST_WARM_UP, count // 4)
    scored = slice(warm_up, max(count - 1, warm_up))
    actual = forecasts.magnitudes[warm_up + 1 :]
    steps = np.diff(forecasts.magnitudes)
    # What persistence could know of its own errors when it spoke: the steps up to then.
    squares = np.concatenate([[0.0], np.cumsum(steps**2) / np.arange(1, len(steps) + 1)])
    spread = NORMAL_95 * np.sqrt(squares[scored])
    with np.errstate(invalid="ignore"):  # a forecast that is not finite makes the scores NaN
        return _compared(forecasts, scored, actual, spread)


def _compared(forecasts: Forecasts, scored: slice, actual: Floats, spread: Floats) -> Score:
    last, mean = forecasts.magnitudes[scored], forecasts.forecast[scored]
    lower, upper = forecasts.lower[scored], forecasts.upper[scored]
    error, step = actual - mean, actual - last
    ratio = _ratio(_root_mean_square(error), _root_mean_square(step))
    return Score(
        forecasts.asset,
        len(forecasts.magnitudes),
        len(actual),
        _root_mean_square(error),
        1.0 - ratio**2,
        ratio,
        _ratio(_mean(np.abs(error)), _mean(np.abs(step))),
        _mean((lower <= actual) & (actual <= upper)),
        _mean(upper - lower),
        _ratio(
            _mean(_winkler(actual, lower, upper)),
            _mean(_winkler(actual, last - spread, last + spread)),
        ),
        1000.0 * _mean(forecasts.alarm[scored.start + 1 :]),
    )


def _winkler(actual: Floats, lower: Floats, upper: Floats) -> Floats:
    missed = np.maximum(lower - actual, 0.0) + np.maximum(actual - upper, 0.0)
    return np.asarray(upper - lower + MISS_PENALTY * missed)


def _mean(values: np.ndarray[Any, Any]) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _root_mean_square(values: Floats) -> float:
    return math.sqrt(_mean(values**2)) if len(values) else math.nan


def _ratio(value: float, baseline: float) -> float:
    return value / baseline if baseline > 0.0 else math.nan


def overall(scores: Sequence[Score]) -> dict[str, float]:
    """All assets together: ratios as geometric means, shares as means over scored ticks.

    Assets count alike in the ratios, whatever their units; those without a ratio are left out.
    """
    weights = np.array([score.scored for score in scores], float)

    def pooled(name: str) -> float:
        values = np.array([getattr(score, name) for score in scores])
        known = np.isfinite(values) & (weights > 0)
        return float(np.average(values[known], weights=weights[known])) if known.any() else math.nan

    def geometric(name: str) -> float:
        values = np.array([getattr(score, name) for score in scores])
        known = np.isfinite(values) & (values > 0)
        return float(np.exp(np.mean(np.log(values[known])))) if known.any() else math.nan

    ratio = geometric("rmse_ratio")
    return {
        "assets": len(scores),
        "ticks": sum(score.ticks for score in scores),
        "scored": int(weights.sum()),
        "skill": 1.0 - ratio**2,
        "rmse_ratio": ratio,
        "mae_ratio": geometric("mae_ratio"),
        "coverage": pooled("coverage"),
        "winkler_ratio": geometric("winkler_ratio"),
        "alarms_per_1000": pooled("alarms_per_1000"),
    }
