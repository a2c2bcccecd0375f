"""The Hölder exponent on exact fractional Brownian paths, and the modes that hang on it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from predictor import PredictorConfig, regularity
from predictor.config import WINDOW
from predictor.holder import STANDARD_ERROR, holder_exponent
from tests.predictor.streams import fractional_noise

CONFIG = PredictorConfig()
exponents_of = jax.jit(jax.vmap(holder_exponent, in_axes=1))
follow = jax.jit(functools.partial(regularity.follow, CONFIG))


def brownian(exponent: float, paths: int, points: int = WINDOW) -> np.ndarray:
    random = np.random.default_rng(round(100 * exponent))
    return np.cumsum(fractional_noise(random, exponent, points, paths), axis=0)


@pytest.mark.parametrize("exponent", [0.3, 0.5, 0.7])
def test_bias_on_fractional_brownian_motion_is_below_a_twentieth(exponent):
    estimates = np.asarray(exponents_of(brownian(exponent, 800)))

    # The mean over 800 paths has a standard error of 0.003.
    assert abs(estimates.mean() - exponent) <= 0.05


def test_estimates_rank_the_processes():
    estimates = [np.mean(exponents_of(brownian(h, 400))) for h in (0.2, 0.35, 0.5, 0.65, 0.8)]

    assert np.all(np.diff(estimates) > 0.08)


def test_longer_paths_scatter_less():
    short = np.std(exponents_of(brownian(0.5, 300)))
    long = np.std(exponents_of(brownian(0.5, 300, 512)))

    assert long < 0.7 * short


def test_stated_standard_error_is_the_measured_one():
    assert np.std(exponents_of(brownian(0.5, 2000))) == pytest.approx(STANDARD_ERROR, rel=0.15)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_exponent_does_not_depend_on_offset_unit_and_direction(offset, unit):
    path = brownian(0.6, 1)

    changed = exponents_of(offset * unit + unit * path[::-1])

    np.testing.assert_allclose(changed, exponents_of(path), atol=1e-6)


def test_path_that_does_not_move_has_no_exponent():
    assert np.all(np.isnan(exponents_of(np.full((WINDOW, 2), 3.0))))


@given(arrays.arrays(np.float64, (WINDOW, 1), elements=st.floats(-1e140, 1e140)))
def test_exponent_is_in_range_or_absent(path):
    value = float(exponents_of(path)[0])

    assert np.isnan(value) or 0.0 <= value <= 1.0


def test_line_and_white_noise_are_the_two_ends():
    line = np.arange(WINDOW, dtype=float)[:, None]
    noise = np.random.default_rng(1).normal(size=(WINDOW, 200))

    assert float(exponents_of(line)[0]) == pytest.approx(1.0)
    assert np.mean(exponents_of(noise)) < 0.05


def state_with(exponent: float, trailing: float, robust: bool, emergency: bool):
    flags = (jnp.asarray(robust), jnp.asarray(emergency))
    return regularity.RegularityState(jnp.asarray(exponent), jnp.asarray(trailing), *flags)


def held(state: regularity.RegularityState) -> regularity.RegularityState:
    """One tick at which the exponent keeps its value."""
    return follow(state, jnp.zeros(WINDOW), jnp.asarray(WINDOW + 1), jnp.asarray(True))


def test_nothing_is_said_before_the_window_is_full():
    path = jnp.asarray(brownian(0.3, 1)[:, 0])

    after = follow(regularity.init(), path, jnp.asarray(WINDOW - 1), jnp.asarray(False))

    assert np.isnan(after.exponent)
    assert not after.robust
    assert not after.emergency


@pytest.mark.parametrize(
    ("exponent", "already", "robust"),
    [(0.28, False, True), (0.30, False, False), (0.44, True, True), (0.46, True, False)],
)
def test_robust_mode_enters_below_its_error_bar_and_leaves_above_its_hysteresis(
    exponent, already, robust
):
    # 0.4 - 1.645 · 0.067 = 0.29 enters, 0.4 + 0.05 leaves.
    after = held(state_with(exponent, exponent, already, False))

    assert bool(after.robust) is robust


@pytest.mark.parametrize(
    ("trailing", "already", "emergency"),
    [
        (0.25, False, False),
        (0.39, False, False),
        (0.42, False, True),
        (0.30, True, True),
        (0.25, True, False),
    ],
)
def test_emergency_needs_a_drop_and_ends_when_the_drop_is_gone(trailing, already, emergency):
    # Rough for good (0.2); three standard errors, 0.2, enter, one, 0.067, stays.
    after = held(state_with(0.2, trailing, True, already))

    assert bool(after.emergency) is emergency


def test_always_rough_signal_is_robust_without_emergency():
    noise = fractional_noise(np.random.default_rng(2), 0.2, 1500, 1)
    path = np.cumsum(noise, axis=0)[:, 0]
    state, modes = regularity.init(), []

    for row in range(WINDOW, 1500, 5):
        window = jnp.asarray(path[row - WINDOW : row][::-1])
        state = follow(state, window, jnp.asarray(row), jnp.asarray(False))
        modes.append((bool(state.robust), bool(state.emergency)))

    robust, emergency = np.mean(modes, axis=0)
    assert robust > 0.5
    assert emergency < 0.02


def test_collapse_of_regularity_is_an_emergency():
    random = np.random.default_rng(3)
    smooth = np.cumsum(fractional_noise(random, 0.7, 600, 1)[:, 0])
    path = np.concatenate([smooth, smooth[-1] + 3.0 * random.normal(size=200)])
    state, entered = regularity.init(), []

    for row in range(WINDOW, 800):
        window = jnp.asarray(path[row - WINDOW : row][::-1])
        state = follow(state, window, jnp.asarray(row), jnp.asarray(False))
        entered.append(bool(state.emergency))

    assert not any(entered[: 600 - WINDOW])
    assert any(entered)


def test_held_exponent_survives_and_still_counts():
    state = state_with(0.37, 0.4, False, False)

    assert float(held(state).exponent) == 0.37
