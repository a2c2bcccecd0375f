"""Forecast quality on processes whose best forecast is known in closed form.

Scenario names are permanent and tolerances belong to them: a change of the numerics that
breaks one is a loss of quality, not a new baseline. Each scenario is eight series of 1,500
ticks, the first 500 unscored. A ratio has a standard error of at most 0.002 over its lanes;
limits stand at least five of their own standard errors above the value first measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from predictor import FunctionalPredictor, Observation, PredictionResult, PredictorConfig

ROWS, LANES, SETTLED = 1500, 8, 500
START, SECOND = 1_700_000_000_000_000_000, 1_000_000_000

Array = np.ndarray
Process = Callable[[np.random.Generator], tuple[Array, Array]]


def white(random: np.random.Generator) -> tuple[Array, Array]:
    """Best forecast: the mean."""
    values = 3.0 + random.normal(size=(ROWS, LANES))
    return values, np.full_like(values, 3.0)


def walk(random: np.random.Generator) -> tuple[Array, Array]:
    """Best forecast: the last value."""
    values = 100.0 + np.cumsum(random.normal(size=(ROWS, LANES)), axis=0)
    return values, values


def mean_reverting(random: np.random.Generator) -> tuple[Array, Array]:
    """AR(1): φ times the last value."""
    values = np.zeros((ROWS, LANES))
    for row in range(1, ROWS):
        values[row] = 0.6 * values[row - 1] + random.normal(size=LANES)
    return values, 0.6 * values


def oscillating(random: np.random.Generator) -> tuple[Array, Array]:
    """AR(2) with complex roots."""
    values = np.zeros((ROWS, LANES))
    for row in range(2, ROWS):
        past = 1.4 * values[row - 1] - 0.8 * values[row - 2]
        values[row] = past + random.normal(size=LANES)
    best = 1.4 * values
    best[1:] -= 0.8 * values[:-1]
    return values, best


def hidden_level(random: np.random.Generator) -> tuple[Array, Array]:
    """Local level: the Kalman filter at its steady gain g, g² = q (1 - g)."""
    q = 0.05
    values = np.cumsum(np.sqrt(q) * random.normal(size=(ROWS, LANES)), axis=0)
    values += random.normal(size=(ROWS, LANES))
    gain = 0.5 * (np.sqrt(q * q + 4.0 * q) - q)
    best = np.zeros_like(values)
    best[0] = values[0]
    for row in range(1, ROWS):
        best[row] = best[row - 1] + gain * (values[row] - best[row - 1])
    return values, best


def moving_average(random: np.random.Generator) -> tuple[Array, Array]:
    """MA(1): θ times the last innovation."""
    noise = random.normal(size=(ROWS + 1, LANES))
    return noise[1:] + 0.7 * noise[:-1], 0.7 * noise[1:]


def fat_tailed(random: np.random.Generator) -> tuple[Array, Array]:
    """AR(1) with innovations of Student's t, five degrees of freedom."""
    noise = random.standard_t(5, size=(ROWS, LANES))
    values = np.zeros((ROWS, LANES))
    for row in range(1, ROWS):
        values[row] = 0.5 * values[row - 1] + noise[row]
    return values, 0.5 * values


def threshold(random: np.random.Generator) -> tuple[Array, Array]:
    """Two regimes by the sign of the last value."""
    values = np.zeros((ROWS, LANES))
    for row in range(1, ROWS):
        last = values[row - 1]
        slope = np.where(last > 0.0, -0.5, 0.8)
        values[row] = slope * last + random.normal(size=LANES)
    return values, np.where(values > 0.0, -0.5, 0.8) * values


@dataclass(frozen=True)
class Scenario:
    """A process and the RMSE over that of its best forecast that must be kept."""

    process: Process
    limit: float


SCENARIOS = {
    "white-noise": Scenario(white, 1.009),
    "random-walk": Scenario(walk, 1.001),
    "mean-reverting": Scenario(mean_reverting, 1.009),
    "oscillating": Scenario(oscillating, 1.020),
    "hidden-level": Scenario(hidden_level, 1.008),
    "moving-average": Scenario(moving_average, 1.019),
    "fat-tailed": Scenario(fat_tailed, 1.009),
    "threshold": Scenario(threshold, 1.015),
}

each_scenario = pytest.mark.parametrize("name", SCENARIOS)


@dataclass(frozen=True)
class Score:
    """Means over a scenario, after it has settled."""

    over_best: float
    over_persistence: float
    coverage: float
    alarms_per_thousand: float


def root_mean_square(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def scored(values: Array, best: Array, result: PredictionResult) -> Score:
    after = slice(SETTLED, None)
    target = values[1:][after]
    error = target - result.reference_prediction[:-1][after]
    inside = (result.confidence_lower[:-1][after] <= target) & (
        target <= result.confidence_upper[:-1][after]
    )
    return Score(
        over_best=root_mean_square(error) / root_mean_square(target - best[:-1][after]),
        over_persistence=root_mean_square(error) / root_mean_square(np.diff(values, axis=0)[after]),
        coverage=float(inside.mean()),
        alarms_per_thousand=1000.0 * float(result.regime_change_detected[after].mean()),
    )


@pytest.fixture(scope="session")
def scores() -> dict[str, Score]:
    predictor = FunctionalPredictor(PredictorConfig(tile=LANES))
    times = START + SECOND * np.arange(ROWS)[:, None] * np.ones(LANES, np.int64)
    out = {}
    for seed, (name, scenario) in enumerate(SCENARIOS.items()):
        values, best = scenario.process(np.random.default_rng(1000 + seed))
        _, result = predictor.scan_batch(predictor.init_states(LANES), Observation(values, times))
        out[name] = scored(values, best, result)
    return out


@each_scenario
def test_error_is_close_to_that_of_the_best_forecast(scores, name):
    assert scores[name].over_best <= SCENARIOS[name].limit


@each_scenario
def test_error_never_exceeds_that_of_persistence_by_two_percent(scores, name):
    assert scores[name].over_persistence <= 1.02


@each_scenario
def test_interval_covers_as_often_as_it_says(scores, name):
    assert 0.94 <= scores[name].coverage <= 0.96


@pytest.mark.parametrize("name", ["white-noise", "mean-reverting", "fat-tailed", "moving-average"])
def test_stationary_series_raise_few_alarms(scores, name):
    assert scores[name].alarms_per_thousand <= 2.0


def test_typical_error_is_within_one_percent_of_the_best(scores):
    ratios = [score.over_best for score in scores.values()]

    assert np.exp(np.mean(np.log(ratios))) <= 1.010
