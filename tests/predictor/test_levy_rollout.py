"""Ensembles against closed-form moments and laws; keys that replay."""

from __future__ import annotations

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from predictor.kernels.levy.rollout import (
    ItoLevyModel,
    JumpPath,
    compound_poisson,
    ensemble,
    rollout_key,
)
from predictor.kernels.levy.schemes import propagate_mean

PATHS = 6000

compiled = functools.partial(jax.jit, static_argnames=("paths", "solver"))(ensemble)


def run(key, model, start, solver=None) -> np.ndarray:
    """End points of `PATHS` paths; every model shares one program."""
    arrays = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), model)
    return np.asarray(compiled(key, arrays, start, paths=PATHS, solver=solver))


def key_of(sequence: int = 7):
    return rollout_key(42, (1, 2), sequence)


def reverting(**parts) -> ItoLevyModel:
    """Ornstein-Uhlenbeck of rate 1 about .3 with variance rate e^−1."""
    drift, log_variance = jnp.asarray([0.3, -1.0, 0.0, 0.0]), jnp.asarray([-1.0, 0.0, 0.0])
    return ItoLevyModel(drift, log_variance, **parts)


def test_moments_of_a_reverting_jump_diffusion_have_their_closed_form():
    rate, mean, scale = 2.0, 0.2, 0.5
    model = reverting(jump_rate=rate, jump_mean=mean, jump_scale=scale)

    ends = run(key_of(), model, 1.0)

    level = 0.3 + rate * mean
    variance = (np.exp(-1) + rate * (mean**2 + scale**2)) * (1 - np.exp(-2)) / 2
    expected = level + (1 - level) * np.exp(-1)
    assert abs(ends.mean() - expected) < 3.5 * np.sqrt(variance / PATHS)
    # The fourth moment of the jumps widens the error of the variance to 2 %.
    assert ends.var() == pytest.approx(variance, rel=0.07)


def test_mean_of_the_step_is_the_mean_of_the_ensemble():
    model = reverting(jump_rate=1.0, jump_mean=0.4, jump_scale=0.1)
    with_jumps = model.drift.at[0].add(0.4)

    step = propagate_mean(with_jumps, jnp.asarray(1.0), jnp.exp(-1.0), jnp.nan)
    ends = run(key_of(), model, 1.0)

    assert abs(float(step.mean) - ends.mean()) < 3.5 * ends.std() / np.sqrt(PATHS)


def test_stable_motion_alone_has_the_law_of_scipy():
    model = ItoLevyModel(
        jnp.zeros(4),
        jnp.asarray([-20.0, 0.0, 0.0]),
        stable_scale=0.5,
        stable_alpha=1.6,
        stable_beta=0.4,
    )

    ends = run(key_of(), model, 0.0)

    assert stats.kstest(ends[:2000], stats.levy_stable(1.6, 0.4, scale=0.5).cdf).pvalue > 0.05


@pytest.mark.parametrize("solver", [diffrax.Euler(), None])
def test_state_dependent_volatility_is_integrated_in_the_sense_of_ito(solver):
    # b = 0 makes X a martingale whatever σ(x); a Stratonovich solver would drift by ½σσ'.
    model = ItoLevyModel(jnp.zeros(4), jnp.asarray([-1.0, 1.0, 0.0]))

    ends = run(key_of(), model, 0.2, solver)

    assert abs(ends.mean() - 0.2) < 3.5 * ends.std() / np.sqrt(PATHS)


def test_ensemble_is_deterministic_in_its_key_and_differs_by_asset_and_tick():
    model = reverting(jump_rate=1.0, jump_scale=1.0)
    first = run(key_of(), model, 1.0)

    np.testing.assert_array_equal(first, run(key_of(), model, 1.0))
    for other in (key_of(8), rollout_key(42, (1, 3), 7), rollout_key(43, (1, 2), 7)):
        assert not np.any(np.asarray(first) == np.asarray(run(other, model, 1.0)))


def test_jump_path_is_additive_and_right_continuous():
    path = JumpPath(jnp.asarray([0.25, 0.5, 0.75]), jnp.asarray([1.0, 10.0, 100.0]))

    assert float(path.evaluate(0.0, 0.5)) == 11.0
    assert float(path.evaluate(0.5, 1.0)) == 100.0
    assert float(path.evaluate(0.5)) == 11.0


def test_number_and_sizes_of_jumps_are_compound_poisson():
    keys = jax.random.split(jax.random.key(1), 20_000)
    paths = jax.vmap(lambda key: compound_poisson(key, 2.0, 1.0, 0.5))(keys)

    counts = np.sum(np.asarray(paths.sizes) != 0.0, axis=1)
    sums = np.sum(np.asarray(paths.sizes), axis=1)

    # Standard errors: .01 for the mean count, .02 for its variance, .016 for the mean sum.
    assert counts.mean() == pytest.approx(2.0, abs=0.04)
    assert counts.var() == pytest.approx(2.0, abs=0.1)
    assert sums.mean() == pytest.approx(2.0, abs=0.05)
    assert sums.var() == pytest.approx(2.0 * (1.0 + 0.25), rel=0.05)
    assert np.all((paths.times > 0.0) & (paths.times <= 1.0))
