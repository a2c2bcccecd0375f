"""The modes that hang on the Hölder exponent, and which exponent that is."""

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
from predictor.regularity import HISTORY, SPACING
from tests.predictor.streams import autoregression, fractional_noise, noisy_sine

CONFIG = PredictorConfig()
YES, NO = jnp.asarray(True), jnp.asarray(False)

follow = jax.jit(functools.partial(regularity.follow, CONFIG))


@jax.jit
def _trace(values):
    lanes = values.shape[1]
    state = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (lanes, *leaf.shape)), FRESH)
    step = jax.vmap(functools.partial(regularity.follow, CONFIG), in_axes=(0, 0, None, None))

    def tick(carry, row):
        state, window, accepted = carry
        window = jnp.concatenate([row[:, None], window[:, :-1]], axis=1)
        state = step(state, window, accepted + 1, NO)
        return (state, window, accepted + 1), state._replace(history=jnp.zeros((lanes, 0)))

    carry = (state, jnp.zeros((lanes, WINDOW)), jnp.zeros((), jnp.int64))
    return jax.lax.scan(tick, carry, values)[1]


def trace(values):
    """States after each tick from the first full window on, `[T, n]`."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[WINDOW - 1 :], _trace(jnp.asarray(values)))


with jax.enable_x64(True):
    FRESH = regularity.init()


def known(exponent: float, trailing: float, robust: bool = False, emergency: bool = False):
    """A path whose history is all `trailing`."""
    return FRESH._replace(
        exponent=jnp.asarray(exponent),
        history=jnp.full(HISTORY, trailing),
        measured=jnp.asarray(HISTORY * SPACING + 1),
        evidence=jnp.asarray(-5.0),
        robust=jnp.asarray(robust),
        emergency=jnp.asarray(emergency),
    )


def window_of(exponent: float) -> jnp.ndarray:
    """One path whose estimate is `exponent` to .01."""
    random = np.random.default_rng(7)
    paths = np.cumsum(fractional_noise(random, exponent, WINDOW, 400), axis=0)
    found = jax.vmap(regularity.read, in_axes=1)(jnp.asarray(paths)).path.exponent
    best = int(np.argmin(np.abs(np.asarray(found) - exponent)))
    assert abs(float(found[best]) - exponent) < 0.01
    return jnp.asarray(paths[:, best])


def after(state, window):
    return follow(state, window, jnp.asarray(WINDOW + 1), NO)


def test_nothing_is_said_before_the_window_is_full():
    state = follow(FRESH, window_of(0.3), jnp.asarray(WINDOW - 1), NO)

    assert np.isnan(state.exponent)
    assert not state.robust
    assert not state.emergency


@pytest.mark.parametrize(
    ("exponent", "already", "robust"),
    [(0.28, False, True), (0.34, False, False), (0.43, True, True), (0.47, True, False)],
)
def test_robust_mode_enters_below_its_error_bar_and_leaves_above_its_hysteresis(
    exponent, already, robust
):
    # .4 − 1.645 · .05 = .32 enters, .4 + .05 leaves.
    state = after(known(exponent, exponent, already), window_of(exponent))

    assert bool(state.robust) is robust


@pytest.mark.parametrize(
    ("trailing", "already", "emergency"),
    [
        (0.30, False, False),
        (0.40, False, False),
        (0.50, False, True),
        (0.40, True, True),
        (0.30, True, True),
        (0.22, True, False),
    ],
)
def test_emergency_needs_a_drop_and_ends_when_the_drop_is_gone(trailing, already, emergency):
    # At .2 a drop from the trailing median has an error of .06: four of them, .24, enter, one
    # stays.
    state = after(known(0.2, trailing, True, already), window_of(0.2))

    assert bool(state.emergency) is emergency


def test_fall_from_smooth_to_brownian_is_a_drop_but_no_emergency():
    state = after(known(0.9, 0.9), window_of(0.5))

    assert not state.robust
    assert not state.emergency


@pytest.mark.parametrize(
    ("already", "evidence", "stationary"),
    [(False, 1.0, False), (True, 1.0, True), (True, -1.0, True), (True, -3.0, False)],
)
def test_form_changes_only_beyond_two_nats_and_starts_afresh(already, evidence, stationary):
    before = known(0.5, 0.5, True, True)._replace(
        stationary=jnp.asarray(already), evidence=jnp.asarray(evidence)
    )

    state = after(before, window_of(0.5))

    assert bool(state.stationary) is stationary
    changed = already is not stationary
    assert int(state.measured) == (1 if changed else int(before.measured) + 1)
    assert bool(np.isnan(state.history[1])) is changed


def test_laws_of_an_exponent_fit_their_own_paths_and_misfit_seasons():
    random = np.random.default_rng(11)
    paths = np.cumsum(fractional_noise(random, 0.4, WINDOW, 200), axis=0)
    waves = np.sin(2.0 * np.pi * np.arange(WINDOW) / 12.0)[:, None]
    waves = waves + 0.1 * random.normal(size=(WINDOW, 200))

    of_paths, of_waves = (
        np.asarray(jax.vmap(regularity.read, in_axes=1)(jnp.asarray(values)).misfits)
        for values in (paths, waves)
    )

    assert np.mean(of_paths[:, 0]) == pytest.approx(1.0, abs=0.05)
    assert np.quantile(of_paths[:, 0], 0.95) < 1.4
    assert np.min(of_waves) > 2.0


def test_drop_from_a_history_shorter_than_a_window_is_no_emergency():
    short = known(0.2, 0.6)._replace(
        history=jnp.where(jnp.arange(HISTORY) < regularity.FEWEST - 1, 0.6, jnp.nan)
    )

    assert not after(short, window_of(0.2)).emergency
    assert after(known(0.2, 0.6), window_of(0.2)).emergency


@given(
    arrays.arrays(np.float64, HISTORY, elements=st.floats(0.0, 1.0, width=16)),
    st.integers(1, HISTORY),
)
def test_trailing_median_is_numpy_s(values, count):
    values[count:] = np.nan
    found = regularity._lower_median(jnp.asarray(values), jnp.asarray(count))

    assert float(found) == np.sort(values[:count])[(count - 1) // 2]


def test_history_holds_every_sixteenth_exponent():
    path = np.cumsum(np.random.default_rng(5).normal(size=(600, 1)), axis=0)
    states = _trace(jnp.asarray(path))
    state, window = FRESH, jnp.zeros(WINDOW)
    for row, value in enumerate(path[:, 0]):
        window = jnp.concatenate([jnp.asarray([value]), window[:-1]])
        if row >= WINDOW - 1:
            state = follow(state, window, jnp.asarray(row + 1), NO)

    exponents = np.asarray(states.exponent)[WINDOW - 1 :, 0]
    expected = exponents[::SPACING]
    np.testing.assert_allclose(state.history[: expected.size], expected, rtol=1e-12)
    assert np.all(np.isnan(state.history[expected.size :]))


def test_always_rough_path_is_robust_without_emergency():
    noise = fractional_noise(np.random.default_rng(2), 0.3, 2500, 8)

    states = trace(np.cumsum(noise, axis=0))

    assert np.mean(states.robust) > 0.8
    assert np.mean(states.emergency) < 0.002
    assert np.mean(states.stationary) < 0.1


@pytest.mark.parametrize(
    ("coefficient", "low", "high"), [(0.0, 0.45, 0.55), (0.5, 0.75, 1.0), (0.9, 0.75, 1.0)]
)
def test_stationary_series_are_judged_by_their_running_sum_and_are_no_emergency(
    coefficient, low, high
):
    values = autoregression(np.random.default_rng(4), [coefficient], 2500, 8)

    states = trace(values)

    # The first four windows decide.
    settled = slice(4 * WINDOW, None)
    assert np.mean(states.stationary[settled]) > 0.9
    assert low < np.mean(states.exponent[settled][states.stationary[settled]]) < high
    assert np.mean(states.robust[settled]) < 0.05
    assert not np.any(states.emergency)


def test_slow_reversion_is_a_path_or_stationary_but_never_an_emergency():
    values = autoregression(np.random.default_rng(5), [0.95], 2500, 8)

    assert np.mean(trace(values).emergency) < 0.002


@pytest.mark.parametrize("exponent", [0.1, 0.3, 0.5, 0.7])
def test_paths_are_judged_by_their_own_exponent(exponent):
    noise = fractional_noise(np.random.default_rng(6), exponent, 2000, 8)

    states = trace(np.cumsum(noise, axis=0))

    settled = slice(4 * WINDOW, None)
    assert np.mean(states.stationary[settled]) < 0.2
    path = ~states.stationary[settled]
    assert np.mean(states.exponent[settled][path]) == pytest.approx(exponent, abs=0.03)


@pytest.mark.parametrize("exponent", [0.1, 0.2])
def test_loss_of_regularity_is_an_emergency_that_ends(exponent):
    random = np.random.default_rng(3)
    smooth, rough = (
        fractional_noise(random, 0.7, 1000, 8),
        fractional_noise(random, exponent, 1000, 8),
    )

    states = trace(np.cumsum(np.concatenate([smooth, rough]), axis=0))

    change = 1000 - WINDOW + 1
    emergency = states.emergency
    assert not np.any(emergency[:change])
    assert np.all(np.any(emergency[change : change + WINDOW + 16], axis=0))
    # Once half of the history lies after the change there is no drop left.
    assert not np.any(emergency[change + WINDOW + HISTORY * SPACING :])
    # Hysteresis: entered once, left once.
    assert np.all(np.sum(np.diff(emergency.astype(int), axis=0) == 1, axis=0) <= 2)


def test_path_that_turns_into_noise_is_an_emergency_until_it_counts_as_stationary():
    random = np.random.default_rng(3)
    smooth = np.cumsum(fractional_noise(random, 0.7, 800, 8), axis=0)
    noise = smooth[-1] + 3.0 * random.normal(size=(1200, 8))

    states = trace(np.concatenate([smooth, noise]))

    change = 800 - WINDOW + 1
    assert not np.any(states.emergency[:change])
    assert np.all(np.any(states.emergency[change : change + WINDOW], axis=0))
    assert np.all(states.stationary[-1])
    assert not np.any(states.emergency[-1])


def test_one_bad_value_is_no_loss_of_regularity():
    walk = np.cumsum(np.random.default_rng(8).normal(size=(1200, 8)), axis=0)
    spiked = walk.copy()
    spiked[900] += 10.0

    assert not np.any(trace(spiked).emergency)
    clean, bad = (regularity.read(jnp.asarray(v[850:978, 0])) for v in (walk, spiked))
    assert abs(float(clean.path.exponent - bad.path.exponent)) < 0.15


def test_smooth_waves_are_neither_robust_nor_an_emergency():
    states = trace(noisy_sine(np.random.default_rng(9), 1500, 8))

    assert np.mean(states.robust) < 0.05
    assert not np.any(states.emergency)


def test_season_that_grows_faster_is_robust_but_no_emergency():
    random = np.random.default_rng(5)
    ticks = np.arange(2000)[:, None]
    period = np.where(ticks < 1000, 48, 5)
    season = np.sin(2.0 * np.pi * ticks / period)

    states = trace(season + 0.2 * random.normal(size=(2000, 8)))

    assert np.mean(states.robust[1000:]) > 0.5
    assert not np.any(states.emergency)


@pytest.mark.parametrize("held", [True, False])
def test_held_tick_and_constant_window_change_nothing(held):
    before = known(0.37, 0.4, True, True)
    window = window_of(0.3) if held else jnp.full(WINDOW, 2.0)

    state = follow(before, window, jnp.asarray(WINDOW + 1), jnp.asarray(held))

    for leaf, kept in zip(state, before, strict=True):
        np.testing.assert_array_equal(leaf, kept)


def test_lanes_do_not_see_each_other():
    random = np.random.default_rng(10)
    windows = jnp.asarray(np.cumsum(random.normal(size=(32, WINDOW)), axis=1))
    step = jax.jit(
        jax.vmap(functools.partial(regularity.follow, CONFIG), in_axes=(0, 0, None, None))
    )
    states = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (32, *leaf.shape)), FRESH)
    accepted, order = jnp.asarray(WINDOW), random.permutation(32)

    plain = step(states, windows, accepted, NO)
    shuffled = step(states, windows[order], accepted, NO)
    poisoned = step(states, windows.at[1:].set(jnp.nan), accepted, NO)

    for leaf, moved, alone in zip(plain, shuffled, poisoned, strict=True):
        np.testing.assert_array_equal(leaf[order], moved)
        np.testing.assert_array_equal(leaf[0], alone[0])
