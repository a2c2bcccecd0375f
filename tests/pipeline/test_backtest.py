"""Backtests: alignment, scores against closed forms, the picture."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from pipeline.backtest import Forecasts, Series, collect, overall, run, score
from pipeline.backtest_plot import save
from pipeline.synthetic import PROCESSES
from pipeline.ticks import TickBatch
from predictor import FunctionalPredictor, Observation, PredictorConfig

SECOND = 10**9


def forecasts(values, forecast, half_width=1.0, alarm=None) -> Forecasts:
    values, forecast = np.asarray(values, float), np.asarray(forecast, float)
    return Forecasts(
        "a",
        np.arange(len(values)) * SECOND,
        values,
        forecast,
        forecast - half_width,
        forecast + half_width,
        np.zeros(len(values), bool) if alarm is None else np.asarray(alarm),
        0,
    )


def walk(n: int, seed: int = 1) -> np.ndarray:
    return PROCESSES["random_walk"].generate(np.random.default_rng(seed), n)


# -- collecting ------------------------------------------------------------------------------------


def test_ticks_are_gathered_by_asset_and_sorted_by_time():
    batches = [
        TickBatch(["b", "a"], np.array([1.0, 2.0]), np.array([30, 20])),
        TickBatch(["b", "b"], np.array([3.0, 4.0]), np.array([10, 30])),
    ]
    b, a = collect(batches)
    assert (b.asset, b.magnitudes.tolist(), b.timestamps_ns.tolist()) == (
        "b",
        [3.0, 1.0, 4.0],
        [10, 30, 30],
    )
    assert (a.asset, a.magnitudes.tolist()) == ("a", [2.0])


def test_nothing_gathered_is_no_series():
    assert collect([]) == []


# -- scores ----------------------------------------------------------------------------------------


def test_persistence_scores_one_against_itself():
    values = walk(1000)
    result = score(forecasts(values, values))
    assert result.rmse_ratio == pytest.approx(1.0)
    assert result.skill == pytest.approx(0.0)
    assert result.mae_ratio == pytest.approx(1.0)
    assert result.scored == 1000 - 200 - 1


def test_a_prophet_makes_no_error():
    values = walk(1000)
    result = score(forecasts(values, np.append(values[1:], 0.0), half_width=0.1))
    assert result.rmse == 0.0
    assert result.skill == 1.0
    assert result.coverage == 1.0
    assert result.mean_width == pytest.approx(0.2)


def test_the_constant_forecast_of_white_noise_gains_the_square_root_of_a_half():
    values = np.random.default_rng(3).standard_normal(40_000)
    result = score(forecasts(values, np.zeros(40_000), half_width=1.959964))
    assert result.rmse_ratio == pytest.approx(math.sqrt(0.5), abs=0.01)
    assert result.skill == pytest.approx(0.5, abs=0.01)
    assert result.coverage == pytest.approx(0.95, abs=0.005)
    assert result.winkler_ratio == pytest.approx(math.sqrt(0.5), abs=0.02)


def test_the_interval_score_of_persistence_is_its_own_unit():
    values = walk(20_000)
    result = score(forecasts(values, values, half_width=1.959964))
    assert result.winkler_ratio == pytest.approx(1.0, abs=0.01)


def test_a_miss_costs_forty_times_its_distance():
    values = np.array([0.0, 1.0, 0.0, 1.0, 0.0])
    plain = score(forecasts(values, np.zeros(5), half_width=1.0))
    missed = score(forecasts(values, np.zeros(5), half_width=0.5))
    # Scored are 0, 1, 0 after the first tick: widths 2 and 1, one miss by a half.
    assert plain.winkler_ratio / missed.winkler_ratio == pytest.approx(2.0 / (1.0 + 20.0 / 3.0))


def test_a_quarter_of_a_short_series_is_not_scored():
    assert score(forecasts(walk(40), walk(40))).scored == 40 - 10 - 1


@pytest.mark.parametrize("count", [0, 1, 2])
def test_series_without_a_second_tick_have_no_score(count):
    result = score(forecasts(walk(count) if count else [], walk(count) if count else []))
    assert result.ticks == count
    assert result.scored == max(count - 1, 0)


def test_a_constant_series_has_no_ratio():
    result = score(forecasts(np.ones(100), np.ones(100)))
    assert math.isnan(result.rmse_ratio)
    assert result.coverage == 1.0


def test_alarms_are_counted_per_thousand_scored_ticks():
    alarm = np.zeros(1000, bool)
    alarm[[100, 500, 600]] = True  # the first one falls into the warm-up
    result = score(forecasts(walk(1000), walk(1000), alarm=alarm))
    assert result.alarms_per_1000 == pytest.approx(2 * 1000 / 799)


def test_assets_count_alike_in_the_overall_ratio():
    values = walk(1000)
    good = score(forecasts(1e6 * values, 1e6 * (values + 0.5 * np.append(np.diff(values), 0.0))))
    same = score(forecasts(values, values))
    total = overall([good, same, score(forecasts(np.ones(9), np.ones(9)))])
    assert total["rmse_ratio"] == pytest.approx(math.sqrt(0.5))
    assert total["skill"] == pytest.approx(0.5)
    assert total["assets"] == 3


# -- running ---------------------------------------------------------------------------------------


def test_a_backtest_gives_the_librarys_own_forecasts_whatever_the_companions():
    config = PredictorConfig(tile=8)
    long, short = walk(150), walk(40, seed=2)
    stamps = np.arange(150) * SECOND

    told = []
    series = [Series("short", short, stamps[:40]), Series("long", long, stamps)]
    first, second = run(config, series, told.append)

    predictor = FunctionalPredictor(config)
    states = predictor.init_states(1, ["long"])
    _, result = predictor.scan_batch(states, Observation(long[:, None], stamps[:, None]))
    assert (first.asset, second.asset) == ("short", "long")
    assert len(first.magnitudes) == 40
    np.testing.assert_array_equal(second.forecast, np.asarray(result.reference_prediction)[:, 0])
    np.testing.assert_array_equal(second.lower, np.asarray(result.confidence_lower)[:, 0])
    assert sum(told) == 190


def test_exact_repetitions_are_left_out_and_counted():
    values, stamps = np.array([1.0, 2.0, 2.0, 3.0]), np.array([1, 2, 2, 3]) * SECOND
    (result,) = run(PredictorConfig(tile=8), [Series("a", values, stamps)], lambda count: None)
    assert result.magnitudes.tolist() == [1.0, 2.0, 3.0]
    assert result.unanswered == 1


# -- the picture -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_picture_is_written(tmp_path, count):
    said = [forecasts(walk(50, seed), walk(50, seed)) for seed in range(count)]
    save(tmp_path / "p.png", said, [score(each) for each in said], "walks")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_needs_nothing_from_outside_and_is_well_formed(tmp_path):
    said = [forecasts(walk(50), walk(50))]
    save(tmp_path / "p.html", said, [score(each) for each in said], "<walks> & more")
    page = (tmp_path / "p.html").read_text()
    svg = page[page.index("<svg") : page.index("</svg>") + 6]
    ElementTree.fromstring(svg)
    assert "&lt;walks&gt;" in page
    assert not re.search(r'(src|href)="(?!#)', page)


def test_the_same_backtest_gives_the_same_page(tmp_path):
    said = [forecasts(walk(50), walk(50))]
    for name in ("one.html", "two.html"):
        save(tmp_path / name, said, [score(each) for each in said], "walk")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any_ticks_still_give_a_picture(tmp_path, count):
    said = [forecasts(np.ones(count), np.ones(count))]
    save(tmp_path / "p.png", said, [score(each) for each in said], "few")


def test_values_that_are_not_finite_still_give_a_picture(tmp_path):
    said = [forecasts([1.0, 2.0, 3.0], [np.nan, np.inf, 1.0])]
    save(tmp_path / "p.png", said, [score(each) for each in said], "odd")
