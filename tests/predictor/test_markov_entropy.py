"""Entropy of the value function: the estimator, the collapse rule and the scaling rule."""

from __future__ import annotations

import functools
from typing import Any, get_args, get_type_hints

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from predictor.config import Markov, PredictorConfig
from predictor.kernels.markov import entropy, galerkin
from predictor.kernels.markov.ladder import CAPACITIES, SHAPES
from predictor.kernels.markov.value_function import value_function_member
from predictor.packing import layout_of, pack, unpack
from tests.predictor.markov_processes import (
    certainty_on_grid,
    coefficients_in_range,
    ornstein_uhlenbeck,
    reference,
)
from tests.predictor.streams import repeated

LINE = 0.5 * np.log(12.0)
"""Shape entropy of equally spaced values."""

NORMAL = 0.5 * np.log(2.0 * np.pi * np.e)

spacing_entropy = jax.jit(entropy.spacing_entropy)
rings = arrays.arrays(np.float64, entropy.POINTS, elements=st.floats(-5.0, 5.0))


def shape_of(values) -> float:
    return float(entropy.shape_entropy(jnp.asarray(values), spacing_entropy(values)))


@given(arrays.arrays(np.float64, 32, elements=st.sampled_from([-1.0, 0.0, -0.0, 1.5, 2.0, 9.0])))
def test_ordering_by_rank_is_sorting_ties_included(values):
    np.testing.assert_array_equal(entropy.ordered(jnp.asarray(values)), np.sort(values))


@given(st.floats(-10.0, 10.0), st.floats(0.1, 10.0), st.permutations(range(entropy.POINTS)))
def test_entropy_of_equally_spaced_values_is_the_log_of_their_range(start, width, order):
    values = np.linspace(start, start + width, entropy.POINTS)[order]

    assert float(spacing_entropy(values)) == pytest.approx(np.log(width), abs=1e-9)


def test_entropy_of_quantiles_is_that_of_their_law():
    places = (np.arange(entropy.POINTS) + 0.5) / entropy.POINTS
    for law in (stats.norm(), stats.logistic(), stats.beta(2, 3)):
        values = law.ppf(places)

        assert float(spacing_entropy(values)) == pytest.approx(float(law.entropy()), abs=0.12)


def test_estimate_agrees_with_an_independent_one_on_samples():
    random = np.random.default_rng(3)
    for values in random.normal(size=(20, entropy.POINTS)):
        expected = stats.differential_entropy(values, window_length=4, method="ebrahimi")

        assert float(spacing_entropy(values)) == pytest.approx(expected, abs=0.12)


@given(rings, st.floats(-10.0, 10.0), st.floats(0.5, 20.0))
def test_shape_entropy_ignores_location_and_scale(values, shift, scale):
    values = np.linspace(-2.0, 2.0, entropy.POINTS) + 0.3 * np.tanh(values)

    assert shape_of(scale * values + shift) == pytest.approx(shape_of(values), abs=1e-3)
    moved = float(spacing_entropy(scale * values + shift)) - float(spacing_entropy(values))
    assert moved == pytest.approx(np.log(scale), abs=1e-9)


@given(rings)
def test_no_ring_is_beyond_the_entropy_of_a_normal_law_or_infinite(values):
    assert np.isfinite(shape_of(values))
    assert shape_of(values) < NORMAL + 0.1


def test_spread_values_have_more_entropy_than_collapsed_ones():
    spread = np.linspace(-1.0, 1.0, entropy.POINTS)
    two_modes = np.where(spread < 0.0, -1.0, 1.0) + 0.02 * spread
    one_mode = np.where(np.abs(spread) > 0.95, spread, 0.02 * spread)
    constant = np.full(entropy.POINTS, 0.4)

    assert shape_of(spread) == pytest.approx(LINE, abs=1e-3)
    for collapsed in (two_modes, one_mode, constant):
        assert np.exp(shape_of(collapsed)) < 0.5 * np.exp(shape_of(spread))


@pytest.mark.parametrize("seed", range(8))
def test_entropy_of_the_networks_is_that_of_the_solution(seed):
    coefficients = coefficients_in_range(100 + seed, 1)[0]
    positions, values = reference(coefficients)
    exact = np.interp(entropy.GRID, positions, np.arctanh(values[0]))

    for member in certainty_on_grid(coefficients, np.zeros(1), entropy.GRID)[:, 0]:
        assert shape_of(member) == pytest.approx(shape_of(exact), abs=galerkin.ENTROPY_ERROR)
        # κ is a factor of two at its trigger, 0.7 nats.
        assert float(spacing_entropy(member)) == pytest.approx(
            float(spacing_entropy(exact)), abs=0.15
        )


@pytest.mark.parametrize("rate", [0.005, 0.1, 0.7, 3.0])
def test_linear_processes_have_the_shape_of_a_line_whatever_their_rate(rate):
    coefficients = ornstein_uhlenbeck(rate, 1.0)
    ring = certainty_on_grid(coefficients, np.zeros(1), entropy.GRID)[0, 0]

    assert shape_of(ring) == pytest.approx(LINE, abs=0.1)


RULES = Markov()
OPEN = ornstein_uhlenbeck(0.05, 1.0)
CLOSED = ornstein_uhlenbeck(2.5, 1.0)
BISTABLE = np.array([0.0, 0.35, 0.0, -0.35, np.log(0.02), 0.0, 0.0])
FOLLOW = jax.jit(functools.partial(galerkin.follow, RULES))


def drive(state, coefficients, ticks, *, position=0.5, **changes):
    """`ticks` ticks with constant inputs: state and the readings, one row each."""
    inputs = {"learn": True, "embeddable": True, "volatility": 1.0, "regime": False} | changes
    readings = []
    for _ in range(ticks):
        state, reading = FOLLOW(state, coefficients, position, **inputs)
        readings.append(reading)
    return state, jax.tree.map(lambda *leaves: np.stack(leaves), *readings)


def test_entropy_is_absent_until_every_grid_point_was_read():
    _, readings = drive(galerkin.init(RULES), OPEN, entropy.POINTS + 5)

    assert np.all(np.isnan(readings.entropy[: entropy.POINTS - 1]))
    assert np.all(np.isfinite(readings.entropy[entropy.POINTS - 1 :]))
    assert np.all(np.isfinite(readings.value))


def test_value_is_the_expected_bounded_state_one_tick_ahead():
    _, readings = drive(galerkin.init(RULES), OPEN, 1, position=1.0)

    random = np.random.default_rng(2)
    memory = np.exp(-0.05)
    ahead = memory * 1.0 + np.sqrt(1.0 - memory**2) * random.normal(size=400_000)
    assert float(readings.value[0]) == pytest.approx(np.mean(np.tanh(ahead)), abs=0.02)
    assert np.tanh(readings.certainty_equivalent[0]) == pytest.approx(readings.value[0])


def test_where_learning_is_held_nothing_moves_but_the_value_is_read():
    state, _ = drive(galerkin.init(RULES), OPEN, 40)

    held, readings = drive(state, CLOSED, 3, learn=False, position=2.0)

    for before, after in zip(state, held, strict=True):
        np.testing.assert_array_equal(before, after)
    assert abs(readings.value[0]) < 0.5
    assert readings.entropy[0] == readings.entropy[2]


def test_coefficients_that_are_no_numbers_do_not_reach_the_ring():
    state, _ = drive(galerkin.init(RULES), OPEN, 40)

    after, _ = drive(state, np.full(7, np.nan), 2)

    for leaf, other in zip(state, after, strict=True):
        np.testing.assert_array_equal(leaf, other)


def test_collapse_is_over_where_no_diffusion_moves_like_the_series():
    state, _ = drive(galerkin.init(RULES), OPEN, 40)
    warned = state._replace(collapsed=jnp.asarray(50, state.collapsed.dtype))

    _, still = drive(warned, OPEN, 1, learn=False)
    _, over = drive(warned, OPEN, 1, learn=False, embeddable=False)

    assert (bool(still.collapse_warning[0]), bool(over.collapse_warning[0])) == (True, False)


def test_values_that_gather_at_two_modes_are_a_collapse_and_spread_ones_the_recovery():
    calm = 0.3
    state, before = drive(galerkin.init(RULES), OPEN, 120, volatility=calm)
    state, collapsed = drive(state, BISTABLE, 100, volatility=calm)
    _, recovered = drive(state, OPEN, 60, volatility=calm)

    assert not np.any(before.collapse_warning)
    assert np.any(collapsed.collapse_warning)
    first = int(np.argmax(collapsed.collapse_warning))
    assert first >= RULES.mode_collapse_min_threshold - 1
    assert np.all(collapsed.collapse_warning[first:])
    assert not recovered.collapse_warning[-1]


def test_alarm_starts_the_trailing_level_anew_and_so_ends_the_warning():
    calm = 0.3
    state, _ = drive(galerkin.init(RULES), OPEN, 120, volatility=calm)
    state, collapsed = drive(state, BISTABLE, 100, volatility=calm)

    _, after = drive(state, BISTABLE, 1, volatility=calm, regime=True)

    assert collapsed.collapse_warning[-1]
    assert not after.collapse_warning[0]
    assert after.ratio[0] == pytest.approx(1.0)


def test_collapse_that_lasts_becomes_the_new_level():
    state, _ = drive(galerkin.init(RULES), OPEN, 120, volatility=0.3)

    _, readings = drive(state, BISTABLE, 1000, volatility=0.3)

    assert np.any(readings.collapse_warning)
    assert not readings.collapse_warning[-1]


@pytest.mark.parametrize(
    ("volatility", "expected"), [(10.0, 10), (1.0, 10), (0.9, 12), (0.6, 27), (0.3, 50), (0.01, 50)]
)
def test_warning_needs_ten_ticks_or_a_tenth_of_the_window_which_calm_times_lengthen(
    volatility, expected
):
    def warned(ticks):
        state = galerkin.init(RULES)._replace(collapsed=jnp.asarray(ticks))
        return bool(galerkin.is_collapsed(RULES, state, volatility))

    # The window is 100 over the relative variance, at most 500.
    assert not warned(expected - 1)
    assert warned(expected)


@pytest.mark.parametrize(
    ("volatility", "share"),
    [(0.1, 1.0), (0.49, 1.0), (0.51, 0.8), (1.0, 0.8), (1.99, 0.8), (2.01, 0.5), (50.0, 0.5)],
)
def test_retained_share_falls_with_volatility_relative_to_the_long_run(volatility, share):
    assert float(galerkin.retained_share(RULES, jnp.asarray(volatility))) == share


def test_every_trained_network_can_be_configured_and_no_other():
    known = get_args(get_args(get_type_hints(Markov, include_extras=True)["dgm_network"])[0])

    assert known == tuple(f"{width}x{depth}" for width, depth in SHAPES)


@pytest.mark.parametrize("member", range(len(SHAPES)))
def test_an_asset_begins_with_the_configured_network(member):
    markov = Markov(dgm_network="{}x{}".format(*SHAPES[member]))
    states = value_function_member("value").init(PredictorConfig(markov=markov))

    assert int(states.galerkin.member) == member


def test_no_entropy_is_a_collapse_where_none_has_to_be_kept():
    state = galerkin.init(RULES)._replace(followed=jnp.asarray(200), shape=jnp.asarray(50.0))
    lenient = msgspec.structs.replace(
        RULES, entropy_gamma_min=0.0, entropy_gamma_default=0.0, entropy_gamma_max=0.0
    )

    def collapsed(rules: Markov) -> int:
        after, _, _ = galerkin._follow_entropy(rules, state, jnp.asarray(1.0), jnp.asarray(False))
        return int(after.collapsed)

    assert (collapsed(RULES), collapsed(lenient)) == (1, 0)


@given(st.floats(0.1, 10.0), st.integers(0, len(CAPACITIES) - 1))
def test_capacity_suffices_for_the_entropy_ratio_within_its_bound(ratio, baseline):
    rules = msgspec.structs.replace(RULES, dgm_network="{}x{}".format(*SHAPES[baseline]))
    start = jnp.asarray(baseline, jnp.int32)

    chosen = int(galerkin.choose_member(rules, start, jnp.asarray(ratio)))

    base, capacity = CAPACITIES[baseline], CAPACITIES[chosen]
    assert base <= capacity <= rules.dgm_max_capacity_factor * base
    required = base * min(ratio**rules.dgm_entropy_coupling_beta, rules.dgm_max_capacity_factor)
    if ratio > rules.entropy_scaling_trigger:
        assert capacity >= min(required, CAPACITIES[-1])
        smaller = [c for c in CAPACITIES[baseline:] if c < capacity]
        assert all(c < required for c in smaller)
    else:
        assert chosen == baseline


def test_a_hundred_triggers_do_not_compound():
    member = jnp.asarray(0, jnp.int32)
    random = np.random.default_rng(4)
    for ratio in random.uniform(2.1, 10.0, size=100):
        member = galerkin.choose_member(RULES, member, jnp.asarray(ratio))
        assert CAPACITIES[int(member)] <= 4.0 * CAPACITIES[0]


def test_ratio_near_the_trigger_does_not_make_the_member_flap():
    member, changes = jnp.asarray(0, jnp.int32), 0
    for tick in range(200):
        after = galerkin.choose_member(RULES, member, jnp.asarray(2.0 + 0.3 * np.sin(tick)))
        changes += int(after) != int(member)
        member = after

    assert changes == 1


def test_wider_values_scale_the_network_once_and_their_level_scales_it_back():
    state, before = drive(galerkin.init(RULES), CLOSED, 150)
    state, wider = drive(state, OPEN, 120)
    _, settled = drive(state, OPEN, 900)

    assert not np.any(before.scaled)
    assert np.max(wider.ratio) > RULES.entropy_scaling_trigger
    assert np.all(np.diff(wider.member[np.argmax(wider.scaled) :]) >= 0)
    assert 1 <= np.sum(wider.scaled) <= len(CAPACITIES) - 1
    largest = CAPACITIES[wider.member.max()]
    growth = np.max(wider.ratio) ** RULES.dgm_entropy_coupling_beta
    assert largest >= CAPACITIES[0] * min(growth, 4.0) - 1e-9
    assert settled.member[-1] == 0
    assert np.sum(settled.scaled) == 1


def test_state_is_small_and_survives_packing():
    state, _ = drive(galerkin.init(RULES), OPEN, 50)
    layout = layout_of(state)
    batch: Any = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)

    restored = unpack(layout, pack(layout, batch))

    assert layout.width * 8 <= 256
    for leaf, other in zip(batch, restored, strict=True):
        np.testing.assert_array_equal(leaf, other)
        assert leaf.dtype == other.dtype


def test_lane_does_not_depend_on_its_place_or_its_neighbours():
    @jax.jit
    @jax.vmap
    def step(state, coefficients, position):
        yes, no = jnp.asarray(True), jnp.asarray(False)
        calm = {"learn": yes, "embeddable": yes, "volatility": 1.0, "regime": no}
        return galerkin.follow(RULES, state, coefficients, position, **calm)

    states = repeated(galerkin.init(RULES), 8)
    coefficients = np.stack([OPEN, CLOSED, BISTABLE, OPEN, CLOSED, BISTABLE, OPEN, CLOSED])
    positions = np.linspace(-2.0, 2.0, 8)
    order = np.array([3, 1, 7, 0, 2, 6, 5, 4])
    poisoned = coefficients[order].copy()
    poisoned[order != 2] = np.nan

    plain = step(states, coefficients, positions)
    shuffled = step(states, coefficients[order], positions[order])
    among_nan = step(states, poisoned, positions[order])

    for leaf, moved, alone in zip(
        jax.tree.leaves(plain), jax.tree.leaves(shuffled), jax.tree.leaves(among_nan), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(leaf)[order], moved)
        np.testing.assert_array_equal(np.asarray(leaf)[2], np.asarray(alone)[4])
