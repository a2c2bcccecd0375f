"""The Itô–Lévy model of a series: what it was made of is found, and what it says comes true."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from predictor.identification.jump_diffusion import jump_diffusion
from predictor.kernels.levy.rollout import ensemble

ROWS = 6000


def reverting(random: np.random.Generator, slope: float, jumps: np.ndarray) -> np.ndarray:
    """AR(1) about 5 with unit noise and these jumps `[ROWS]`."""
    values = np.full(ROWS, 5.0)
    noise = random.normal(size=ROWS) + jumps
    for row in range(1, ROWS):
        values[row] = 5.0 + slope * (values[row - 1] - 5.0) + noise[row]
    return values


def merton_jumps(random: np.random.Generator, rate: float, mean: float, scale: float) -> np.ndarray:
    happens = random.uniform(size=ROWS) < -np.expm1(-rate)
    return happens * (mean + scale * random.normal(size=ROWS))


@pytest.mark.parametrize("slope", [0.5, 0.9])
def test_jumps_of_a_reverting_process_are_found_and_do_not_enter_its_diffusion(slope):
    random = np.random.default_rng(1)
    values = reverting(random, slope, merton_jumps(random, 0.02, 12.0, 2.0))

    model = jump_diffusion(values)

    speed = -np.log(slope)
    assert float(model.jump_rate) == pytest.approx(0.02, rel=0.15)
    assert float(model.jump_mean) == pytest.approx(12.0, rel=0.05)
    assert float(model.jump_scale) == pytest.approx(2.0, rel=0.25)
    assert float(model.drift[1]) == pytest.approx(-speed, rel=0.06)
    assert float(model.drift[0] / -model.drift[1]) == pytest.approx(5.0, abs=0.4)
    rate = np.exp(float(model.log_variance[0]))
    assert rate * (1.0 - slope**2) / (2.0 * speed) == pytest.approx(1.0, rel=0.05)


def test_walk_with_drift_has_a_constant_one_and_no_jump():
    random = np.random.default_rng(2)

    model = jump_diffusion(np.cumsum(0.2 + 3.0 * random.normal(size=ROWS)))

    assert model.jump_rate == 0.0
    assert np.asarray(model.drift[1:]) == pytest.approx(0.0)
    assert float(model.drift[0]) == pytest.approx(0.2, abs=0.12)
    assert np.exp(float(model.log_variance[0])) == pytest.approx(9.0, rel=0.05)


def test_series_without_jumps_shows_one_in_about_one_of_twenty():
    random = np.random.default_rng(3)
    rates = [jump_diffusion(np.cumsum(random.normal(size=500))).jump_rate for _ in range(400)]

    assert 0.01 < np.mean(np.array(rates) > 0.0) < 0.12


def test_ensemble_of_the_model_has_the_law_of_the_next_value():
    random = np.random.default_rng(4)
    rate, mean, scale, slope = 0.05, -8.0, 2.0, 0.7
    model = jump_diffusion(reverting(random, slope, merton_jumps(random, rate, mean, scale)))

    with jax.enable_x64(True):
        start = jnp.asarray(7.0)
        drawn = np.asarray(ensemble(jax.random.key(1), model, start, 4000, steps=16))

    counts = random.poisson(rate, size=200_000)
    jumps = counts * mean + np.sqrt(counts) * scale * random.normal(size=200_000)
    truth = 5.0 + slope * 2.0 + random.normal(size=200_000) + jumps
    # Jumps decay within the tick that brings them, which the series does not show.
    tolerances = {0.01: 2.0, 0.25: 0.25, 0.5: 0.2, 0.75: 0.2, 0.975: 0.25}
    for share, tolerance in tolerances.items():
        assert np.quantile(drawn, share) == pytest.approx(np.quantile(truth, share), abs=tolerance)


@pytest.mark.parametrize("values", [np.ones(100), np.arange(10.0)])
def test_series_that_is_short_or_stands_still_is_refused(values):
    with pytest.raises(ValueError, match="series"):
        jump_diffusion(values)
