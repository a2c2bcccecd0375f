"""The Hölder exponent against the Cramér-Rao bound, exact likelihood and closed forms."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import linalg, optimize

from predictor import holder
from predictor.config import WINDOW
from tests.predictor.streams import fractional_noise

estimates_of = jax.jit(jax.vmap(holder.estimate, in_axes=1))

PATHS = 3000
"""Scatter of a measured mean 1/√3000 and of a measured deviation 1/√6000 of the deviation."""


@functools.lru_cache(maxsize=16)
def paths_of(exponent: float, points: int = WINDOW, paths: int = PATHS) -> np.ndarray:
    random = np.random.default_rng(round(1000 * exponent) + points)
    return np.cumsum(fractional_noise(random, exponent, points, paths), axis=0)


@pytest.mark.parametrize("exponent", [0.1, 0.3, 0.5, 0.7])
def test_estimates_of_128_points_are_unbiased_and_reach_the_cramer_rao_bound(exponent):
    bound = holder.cramer_rao_bound(exponent, WINDOW)

    found = np.asarray(estimates_of(paths_of(exponent)).exponent)

    # Goals .03 and 1.4; three standard deviations of the measurement stay inside .01 and 1.1.
    assert abs(found.mean() - exponent) <= 0.01
    assert found.std() <= 1.1 * bound


@pytest.mark.parametrize("exponent", [0.3, 0.5, 0.7])
def test_estimates_of_512_points_reach_the_bound_too(exponent):
    found = np.asarray(estimates_of(paths_of(exponent, 512, 1500)).exponent)

    assert abs(found.mean() - exponent) <= 0.005
    assert found.std() <= 1.1 * holder.cramer_rao_bound(exponent, 512)


@pytest.mark.parametrize("exponent", [0.05, 0.2, 0.5, 0.8, 0.9])
def test_stated_standard_error_is_the_measured_one(exponent):
    found = estimates_of(paths_of(exponent))

    stated = float(np.mean(found.standard_error))
    assert np.std(found.exponent) == pytest.approx(stated, rel=0.08)


@pytest.mark.parametrize("exponent", [0.2, 0.5, 0.8])
def test_estimate_is_close_to_the_exact_likelihood_of_the_dense_covariance(exponent):
    paths = paths_of(exponent)[:, :40]

    def exact(path):
        increments = np.diff(path)

        def loss(h):
            covariance = linalg.toeplitz(holder.fractional_noise_covariance(h, increments.size))
            factor = linalg.cho_factor(covariance)
            unit = increments @ linalg.cho_solve(factor, increments) / increments.size
            return np.log(unit) + 2.0 * np.mean(np.log(np.diag(factor[0])))

        return optimize.minimize_scalar(loss, bounds=(0.01, 0.99), method="bounded").x

    distance = np.asarray(estimates_of(paths).exponent) - [exact(path) for path in paths.T]

    # Both scatter by .05 about the truth; what lies between them is far less.
    assert np.sqrt(np.mean(distance**2)) < 0.012


def test_matrix_and_fourier_transform_agree_where_the_length_switches(monkeypatch):
    paths = paths_of(0.6, 256, 20)
    by_matrix = jax.vmap(holder.estimate, in_axes=1)(paths)

    monkeypatch.setattr(holder, "LONGEST_MATRIX", 100)
    holder.fractional_brownian_motion.cache_clear()
    by_fourier = jax.vmap(holder.estimate, in_axes=1)(paths)
    holder.fractional_brownian_motion.cache_clear()

    np.testing.assert_allclose(by_matrix.exponent, by_fourier.exponent, atol=1e-9)


@pytest.mark.parametrize("length", [7, 8, 127, 128])
@pytest.mark.parametrize("exponent", [0.1, 0.5, 0.9])
def test_sine_variances_are_the_diagonal_of_the_transformed_covariance(length, exponent):
    covariance = holder.fractional_noise_covariance(exponent, length)
    place = np.arange(1, length + 1)
    waves = np.sqrt(2.0 / (length + 1)) * np.sin(np.pi * np.outer(place, place) / (length + 1))

    dense = np.diag(waves @ linalg.toeplitz(covariance) @ waves.T)

    np.testing.assert_allclose(holder.sine_variances(covariance), dense, atol=1e-12)


def test_sine_basis_diagonalises_differenced_white_noise_in_closed_form():
    white = np.zeros(128)
    white[0] = 1.0

    variances = holder.sine_variances(holder.differenced_covariance(white))

    angles = np.pi * np.arange(1, 128) / 128
    np.testing.assert_allclose(variances, 2.0 - 2.0 * np.cos(angles), atol=1e-12)


@pytest.mark.parametrize("length", [8, 127, 300])
def test_sine_powers_keep_the_sum_of_squares(length):
    increments = np.random.default_rng(length).normal(size=length)

    powers = holder.sine_powers(jnp.asarray(increments))

    assert float(jnp.sum(powers)) == pytest.approx(np.sum(increments**2), rel=1e-12)


def test_cramer_rao_bound_of_brownian_motion_has_its_closed_form():
    # At H = ½ increments are independent: I = Σ (n − k) γ'(k)², and the unit is orthogonal.
    lag = np.arange(1, 127)
    below = np.where(lag > 1, (lag - 1) * np.log(np.maximum(lag - 1, 1)), 0.0)
    slope = (lag + 1) * np.log(lag + 1) - 2 * lag * np.log(lag) + below

    information = np.sum((127 - lag) * slope**2)

    assert holder.cramer_rao_bound(0.5, 128) == pytest.approx(information**-0.5, rel=1e-6)


def test_estimates_rank_the_processes():
    exponents = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
    means = [np.mean(estimates_of(paths_of(h, WINDOW, 200)).exponent) for h in exponents]

    assert np.all(np.diff(means) > 0.08)


def test_line_and_white_noise_are_the_two_ends():
    line = np.arange(WINDOW, dtype=float)[:, None]
    noise = np.random.default_rng(1).normal(size=(WINDOW, 200))

    assert float(estimates_of(line).exponent[0]) == pytest.approx(1.0, abs=0.005)
    assert np.max(estimates_of(noise).exponent) < 0.05


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.booleans())
def test_exponent_does_not_depend_on_offset_unit_and_direction(offset, unit, backwards):
    path = paths_of(0.6)[:, :1]
    turned = path[::-1] if backwards else path

    changed = estimates_of(offset * unit + unit * turned)

    np.testing.assert_allclose(changed.exponent, estimates_of(path).exponent, atol=1e-6)


@given(arrays.arrays(np.float64, (WINDOW, 1), elements=st.floats(-1e140, 1e140)))
def test_exponent_is_in_range_or_absent(path):
    found = estimates_of(path)
    value, error = float(found.exponent[0]), float(found.standard_error[0])

    assert np.isnan(value) == np.isnan(error)
    assert np.isnan(value) or (0.0 <= value <= 1.0 and 0.0 < error < 0.1)


@pytest.mark.parametrize("value", [0.0, 3.0, np.inf, np.nan])
def test_path_that_does_not_move_or_is_not_finite_has_no_exponent(value):
    found = estimates_of(jnp.full((WINDOW, 2), value))

    assert np.all(np.isnan(found.exponent))
    assert np.all(np.isnan(found.standard_error))


def test_jit_eager_and_batch_agree():
    paths = paths_of(0.4)[:, :6]

    batch = estimates_of(paths)
    jitted = jax.jit(holder.estimate)
    for lane, path in enumerate(paths.T):
        for single in (holder.estimate(jnp.asarray(path)), jitted(jnp.asarray(path))):
            # What is left is the order in which XLA adds.
            np.testing.assert_allclose(single.exponent, batch.exponent[lane], rtol=1e-11)
            np.testing.assert_allclose(
                single.standard_error, batch.standard_error[lane], rtol=1e-11
            )


def test_too_short_a_path_is_refused():
    with pytest.raises(ValueError, match="7 points, 8 are needed"):
        holder.estimate(jnp.zeros(7))
