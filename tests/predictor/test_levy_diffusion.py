"""The fitted diffusion: exact for an Ornstein–Uhlenbeck process, and never a runaway."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from predictor.config import WINDOW, PredictorConfig
from predictor.kernels.levy.diffusion import diffusion_member
from tests.predictor import streams

CONFIG = PredictorConfig()
MEMBER = diffusion_member("diffusion")


def forecast(coefficients: list[float], level: float, variance: float = 0.04) -> float:
    """Increment of a member whose regression is given, units of levels and increments alike."""
    state = MEMBER.init(CONFIG)
    regression = state.regression._replace(
        coefficients=jnp.asarray(coefficients), variance=jnp.asarray(variance)
    )
    tick = streams.kernel_tick(np.full(WINDOW, level), learn=False)
    step = jax.jit(lambda state, tick: MEMBER.step(CONFIG, state, tick)[1])
    return float(step(state._replace(regression=regression), tick))


@pytest.mark.parametrize("memory", [0.2, 0.6, 0.9])
def test_mean_of_an_ornstein_uhlenbeck_process_is_that_of_its_exact_transition(memory):
    increment = forecast([0.0, memory - 1.0, 0.0, 0.0], level=1.5)

    assert increment == pytest.approx((memory - 1.0) * 1.5, abs=2e-3)


def test_a_drift_that_runs_away_is_held_within_a_deviation_of_what_was_fitted():
    coefficients = [0.0, -0.3, 0.0, 0.2]
    level, deviation = 3.0, 0.2
    fitted = float(np.dot(coefficients, [1.0, level, level**2, level**3]))

    increment = forecast(coefficients, level, deviation**2)

    # The equation dX = (−0.36 X + 0.24 X³) dt from 3 reaches infinity within a tick.
    assert increment == pytest.approx(fitted + deviation)
