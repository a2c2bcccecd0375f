"""The identification vector tells known processes apart."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from predictor.identification import identify
from predictor.identification.stationarity import Verdict
from tests.predictor.streams import autoregression


def test_random_walk_driven_by_another_series():
    random = np.random.default_rng(1)
    driver = random.normal(size=1000)
    steps = random.normal(size=1000)
    steps[1:] += driver[:-1]

    found = identify(np.cumsum(steps), driver)

    assert found.stationarity.verdict is Verdict.INTEGRATED
    assert found.fractional.order == pytest.approx(1.0, abs=0.2)
    assert abs(found.holder_exponent - 0.5) < 3.0 * found.holder_standard_error
    assert found.singularities.dominant == pytest.approx(0.5, abs=0.15)
    assert found.transfer_entropy is not None
    assert found.transfer_entropy.nats == pytest.approx(0.5 * np.log(2.0), abs=0.06)
    assert abs(found.variation.jump_z) < 3.0
    assert found.semimartingale.drift_share < 0.02
    assert found.linear.coefficients[0] == pytest.approx(1.0, abs=0.1)
    assert abs(found.koopman.eigenvalues[1]) > 0.97


def test_short_memory_is_stationary_with_order_zero():
    series = autoregression(np.random.default_rng(3), [0.5], 1000, 1)[:, 0]

    found = identify(series)

    assert found.stationarity.verdict is Verdict.STATIONARY
    assert found.fractional.order < 0.3
    assert found.holder_exponent < 0.3
    assert found.transfer_entropy is None
    assert found.paley_wiener.regular
    assert found.paley_wiener.innovation_variance == pytest.approx(1.0, rel=0.2)
    # Without a forecast of its own, the newest value counts most.
    assert found.sensitivity[-1] == pytest.approx(0.5, abs=0.1)
    assert np.all(found.sensitivity[:-5] == 0.0)


def test_sensitivity_is_that_of_the_given_forecast():
    series = np.random.default_rng(3).normal(size=100)

    found = identify(series, forecast=lambda x: 2.0 * x[-1] - x[-2] + jnp.sin(x[0]))

    assert found.sensitivity[-1] == 2.0
    assert found.sensitivity[-2] == -1.0
    assert found.sensitivity[0] == pytest.approx(np.cos(series[0]))


@pytest.mark.parametrize("values", [np.ones(200), np.zeros(50), np.full(200, np.inf)])
def test_series_that_cannot_be_identified_is_refused(values):
    with pytest.raises(ValueError, match="series"):
        identify(values)
