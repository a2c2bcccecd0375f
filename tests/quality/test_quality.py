"""Forecast quality at a small size; `python -m tests.quality` prints the full one.

Limits stand at least five of their own standard errors above the value first measured.
"""

from __future__ import annotations

import numpy as np
import pytest

from predictor import PredictorConfig
from tests.predictor.streams import TILE
from tests.quality.processes import SCENARIOS
from tests.quality.scores import TEST_SIZE, Score, run

each_scenario = pytest.mark.parametrize("name", SCENARIOS)


@pytest.fixture(scope="session")
def scores() -> dict[str, Score]:
    # On the tile of the other tests of the core, whose program it shares in one run.
    return run(TEST_SIZE, config=PredictorConfig(tile=TILE))


@each_scenario
def test_error_is_close_to_that_of_the_best_forecast(scores, name):
    assert scores[name].over_best <= SCENARIOS[name].error_limit


@each_scenario
def test_error_never_exceeds_that_of_persistence_by_two_percent(scores, name):
    assert scores[name].over_persistence <= 1.02


LINEAR = (
    *("white-noise", "random-walk", "mean-reverting", "oscillating", "hidden-level"),
    *("moving-average", "fat-tailed", "long-memory"),
)
"""Processes whose best forecast is a linear function of the past."""


@pytest.mark.parametrize("name", LINEAR)
def test_error_on_linear_processes_is_within_two_percent_of_that_of_an_autoregression(scores, name):
    assert scores[name].over_autoregression <= 1.02


@each_scenario
def test_fusion_costs_no_more_than_one_percent_over_the_best_kernel_in_hindsight(scores, name):
    assert scores[name].over_best_kernel <= 1.01


@each_scenario
def test_interval_covers_as_often_as_it_says(scores, name):
    assert 0.94 <= scores[name].coverage <= SCENARIOS[name].coverage_limit


@each_scenario
def test_interval_is_close_to_the_exact_one(scores, name):
    assert scores[name].winkler_over_exact <= SCENARIOS[name].interval_limit


@each_scenario
def test_interval_is_hardly_wider_than_the_exact_one(scores, name):
    assert scores[name].width_over_exact <= SCENARIOS[name].width_limit


def test_typical_width_is_within_seven_percent_of_the_exact_one(scores):
    widths = [score.width_over_exact for score in scores.values()]

    assert np.exp(np.mean(np.log(widths))) <= 1.07


@pytest.mark.parametrize("name", ["white-noise", "mean-reverting", "fat-tailed", "moving-average"])
def test_stationary_series_raise_few_alarms(scores, name):
    assert scores[name].alarms_per_thousand <= 2.0


SIMPLE = (
    *("white-noise", "random-walk", "mean-reverting", "oscillating", "hidden-level"),
    *("moving-average", "fat-tailed", "threshold"),
)
"""Processes of a few parameters, which are learned within the unscored ticks."""


@pytest.mark.parametrize(("names", "limit"), [(SIMPLE, 1.010), (tuple(SCENARIOS), 1.020)])
def test_typical_error_is_close_to_that_of_the_best_forecast(scores, names, limit):
    ratios = [scores[name].over_best for name in names]

    assert np.exp(np.mean(np.log(ratios))) <= limit


def test_typical_error_at_the_start_is_within_forty_percent_of_the_best(scores):
    ratios = [score.start_over_best for score in scores.values()]

    assert np.exp(np.mean(np.log(ratios))) <= 1.40
