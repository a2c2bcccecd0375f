"""Every gate, alone and through the step: order, domain, frozen, staleness, Nyquist."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor import (
    OperatingMode,
    PredictorConfig,
    anchors,
    evidence,
    fusion,
    monitors,
    regularity,
    shift,
)
from predictor import recursive_least_squares as rls
from predictor.config import Ingestion
from predictor.kernels.levy.levels import FilterState
from predictor.kernels.levy.run_length import RunLengthState
from predictor.kernels.markov.context_tree import TreeState
from predictor.kernels.markov.galerkin import GalerkinState
from predictor.kernels.markov.switching import SwitchingState
from predictor.periods import Profile
from predictor.types import Events
from tests.predictor import streams
from tests.predictor.streams import (
    SECOND,
    START,
    clock,
    judge,
    rows_where,
    run,
    ticks_with,
    words,
)

RELATIVE = PredictorConfig()
ABSOLUTE = PredictorConfig(ingestion=Ingestion(time_gates="absolute"))
OFF = PredictorConfig(ingestion=Ingestion(time_gates="off"))
MILLISECOND = SECOND // 1000


def noise(rows: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=rows)


def states_after(predictor, values, times=None):
    return words(predictor, run(predictor, values, times)[0])


# -- order --------------------------------------------------------------------------------


def test_late_tick_is_refused_and_changes_no_state(predictor):
    values, times = noise(61), clock(61)
    values[60], times[60] = 0.5, times[50]

    state, result = run(predictor, values, times)

    assert not result.answered[60, 0]
    assert np.isnan(result.reference_prediction[60, 0])
    assert result.events[60, 0] == Events.OUT_OF_ORDER
    assert np.array_equal(words(predictor, state), states_after(predictor, values[:60], times[:60]))


def test_duplicate_is_refused_and_equal_time_with_another_value_accepted(predictor):
    values = np.array([1.0, 1.0, 2.0, 2.0, 3.0])
    times = START + np.array([0, 0, 0, 1, 1])

    _, result = run(predictor, values, times)

    assert result.answered[:, 0].tolist() == [True, False, True, True, True]
    assert result.sequence[:, 0].tolist() == [1, 1, 2, 3, 4]
    assert rows_where(result.events[:, 0] & Events.OUT_OF_ORDER) == [1]


def test_duplicate_nan_is_refused(predictor):
    values = np.array([1.0, np.nan, np.nan, 1.5])
    times = START + np.array([0, 1, 1, 2])

    _, result = run(predictor, values, times)

    assert result.answered[:, 0].tolist() == [True, True, False, True]
    assert result.outlier_rejected[:, 0].tolist() == [False, True, False, False]


def test_rejected_tick_from_the_future_does_not_silence_the_asset(predictor):
    values, times = noise(60), clock(60)
    values[30], times[30] = np.nan, times[30] + 10**6 * SECOND

    _, result = run(predictor, values, times)

    assert result.answered.all()


def test_stream_with_duplicates_and_late_ticks_equals_the_clean_one(predictor):
    random = np.random.default_rng(3)
    values, times = noise(200, 3), clock(200)
    order = []
    for row in range(200):
        order.append(row)
        if random.random() < 0.1:
            order.append(row)
        if row > 20 and random.random() < 0.05:
            order.append(row - 7)

    state, result = run(predictor, values[order], times[order])

    clean_state, clean = run(predictor, values, times)
    assert np.array_equal(words(predictor, state), words(predictor, clean_state))
    answered = result.answered[:, 0]
    assert np.array_equal(result.reference_prediction[answered], clean.reference_prediction)
    assert len(ticks_with(result, Events.OUT_OF_ORDER)) == len(order) - 200


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 2)), min_size=1, max_size=30))
def test_accepted_times_never_run_backwards(ticks):
    times, values = np.array([t for t, _ in ticks]), np.array([float(v) for _, v in ticks])
    padded = np.concatenate([times, np.full(30 - times.size, -1)])
    steady = np.concatenate([values, np.zeros(30 - values.size)])

    verdict = judge(RELATIVE, steady, padded).verdict

    answered = ~verdict.refused[: times.size]
    assert np.all(np.diff(times[answered]) >= 0)


# -- domain -------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e308, -1e308, 1e150, 25.0, -25.0])
def test_unbelievable_value_is_rejected_flagged_and_not_learned(predictor, value):
    values = noise(100)
    values[60] = value

    state, result = run(predictor, values)

    assert rows_where(result.outlier_rejected[:, 0]) == [60]
    assert ticks_with(result, Events.OUTLIER_REJECTED) == [60]
    assert result.operating_mode[60, 0] == OperatingMode.DIAGNOSTIC
    assert result.sequence[60, 0] == result.sequence[59, 0]
    assert result.location[60, 0] == result.location[59, 0]
    assert np.array_equal(result.kernel_sigma[60], result.kernel_sigma[59])
    assert np.isfinite(result.reference_prediction).all()
    assert float(state.window[0, 39]) == result.reference_prediction[59, 0]


LEARNED = (
    *(anchors.Anchor, evidence.Evidence, fusion.FusionState, monitors.MonitorState),
    *(regularity.RegularityState, rls.Regression, shift.ShiftState),
    *(FilterState, GalerkinState, Profile, RunLengthState),
)
"""What learns from a tick; beside them a state holds features, windows and counters only."""


def learned_in(state) -> list:
    """Every part of a state that learns, in order."""
    parts = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, LEARNED))
    found = [part for part in parts if isinstance(part, LEARNED)]
    trees = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, TreeState))
    found += [(t.moments, t.losses, t.error) for t in trees if isinstance(t, TreeState)]
    chains = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, SwitchingState))
    found += [part._replace(level=0.0) for part in chains if isinstance(part, SwitchingState)]
    return found


@pytest.mark.parametrize("value", [np.nan, 25.0, 1e6])
def test_rejected_tick_teaches_nothing_to_any_part_of_the_state(predictor, value):
    values = noise(151)
    values[150] = value

    before, _ = run(predictor, values[:150])
    after, result = run(predictor, values)

    assert result.outlier_rejected[150, 0]
    first, second = learned_in(before), learned_in(after)
    assert len(first) > 30
    for known, kept in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert np.array_equal(known, kept, equal_nan=True)


def test_forecasts_after_an_outlier_are_those_of_the_clean_series(predictor):
    clean = streams.autoregression(np.random.default_rng(9), [0.6], 300, 8)
    spoilt = clean.copy()
    spoilt[200] = 40.0

    _, expected = run(predictor, clean)
    _, result = run(predictor, spoilt)

    assert result.outlier_rejected[200].all()
    distance = np.abs(result.reference_prediction - expected.reference_prediction)
    # One tick was not learned, and its forecast stands in its place for a while.
    assert np.median(distance[202:]) < 0.02
    errors = (clean[1:] - result.reference_prediction[:-1])[202:]
    usual = (clean[1:] - expected.reference_prediction[:-1])[202:]
    assert streams.root_mean_square(errors) < 1.01 * streams.root_mean_square(usual)


def test_no_tick_is_an_outlier_before_the_warm_up(predictor):
    values = noise(40)
    values[10] = 1e6

    _, result = run(predictor, values)

    assert not result.outlier_rejected.any()


def test_distances_below_the_bound_are_accepted(predictor):
    values = noise(200)
    values[150] = 0.9 * 20.0 * values[:150].std()

    _, result = run(predictor, values)

    assert not result.outlier_rejected.any()


def test_level_shift_is_readmitted_after_one_rejected_tick_and_rebases(predictor):
    values = noise(400, 2)
    values[200:] += 60.0

    _, result = run(predictor, values)

    assert rows_where(result.outlier_rejected[:, 0]) == [200]
    assert ticks_with(result, Events.REBASED) == [201]
    # The location is that of the new level at once, and forecasts are as good as before.
    assert abs(result.location[201, 0] - 60.0) < 4.0
    error = values[203:] - result.reference_prediction[202:-1, 0]
    assert np.sqrt(np.mean(error**2)) < 1.2


def test_rebase_leaves_the_window_without_the_jump(predictor):
    values = noise(260, 2)
    values[200:] += 60.0

    state, _ = run(predictor, values)

    assert np.max(np.abs(np.diff(np.asarray(state.window[0])))) < 10.0


def test_isolated_outlier_does_not_rebase(predictor):
    values = noise(120)
    values[60] = 60.0

    _, result = run(predictor, values)

    assert rows_where(result.outlier_rejected[:, 0]) == [60]
    assert ticks_with(result, Events.REBASED) == []
    assert ticks_with(result, Events.NORMAL_OPERATION_RESTORED) == [62]


def test_opposite_outliers_do_not_confirm_each_other(predictor):
    values = noise(120)
    values[60], values[61] = 60.0, -60.0

    _, result = run(predictor, values)

    assert rows_where(result.outlier_rejected[:, 0]) == [60, 61]


@pytest.mark.parametrize("second", [6e8, 3e8, 9e8])
def test_two_unrelated_outliers_of_one_sign_teach_nothing(predictor, second):
    values = noise(400)
    values[200], values[201] = 1e9, second

    _, result = run(predictor, values)

    assert rows_where(result.outlier_rejected[:, 0]) == [200, 201]
    assert ticks_with(result, Events.REBASED) == []
    assert np.all(np.abs(result.reference_prediction[200:]) < 2.0)
    assert np.all(result.location[200:] < 1.0)


def test_extreme_that_is_recalled_widens_the_scale_by_no_more_than_a_believed_one(predictor):
    values = noise(400)
    values[200:204] += 300.0 * 0.6 ** np.arange(4)

    _, result = run(predictor, values)

    rejected = rows_where(result.outlier_rejected[:, 0])
    assert 200 in rejected
    assert 201 not in rejected
    assert np.max(result.scale[200:]) < 5.0 * np.max(result.scale[100:200])


def test_new_level_rough_against_the_old_one_is_readmitted_after_three_rejected_ticks(predictor):
    values = 100.0 + 1e-6 * noise(400)
    values[200:] = 200.0 + noise(200, 3)

    _, result = run(predictor, values)

    rejected = rows_where(result.outlier_rejected[:, 0])
    assert rejected[:3] == [200, 201, 202]
    # The new scale is made of a few ticks at first.
    assert len(rejected) <= 5
    assert ticks_with(result, Events.REBASED)[0] == 203
    error = values[230:] - result.reference_prediction[229:-1, 0]
    assert np.sqrt(np.mean(error**2)) < 1.4


def test_constant_series_may_change(predictor):
    values = np.concatenate([np.full(100, 5.0), np.full(100, 6.0), 6.0 + noise(100)])

    _, result = run(predictor, values)

    assert not result.outlier_rejected.any()
    assert not result.degraded_inference_mode[20:].any()
    assert np.isfinite(result.confidence_lower).all()
    assert np.array_equal(result.reference_prediction[:99, 0], values[:99])


def test_first_tick_that_is_no_number_is_answered_with_nan_in_diagnostic_mode(predictor):
    values = np.concatenate([[np.nan, np.inf], noise(40)])

    state, result = run(predictor, values)

    assert result.answered.all()
    assert np.isnan(result.reference_prediction[:2]).all()
    assert (result.operating_mode[:2] == OperatingMode.DIAGNOSTIC).all()
    assert result.sequence[:3, 0].tolist() == [0, 0, 1]
    clean, after = run(predictor, values[2:], clock(42)[2:])
    assert np.array_equal(after.reference_prediction, result.reference_prediction[2:])
    for ours, theirs in zip(
        jax.tree.leaves(state.kernels), jax.tree.leaves(clean.kernels), strict=True
    ):
        assert np.array_equal(ours, theirs, equal_nan=True)


# -- frozen -------------------------------------------------------------------------------


def frozen_feed(alive: int, standing: int, after: int, seed: int = 1) -> np.ndarray:
    values = noise(alive + standing + after, seed)
    values[alive : alive + standing] = values[alive - 1]
    return values


@pytest.mark.parametrize("alive", [20, 100, 500])
def test_continuous_signal_is_frozen_at_five_equal_values(alive):
    verdict = judge(RELATIVE, frozen_feed(alive, 30, 0)).verdict

    assert rows_where(verdict.entered_frozen) == [alive + 3]


def test_frozen_signal_is_released_by_two_moving_ticks():
    verdict = judge(RELATIVE, frozen_feed(200, 50, 20, seed=7)).verdict

    assert rows_where(verdict.left_frozen) == [251]


def test_noise_far_below_the_former_movement_does_not_release():
    values = frozen_feed(200, 10, 500)
    values[210:] = values[199] + 0.01 * noise(500, 4)

    verdict = judge(RELATIVE, values).verdict

    assert verdict.frozen[203:].all()


def test_first_live_tick_after_a_long_freeze_is_no_outlier():
    values = frozen_feed(300, 2000, 50)

    verdict = judge(RELATIVE, values).verdict

    assert verdict.frozen[303:2300].all()
    assert not verdict.rejected.any()


def test_frozen_tick_holds_learning_and_masks_the_signature(predictor):
    values = frozen_feed(200, 40, 40)

    _, result = run(predictor, values)

    frozen = slice(203, 240)
    assert ticks_with(result, Events.FROZEN_SIGNAL) == [203]
    assert len(ticks_with(result, Events.FROZEN_SIGNAL_RECOVERED)) == 1
    assert result.degraded_inference_mode[frozen].all()
    assert (result.weights[frozen, 0, 3] == 0.0).all()
    np.testing.assert_allclose(result.weights[frozen, 0].sum(axis=1), 1.0)
    assert (np.diff(result.sequence[frozen, 0]) == 1).all()
    assert (np.diff(result.location[frozen, 0]) == 0).all()
    assert (np.diff(result.kernel_sigma[frozen], axis=0) == 0).all()
    assert result.weights[-1, 0, 3] > 0.0


def test_policy_rate_is_never_frozen():
    moves = np.random.default_rng(5).choice([-0.25, 0.25], size=40)
    lengths = np.random.default_rng(6).integers(40, 90, size=40)
    values = np.repeat(np.cumsum(moves), lengths)

    verdict = judge(RELATIVE, values).verdict

    assert not verdict.frozen.any()


def test_sticky_signal_that_was_frozen_is_released_though_it_rests_between_moves():
    moving = noise(100)
    steps = np.repeat(10.0 + np.arange(20.0), 30)

    verdict = judge(RELATIVE, np.concatenate([moving, steps])).verdict

    assert verdict.frozen[110]
    assert not verdict.frozen[-200:].any()


def test_intermittent_demand_is_frozen_no_more_often_than_the_stated_probability():
    random = np.random.default_rng(8)
    frozen = runs = 0
    for _ in range(10):
        demand = np.where(random.random(3000) < 0.7, 0.0, random.exponential(size=3000))
        verdict = judge(RELATIVE, demand).verdict
        frozen += len(rows_where(verdict.entered_frozen[200:]))
        runs += int(np.sum(np.diff((demand == 0.0).astype(int)) == 1))
    # 1e-4 per run by design, times what estimating the repeat probability costs.
    assert runs > 5000
    assert frozen <= 4e-4 * runs


def test_rounded_prices_are_not_frozen():
    values = np.round(np.cumsum(noise(3000, 9)) * 0.5)

    verdict = judge(RELATIVE, values).verdict

    assert verdict.frozen[100:].mean() < 0.01


# -- staleness and sampling ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "spacing"),
    [
        (START, SECOND),
        (631_152_000 * SECOND, SECOND),
        (631_152_000 * SECOND, 86_400 * SECOND),
        (START, MILLISECOND),
        (-(10**18), 30 * 86_400 * SECOND),
    ],
    ids=["1 Hz", "1990", "daily since 1990", "1 kHz", "monthly before the epoch"],
)
def test_regular_feed_is_never_degraded_by_default(start, spacing):
    verdict = judge(RELATIVE, noise(500), clock(500, spacing, start)).verdict

    assert not verdict.degraded.any()
    assert not verdict.under_sampled.any()


def test_equal_timestamps_are_accepted_and_teach_no_interval():
    times = np.repeat(clock(100), 3)

    trace = judge(RELATIVE, noise(300), times)

    assert not trace.verdict.refused.any()
    assert not trace.verdict.degraded.any()
    assert int(trace.state.intervals) == 99
    assert float(trace.state.interval_log_median) == pytest.approx(np.log(SECOND))


def times_with_gap(rows: int, at: int, intervals: float, spacing: int = SECOND) -> np.ndarray:
    times = clock(rows, spacing)
    times[at:] += round((intervals - 1.0) * spacing)
    return times


@pytest.mark.parametrize(
    ("intervals", "stale", "under_sampled"),
    [(7.9, False, False), (8.1, False, True), (9.9, False, True), (10.1, True, True)],
)
def test_gaps_are_judged_in_learned_intervals(intervals, stale, under_sampled):
    verdict = judge(RELATIVE, noise(100), times_with_gap(100, 50, intervals)).verdict

    assert rows_where(verdict.entered_stale) == ([50] if stale else [])
    assert rows_where(verdict.entered_under_sampled) == ([50] if under_sampled else [])


def test_no_gap_is_judged_before_eight_intervals():
    verdict = judge(RELATIVE, noise(60), times_with_gap(60, 8, 1000.0)).verdict

    assert not verdict.degraded.any()


def test_random_arrivals_are_stale_one_time_in_a_thousand():
    gaps = np.random.default_rng(2).exponential(SECOND, size=50_000).astype(np.int64) + 1

    verdict = judge(RELATIVE, noise(50_000), START + np.cumsum(gaps)).verdict

    # P(gap > 10 · median) = 2^-10; the learned median scatters, and its tail is convex.
    assert 0.5e-3 < verdict.entered_stale.mean() < 3e-3


def test_degraded_mode_ends_after_the_configured_clean_ticks():
    verdict = judge(RELATIVE, noise(100), times_with_gap(100, 50, 20.0)).verdict

    assert rows_where(verdict.degraded) == [50, 51]
    assert rows_where(verdict.left_degraded) == [52]


def test_gap_between_recovery_and_limit_neither_enters_nor_leaves():
    gaps = np.ones(100)
    gaps[40], gaps[80], gaps[81], gaps[82] = 9.0, 12.0, 9.0, 12.0
    times = START + np.cumsum(gaps * SECOND).astype(np.int64)

    verdict = judge(RELATIVE, noise(100), times).verdict

    # Entered at 80 (above 10), held at 81 (above 8), so that 82 is no second entry; then two
    # clean ticks.
    assert rows_where(verdict.degraded) == [80, 81, 82, 83]
    assert rows_where(verdict.entered_stale) == [80]


def test_alternating_good_and_bad_gaps_do_not_oscillate():
    gaps = np.ones(200)
    gaps[100::2] = 30.0
    times = START + np.cumsum(gaps * SECOND).astype(np.int64)

    verdict = judge(RELATIVE, noise(200), times).verdict

    # Until the learned interval has followed the feed, which it may.
    degraded = verdict.degraded[100:]
    assert np.sum(np.abs(np.diff(degraded.astype(int)))) <= 1


def test_absolute_limits_are_the_configured_times():
    times = clock(60, 50 * MILLISECOND)
    times[20:] += 60 * MILLISECOND
    times[40:] += 460 * MILLISECOND

    verdict = judge(ABSOLUTE, noise(60), times).verdict

    assert rows_where(verdict.entered_under_sampled) == [20, 40]
    assert rows_where(verdict.entered_stale) == [40]


def test_old_tick_is_stale_by_the_clock_under_absolute_limits():
    times = clock(60, 50 * MILLISECOND)
    now = times + 100 * MILLISECOND
    now[30:33] += 401 * MILLISECOND

    verdict = judge(ABSOLUTE, noise(60), times, now).verdict

    assert rows_where(verdict.entered_stale) == [30]
    assert rows_where(verdict.degraded) == [30, 31, 32, 33]


def test_absolute_limits_degrade_a_feed_of_one_hertz():
    verdict = judge(ABSOLUTE, noise(60)).verdict

    assert verdict.degraded[1:].all()


def test_no_gap_matters_with_the_time_gates_off():
    verdict = judge(OFF, noise(100), times_with_gap(100, 50, 1e6)).verdict

    assert not verdict.degraded.any()
    assert not verdict.under_sampled.any()


def test_stale_tick_freezes_weights_while_the_forecast_goes_on(predictor):
    values, times = noise(120), times_with_gap(120, 80, 40.0)

    _, result = run(predictor, values, times)

    assert ticks_with(result, Events.STALENESS) == [80]
    assert ticks_with(result, Events.FREQUENCY_WARNING) == [80]
    assert ticks_with(result, Events.NORMAL_OPERATION_RESTORED) == [82]
    assert np.array_equal(result.weights[80], result.weights[79])
    assert not np.array_equal(result.weights[83], result.weights[82])
    assert (result.operating_mode[80:82] == OperatingMode.CALIBRATION).all()
    assert (result.sequence[:, 0] == np.arange(1, 121)).all()
    assert np.isfinite(result.reference_prediction).all()


@given(
    st.lists(
        st.tuples(
            st.one_of(st.floats(), st.sampled_from([0.0, -0.0, 1.0, 1e308, 5e-324])),
            st.integers(-(2**63), 2**63 - 1),
        ),
        min_size=40,
        max_size=40,
    )
)
def test_any_ticks_leave_a_finite_state(ticks):
    values = np.array([value for value, _ in ticks])
    values[np.abs(values) > 1e140] = np.inf
    times = np.sort(np.array([time for _, time in ticks], dtype=np.int64))

    state = judge(RELATIVE, values, times).state

    for name in ("location", "variance", "squared_change", "last_value", "interval_log_median"):
        assert np.isfinite(getattr(state, name)), name
