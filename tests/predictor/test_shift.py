"""The likelihood ratio for a shift of the mean: false alarms, detection, units."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from predictor import PredictorConfig, shift
from tests.predictor.streams import autoregression, fold, repeated, rows_where

CONFIG = PredictorConfig()
WINDOW = 128


def detect_lane(carry, value):
    state, window = carry
    window = jnp.concatenate([value[None], window[:-1]])
    window = jnp.where(state.seen == 0, value, window)
    state, shifted = shift.detect(CONFIG, state, window)
    return (state, window), shifted


detect_row = jax.vmap(detect_lane)


def detect(values: np.ndarray) -> tuple[shift.ShiftState, np.ndarray]:
    """The states after, and flags `[T, n]`."""
    states = repeated((shift.init(CONFIG), jnp.zeros(WINDOW)), values.shape[1])
    (states, _), flags = fold(detect_row, states, values)
    return states, np.asarray(flags)


def delays(flags: np.ndarray, at: int) -> list[int]:
    """Ticks from `at` to the first flag in each lane, 50 where there is none within 50."""
    return [next(iter(rows_where(lane[at : at + 50])), 50) for lane in flags.T]


@pytest.mark.parametrize("law", ["normal", "t3", "autoregressive"])
def test_false_alarms_are_about_one_in_a_thousand_at_most(law):
    random = np.random.default_rng(1)
    values = {
        "normal": lambda: random.normal(size=(4000, 16)),
        "t3": lambda: random.standard_t(3, size=(4000, 16)),
        "autoregressive": lambda: autoregression(random, [0.5], 4000, 16),
    }[law]()

    _, flags = detect(values)

    assert 1000.0 * flags[100:].mean() <= (2.5 if law == "t3" else 1.0)


@pytest.mark.parametrize(("size", "limit"), [(3.0, 3), (1.5, 10)])
def test_shifts_are_found_within_a_few_ticks(size, limit):
    values = np.random.default_rng(2).normal(size=(500, 64))
    values[400:] += size

    _, flags = detect(values)

    found = np.array(delays(flags, 400))
    assert np.mean(found < 50) >= 0.97
    assert np.median(found) <= limit


def test_one_shift_gives_one_alarm():
    values = np.random.default_rng(3).normal(size=(700, 64))
    values[400:] += 4.0

    _, flags = detect(values)

    # An early alarm places the shift by a few ticks too late, so that some lanes correct it; the
    # step's grace period keeps that one silent.
    assert 0.98 <= flags[400:500].sum() / 64 <= 1.0 + 0.2


def test_flags_do_not_depend_on_offset_and_unit():
    values = np.random.default_rng(4).normal(size=(600, 8))
    values[300:] -= 2.5

    _, plain = detect(values)
    _, moved = detect(1e6 + 1000.0 * values)

    assert plain.any()
    assert np.array_equal(plain, moved)


def test_jump_after_a_constant_stretch_is_one_alarm_not_a_train():
    values = np.zeros((600, 1))
    values[100:] = 1e5 + np.random.default_rng(5).normal(size=(500, 1))

    _, flags = detect(values)

    assert len(rows_where(flags[:, 0])) <= 2
    assert flags[100:104].any()


def test_mean_since_the_shift_is_that_of_the_new_level():
    values = np.random.default_rng(6).normal(size=(450, 32))
    values[400:] += 5.0

    state, _ = detect(values)

    # Fifty ticks of unit noise about 5: standard error 0.14, four of them allowed.
    np.testing.assert_allclose(state.mean, 5.0, atol=0.6)


def test_prewhitening_learns_the_autoregression():
    values = autoregression(np.random.default_rng(7), [0.6, -0.3], 3000, 16)

    state, _ = detect(values)

    mean = np.mean(np.asarray(state.regression.coefficients), axis=0)
    np.testing.assert_allclose(mean, [0.6, -0.3], atol=0.05)
