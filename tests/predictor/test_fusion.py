"""Weights of the kernels: simplex, evidence, alarms and masks."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from predictor import fusion
from predictor.config import Fusion, PredictorConfig
from tests.predictor.streams import fold

CONFIG = PredictorConfig()
UNIFORM_RESET = PredictorConfig(fusion=Fusion(entropy_reset="uniform"))


def learn_step(state: fusion.FusionState, tick: tuple) -> tuple[fusion.FusionState, jax.Array]:
    """Score raw kernel forecasts `[4]` of a target about zero, then move the weights."""
    raw, target, variance = tick
    zero, unit = jnp.zeros(()), jnp.ones(())
    kernels = fusion.shrink(state, raw, zero)
    said = fusion.Forecasts(jnp.sum(state.weights * kernels), kernels, raw, zero, unit)
    state = fusion.score(CONFIG, state, said, target)
    state, info = fusion.move(CONFIG, state, said, variance, jnp.ones(()), jnp.asarray(False))
    return state, (state.weights, info)


def follow(raw: np.ndarray, target: np.ndarray, variance: float = 1.0):
    ticks = (raw, target, np.full(len(target), variance))
    state, (weights, info) = fold(learn_step, fusion.init(), ticks)
    return state, np.asarray(weights), info


def stream_where_one_is_right(seed: int, right: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    signal = random.normal(size=rows)
    raw = random.normal(size=(rows, 4))
    raw[:, right] = signal
    return raw, signal + 0.3 * random.normal(size=rows)


@pytest.mark.parametrize("right", range(4))
def test_only_right_kernel_holds_four_fifths_within_two_hundred_ticks(right):
    raw, target = stream_where_one_is_right(right, right, 200)

    _, weights, _ = follow(raw, target)

    assert weights[-1, right] > 0.8


@pytest.mark.parametrize("rows", [400, 2000])
@pytest.mark.parametrize("seed", range(8))
def test_weights_recover_within_two_hundred_ticks_of_a_swap_however_late_it_comes(rows, seed):
    first = stream_where_one_is_right(10 + seed, seed % 4, rows)
    second = stream_where_one_is_right(30 + seed, (seed + 1) % 4, 200)

    _, weights, _ = follow(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))

    assert weights[rows - 1, seed % 4] > 0.8
    assert np.max(weights[rows:, (seed + 1) % 4]) > 0.8


@given(
    arrays.arrays(np.float64, (30, 4), elements=st.floats(-1e12, 1e12)),
    arrays.arrays(np.float64, 30, elements=st.floats(-1e12, 1e12)),
    st.floats(0.0, 1e12),
)
def test_weights_stay_on_the_simplex_after_every_update(raw, target, variance):
    _, weights, _ = follow(raw, target, variance)

    assert np.all(weights >= 0.0)
    assert np.max(np.abs(weights.sum(axis=1) - 1.0)) < 1e-10


@pytest.mark.parametrize("seed", range(4))
def test_kernels_with_a_larger_gradient_of_the_energy_lose_weight_to_the_others(seed):
    random = np.random.default_rng(seed)
    target = 3.0
    forecasts = random.permutation([0.8, 1.4, 2.0, 2.6])

    def energy(weights):
        return 0.5 * jnp.square(weights @ forecasts - target)

    # Centred on the simplex: a kernel further off on the side of the mixture has the larger one.
    gradient = np.asarray(jax.grad(energy)(jnp.full(4, 0.25)))
    positive = gradient > gradient.mean()

    _, weights, _ = follow(np.tile(forecasts, (10, 1)), np.full(10, target))

    assert np.array_equal(np.argsort(weights[-1]), np.argsort(-gradient))
    assert np.all(weights[-1, positive] < 0.25)
    assert weights[-1, np.argmin(gradient)] > 0.25


def test_shock_of_a_hundred_standard_deviations_leaves_weights_and_transport_finite():
    raw, target = stream_where_one_is_right(7, 2, 300)
    variance = np.ones(300)
    raw[200:], target[200:], variance[200:] = 100.0 * raw[200:], 100.0 * target[200:], 1e4

    _, (weights, info) = fold(learn_step, fusion.init(), (raw, target, variance))

    assert np.max(np.abs(np.asarray(weights).sum(axis=1) - 1.0)) < 1e-10
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(info))
    # The right kernel is as right as before, and counts for less while the shock is news.
    assert np.all(np.argmax(np.asarray(weights)[200:], axis=1) == 2)
    assert 0.26 < float(weights[-1, 2]) < 0.8 < float(weights[199, 2])


def test_step_size_follows_relative_volatility_within_its_bounds():
    raw, target = stream_where_one_is_right(1, 0, 250)
    calm, middle, wild = (
        float(np.asarray(follow(raw, target, variance)[2].step_size)[-1])
        for variance in (0.01, 1.0, 100.0)
    )

    rules = CONFIG.fusion
    assert calm == rules.learning_rate_minimum
    assert middle == rules.learning_rate_volatility
    assert wild == rules.learning_rate_maximum


def test_regularisation_grows_with_volatility_and_is_a_tenth_and_a_half_at_calm():
    raw, target = stream_where_one_is_right(1, 0, 50)
    epsilons = [float(np.asarray(follow(raw, target, v)[2].epsilon)[-1]) for v in (0.0, 1.0, 9.0)]

    # ε₀ (1 + α √ratio) with ε₀ = 0.1 and α = 0.5
    np.testing.assert_allclose(epsilons, [0.1, 0.15, 0.25])


@pytest.mark.parametrize("seed", range(4))
def test_target_becomes_uniform_as_the_regularisation_grows_and_is_itself_at_calm(seed):
    target = np.random.default_rng(seed).dirichlet(np.full(4, 0.05)) + 1e-12
    target /= target.sum()

    calm, hotter, hot = (fusion.tempered(target, jnp.asarray(t)) for t in (0.5, 1.5, 1e4 / 0.15))

    np.testing.assert_allclose(calm, target)
    np.testing.assert_allclose(hot, 0.25, atol=0.01)
    assert stats.entropy(target) < stats.entropy(np.asarray(hotter)) < np.log(4.0)
    assert np.array_equal(np.argsort(hotter), np.argsort(target))


def test_shrinkage_leaves_a_useless_kernel_at_persistence():
    random = np.random.default_rng(8)
    raw = 3.0 * random.normal(size=(600, 4))

    state, _, _ = follow(raw, 0.1 * random.normal(size=600))

    shrunk = np.asarray(fusion.shrink(state, jnp.full(4, 3.0), jnp.zeros(())))
    assert np.all(np.abs(shrunk) < 0.01 * 3.0)


def test_soft_reset_gives_every_kernel_its_share_and_softens_the_evidence():
    state, _, _ = follow(*stream_where_one_is_right(2, 1, 400))

    after = fusion.reset(CONFIG, state)

    kept = 1.0 - 4 * fusion.RESET_SHARE
    for weights, before in (
        (after.weights, state.weights),
        (after.kernels.weights, state.kernels.weights),
    ):
        np.testing.assert_allclose(weights, kept * np.asarray(before) + fusion.RESET_SHARE)
        assert np.min(weights) >= fusion.RESET_SHARE


def test_uniform_reset_gives_a_quarter_each():
    state, _, _ = follow(*stream_where_one_is_right(2, 1, 400))

    after = fusion.reset(UNIFORM_RESET, state)

    assert np.array_equal(after.weights, np.full(4, 0.25))


def in_use(weights: list[float], masked: list[bool], forced: bool) -> np.ndarray:
    flags = (jnp.asarray(masked), jnp.asarray(forced))
    return np.asarray(fusion.weights_in_use(jnp.asarray(weights), *flags))


NONE = [False, False, False, False]
SIGNATURE = [False, False, False, True]


def test_frozen_signal_masks_the_signature_and_renormalises():
    weights = in_use([0.25, 0.125, 0.125, 0.5], SIGNATURE, False)

    assert np.array_equal(weights, [0.5, 0.25, 0.25, 0.0])
    np.testing.assert_allclose(
        in_use([0.0, 0.0, 0.0, 1.0], SIGNATURE, False), [1 / 3, 1 / 3, 1 / 3, 0]
    )


def test_collapsed_markov_carries_no_weight_until_it_recovers():
    stored = [0.25, 0.5, 0.125, 0.125]

    assert np.array_equal(in_use(stored, [False, True, False, False], False), [0.5, 0, 0.25, 0.25])
    assert np.array_equal(in_use(stored, NONE, False), stored)


def test_emergency_of_regularity_leaves_the_signature_alone():
    alone = [0.0, 0.0, 0.0, 1.0]

    assert np.array_equal(in_use([0.25, 0.25, 0.25, 0.25], NONE, True), alone)
    assert np.array_equal(in_use([0.3, 0.4, 0.2, 0.1], [False, True, False, False], True), alone)
    # A frozen signal has no signature.
    assert in_use([0.25, 0.25, 0.25, 0.25], SIGNATURE, True)[3] == 0.0


def test_series_without_a_unit_teaches_the_weights_nothing():
    said = fusion.no_forecasts()

    scored = jax.jit(functools.partial(fusion.score, CONFIG))(fusion.init(), said, jnp.asarray(1e6))

    assert np.all(np.asarray(scored.kernels.variances) == 0.0)
    np.testing.assert_allclose(scored.kernels.weights, 0.25)
    assert np.all(np.asarray(scored.experts.squared) == 0.0)
