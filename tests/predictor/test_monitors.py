"""Volatility, kurtosis and CUSUM on errors with known laws."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from scipy import stats

from predictor import FunctionalPredictor, PredictorConfig, fusion, monitors
from predictor.config import Fusion, Monitoring
from tests.predictor.streams import TILE, fold, logistic_map, repeated, rows_where, run

CONFIG = PredictorConfig()


@functools.partial(jax.vmap, in_axes=0)
def score(state, error):
    return monitors.score(CONFIG, state, error)


def observe(errors: np.ndarray):
    """Monitors over errors `[T, n]`: the states after, and readings `[T, n]`."""
    return fold(score, repeated(monitors.init(CONFIG), errors.shape[1]), errors)


@pytest.mark.parametrize("law", [stats.norm, stats.t(5)], ids=["normal", "t5"])
def test_false_alarms_of_the_cusum_are_below_two_in_a_thousand(law):
    errors = law.rvs(size=(5000, 16), random_state=np.random.default_rng(1))

    _, reading = observe(errors)

    # Grace is kept by the step, so that without it this rate is an upper bound.
    assert 1000.0 * np.mean(reading.cusum_alarm) <= 2.0


@pytest.mark.parametrize(("shift", "ticks"), [(1.0, 20), (2.0, 9), (4.0, 6)])
def test_shift_is_found_within_a_few_ticks(shift, ticks):
    random = np.random.default_rng(2)
    errors = random.normal(size=(400, 64))
    errors[300:] += shift

    _, reading = observe(errors)

    delays = [next(iter(rows_where(lane[300:])), 100) for lane in np.asarray(reading.cusum_alarm).T]
    # z − k has mean shift − ½ and h = 8: 16, 6 and 3 ticks, more as the error variance learns it.
    assert np.median(delays) + 1 <= ticks


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_threshold_follows_the_volatility(factor):
    errors = np.random.default_rng(8).normal(size=(2000, 32))
    errors[1000:] *= factor

    _, reading = observe(errors)

    threshold = np.asarray(reading.threshold)
    # The standardised errors of the change have left the window of the kurtosis by then.
    before, after = threshold[600:1000].mean(), threshold[1600:].mean()
    assert after / before == pytest.approx(factor, rel=0.1)


def test_alarms_do_not_depend_on_the_unit():
    errors = np.random.default_rng(3).normal(size=(1000, 8))
    errors[500:] += 3.0

    _, plain = observe(errors)
    _, scaled = observe(1000.0 * errors)

    assert np.any(plain.cusum_alarm)
    assert np.array_equal(plain.cusum_alarm, scaled.cusum_alarm)
    np.testing.assert_allclose(scaled.threshold, 1000.0 * np.asarray(plain.threshold), rtol=1e-9)
    np.testing.assert_allclose(scaled.kurtosis, plain.kurtosis, rtol=1e-9)


def test_mirrored_errors_swap_the_two_sides():
    errors = np.random.default_rng(4).normal(size=(300, 2))

    state, reading = observe(errors)
    mirrored, mirrored_reading = observe(-errors)

    assert np.array_equal(state.upward, mirrored.downward)
    assert np.array_equal(reading.cusum_alarm, mirrored_reading.cusum_alarm)


@pytest.mark.parametrize("rows", [40, 252, 700])
def test_kurtosis_equals_scipy_on_the_window(rows):
    errors = np.random.default_rng(rows).standard_t(4, size=(rows, 3))

    state, reading = observe(errors)

    held = np.asarray(state.residuals)[:, :rows]
    expected = stats.kurtosis(held, axis=1, fisher=False)
    np.testing.assert_allclose(reading.kurtosis[-1], expected, rtol=1e-9)


def test_heavy_tails_raise_the_threshold_by_the_stated_factor():
    errors = np.random.default_rng(5).standard_t(3, size=(600, 4))

    state, reading = observe(errors)

    kurtosis = np.asarray(reading.kurtosis[-1])
    sigma = np.asarray(reading.threshold[-1]) / (8.0 * (1.0 + np.log(np.maximum(kurtosis, 3) / 3)))
    variance_before = (np.asarray(state.variance) - 0.1 * errors[-1] ** 2) / 0.9
    assert np.all(kurtosis > 3.0)
    np.testing.assert_allclose(sigma, np.sqrt(variance_before), rtol=1e-9)


def test_series_without_error_raises_no_alarm_and_stays_finite():
    errors = np.zeros((200, 1))
    errors[150] = 1e6

    state, reading = observe(errors)

    assert not np.any(reading.cusum_alarm)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))


@pytest.fixture(scope="module")
def eager() -> FunctionalPredictor:
    """A CUSUM that alarms at nearly every error, so that grace alone spaces the alarms."""
    rules = Monitoring(cusum_h=1e-3, cusum_k=0.0, shift_threshold=1000.0)
    return FunctionalPredictor(PredictorConfig(tile=TILE, monitoring=rules))


def test_grace_suppresses_exactly_its_number_of_steps(eager):
    values = np.cumsum(np.random.default_rng(6).normal(size=(600, 8)), axis=0)

    _, result = run(eager, values)

    gaps = [np.diff(rows_where(lane)) for lane in result.cusum_alarm.T]
    assert sum(map(len, gaps)) > 100
    assert min(gap.min() for gap in gaps) == 21


def test_alarm_makes_the_weights_even_where_the_reset_is_uniform():
    rules = Monitoring(cusum_h=1e-3, cusum_k=0.0, shift_threshold=1000.0)
    config = PredictorConfig(tile=TILE, monitoring=rules, fusion=Fusion(entropy_reset="uniform"))

    _, result = run(FunctionalPredictor(config), logistic_map(np.random.default_rng(7), 600, 8))

    alarms = result.regime_change_detected & ~result.mode_collapse_warning & ~result.emergency_mode
    assert alarms.sum() > 100
    assert np.all(result.weights[alarms] == 0.25)
    assert np.max(result.weights[~alarms]) > 0.5


def test_drift_is_beyond_the_threshold_where_the_alarm_is_and_nowhere_else(eager):
    values = np.cumsum(np.random.default_rng(8).normal(size=(600, 8)), axis=0)

    for predictor in (eager, FunctionalPredictor(PredictorConfig(tile=TILE))):
        _, result = run(predictor, values)

        beyond = result.cusum_drift > result.adaptive_threshold
        assert np.array_equal(beyond, result.cusum_alarm)


def test_alarm_leaves_every_kernel_its_share_of_the_weight_at_once(eager):
    # Chaos, which hilbert alone knows: between alarms the others have next to no weight.
    _, result = run(eager, logistic_map(np.random.default_rng(7), 600, 8))

    # Not where a collapsed or a frozen kernel is left out on top of it.
    alarms = result.regime_change_detected & ~result.mode_collapse_warning
    smallest = result.weights.min(axis=-1)
    assert alarms.sum() > 100
    assert np.min(smallest[alarms]) >= fusion.RESET_SHARE
    assert np.min(smallest[~alarms]) < fusion.RESET_SHARE
