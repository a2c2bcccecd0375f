"""Densities on a grid against normal laws in closed form and against the backward equation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from predictor.identification.density import forecast_density, transition_density
from predictor.kernels.markov.backward_equation import generator_matrix, march_back

RATE, DIFFUSION, START = 0.7, 0.6, 0.8
VARIANCE = DIFFUSION * -np.expm1(-2.0 * RATE) / (2.0 * RATE)
LAW = stats.norm(START * np.exp(-RATE), np.sqrt(VARIANCE))


def ornstein_uhlenbeck(points: int):
    positions = np.linspace(-6.0, 6.0, points)
    return transition_density(
        positions, -RATE * positions, np.full(points, DIFFUSION), START, steps=points - 1
    )


def test_density_converges_to_the_ornstein_uhlenbeck_law_at_first_order():
    errors = []
    for points in (101, 201, 401):
        found = ornstein_uhlenbeck(points)
        gap = np.abs(found.values - LAW.pdf(found.positions))
        errors.append(float(gap.sum()) * found.spacing)

    assert errors[-1] < 0.01
    assert np.all(np.log2(np.array(errors[:-1]) / np.array(errors[1:])) > 0.9)


def test_entropy_of_the_ornstein_uhlenbeck_law_is_that_of_its_variance():
    assert ornstein_uhlenbeck(401).entropy == pytest.approx(LAW.entropy(), abs=0.005)


@given(
    st.integers(0, 1000), st.floats(-1.0, 1.0), st.floats(0.01, 5.0), st.sampled_from([1, 7, 40])
)
def test_every_law_keeps_its_mass_and_is_the_dual_of_the_backward_equation(
    seed, start, horizon, steps
):
    random = np.random.default_rng(seed)
    positions = np.linspace(-1.0, 1.0, 41)
    drift, diffusion = random.normal(size=41), random.exponential(size=41)
    terminal = random.normal(size=41)

    law = transition_density(positions, drift, diffusion, start, horizon=horizon, steps=steps)

    assert law.values.min() > -1e-12
    assert law.mean_of(np.ones(41)) == pytest.approx(1.0, abs=1e-12)
    generator = horizon * generator_matrix(drift, diffusion, law.spacing)
    value = march_back(generator, terminal, steps)[0]
    assert law.mean_of(terminal) == pytest.approx(
        float(np.interp(start, positions, value)), abs=1e-10
    )


def test_start_outside_of_the_grid_is_refused_with_the_remedy():
    positions = np.linspace(0.0, 1.0, 11)

    with pytest.raises(ValueError, match="widen the grid"):
        transition_density(positions, np.zeros(11), np.ones(11), 1.5)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_density_of_a_forecast_is_the_normal_law(mean, deviation):
    found = forecast_density(mean, deviation)

    law = stats.norm(mean, deviation)
    # Four deviations leave out 6·10⁻⁵ of the mass.
    assert found.mean_of(np.ones(found.size)) == pytest.approx(1.0, abs=1e-4)
    assert found.entropy == pytest.approx(law.entropy(), abs=2e-3)
    np.testing.assert_allclose(
        found.values * deviation, law.pdf(found.positions) * deviation, atol=1e-6
    )


@pytest.mark.parametrize(("mean", "deviation"), [(np.nan, 1.0), (0.0, np.inf), (0.0, -1.0)])
def test_forecast_without_a_law_is_refused(mean, deviation):
    with pytest.raises(ValueError, match="give no law"):
        forecast_density(mean, deviation)


def test_forecast_without_a_deviation_has_the_narrowest_law():
    assert forecast_density(3.0, 0.0).spacing == pytest.approx(8e-6 / 255)
