"""Levinson-Durbin against dense solvers and closed forms; innovations by Kolmogorov."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg

from predictor.identification.wiener_hopf import (
    autocovariance,
    levinson_durbin,
    paley_wiener,
    residuals,
    wiener_hopf,
)
from tests.predictor.streams import autoregression


@given(st.integers(1, 12), st.integers(0, 2**31))
def test_recursion_agrees_with_a_toeplitz_solver(order, seed):
    random = np.random.default_rng(seed)
    gamma = autocovariance(random.normal(size=60), order)
    right = random.normal(size=order)

    np.testing.assert_allclose(
        levinson_durbin(gamma).coefficients,
        linalg.solve_toeplitz(gamma[:order], gamma[1:]),
        atol=1e-9,
    )
    np.testing.assert_allclose(
        levinson_durbin(gamma, right).coefficients,
        linalg.solve_toeplitz(gamma[:order], right),
        rtol=1e-7,
        atol=1e-9,
    )


def test_exact_covariances_of_an_autoregression_give_its_coefficients():
    # AR(2): ρ₁ = φ₁/(1 − φ₂), ρ_k = φ₁ ρ_{k−1} + φ₂ ρ_{k−2}.
    phi = (1.2, -0.5)
    rho = [1.0, phi[0] / (1.0 - phi[1])]
    for _ in range(5):
        rho.append(phi[0] * rho[-1] + phi[1] * rho[-2])

    found = levinson_durbin(np.array(rho))

    np.testing.assert_allclose(found.coefficients, [*phi, 0, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(found.reflections[1:], [phi[1], 0, 0, 0, 0], atol=1e-12)
    assert np.all(np.diff(found.errors) <= 1e-12)


def test_coefficients_of_a_long_autoregression_are_recovered():
    series = autoregression(np.random.default_rng(1), [0.6, -0.3, 0.2], 20_000, 1)[:, 0]

    found = wiener_hopf(series, 3)

    # Each scatters by about 1/√20,000 = .007.
    np.testing.assert_allclose(found.coefficients, [0.6, -0.3, 0.2], atol=0.025)
    assert found.errors[-1] == pytest.approx(1.0, abs=0.03)


def test_residual_is_orthogonal_to_the_past():
    series = autoregression(np.random.default_rng(2), [0.6, -0.3], 5000, 1)[:, 0]
    error = residuals(series, wiener_hopf(series, 4))
    centred = series - series.mean()

    for lag in range(1, 5):
        past = centred[4 - lag : -lag]
        # Exact up to the values that the divisor T leaves out at the ends.
        assert abs(np.mean(error * past)) < 0.01 * np.std(error) * np.std(past)
    assert abs(np.corrcoef(error, centred[:-4])[0, 1]) < 0.01


def test_forecast_over_two_steps_is_the_square_of_one():
    series = autoregression(np.random.default_rng(3), [0.7], 50_000, 1)[:, 0]

    found = wiener_hopf(series, 2, horizon=2)

    np.testing.assert_allclose(found.coefficients, [0.49, 0.0], atol=0.03)


def test_sequence_that_is_no_covariance_is_refused():
    with pytest.raises(ValueError, match="positive definite"):
        levinson_durbin(np.array([1.0, 1.5, 1.0]))


@pytest.mark.parametrize(("phi", "variance"), [(0.0, 1.0), (0.8, 1.0), (-0.6, 1.0)])
def test_innovation_variance_is_kolmogorov_s(phi, variance):
    series = 3.0 * autoregression(np.random.default_rng(4), [phi], 20_000, 1)[:, 0]

    found = paley_wiener(series)

    # The mean of 10,000 log ordinates scatters by π/√60,000 = .013.
    assert found.innovation_variance == pytest.approx(9.0 * variance, rel=0.06)
    assert found.regular


def test_integral_is_near_zero_for_white_noise_and_infinite_for_a_wave():
    random = np.random.default_rng(5)
    white = paley_wiener(random.normal(size=5000))
    # Two waves on the grid: all other ordinates are rounding and meet the floor, where the
    # integral is 2 ln(10^10) arctan π = 58.
    time = 2 * np.pi * np.arange(4096) / 4096
    wave = paley_wiener(np.sin(50 * time) + np.cos(731 * time))

    # ∫ E|ln f|/(1 + ω²) of five averaged ordinates is about 1.
    assert white.integral < 1.5
    assert wave.integral > 50.0
    assert wave.innovation_variance < 1e-6
