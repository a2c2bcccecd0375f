"""Fractional order on exact fractional noise and on paths."""

from __future__ import annotations

import numpy as np
import pytest

from predictor.identification.fractional import (
    fractional_order,
    geweke_porter_hudak,
    local_whittle,
)
from tests.predictor.streams import fractional_noise

SERIES = 120


@pytest.mark.parametrize("hurst", [0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("estimator", [geweke_porter_hudak, local_whittle])
def test_order_of_fractional_noise_is_hurst_minus_one_half_within_its_standard_error(
    estimator, hurst
):
    noise = fractional_noise(np.random.default_rng(round(100 * hurst)), hurst, 1000, SERIES).T

    found = np.array([estimator(series).order for series in noise])
    stated = estimator(noise[0]).standard_error

    # Bias of the lowest frequencies below .04; scatter over 120 series known to 7 %.
    assert found.mean() == pytest.approx(hurst - 0.5, abs=0.05)
    assert found.std() == pytest.approx(stated, rel=0.3)


def test_local_whittle_is_the_minimum_of_its_objective():
    series = fractional_noise(np.random.default_rng(1), 0.7, 500, 1)[:, 0]
    found = local_whittle(series)
    count = found.frequencies
    omega = 2 * np.pi * np.arange(1, count + 1) / 500
    power = np.abs(np.fft.fft(series - series.mean())[1 : count + 1]) ** 2

    def objective(d):
        return np.log(np.mean(omega ** (2 * d) * power)) - 2 * d * np.mean(np.log(omega))

    here = objective(found.order)
    assert here < min(objective(found.order - 1e-3), objective(found.order + 1e-3))


@pytest.mark.parametrize("hurst", [0.3, 0.5, 0.7])
def test_order_of_a_path_is_its_exponent_plus_one_half(hurst):
    noise = fractional_noise(np.random.default_rng(2), hurst, 1000, SERIES)

    found = [fractional_order(path).order for path in np.cumsum(noise, axis=0).T]

    assert np.mean(found) == pytest.approx(hurst + 0.5, abs=0.06)


@pytest.mark.parametrize("values", [np.ones(200), np.zeros(20), np.tile([1.0, -1.0], 100)])
def test_series_without_a_low_spectrum_is_refused(values):
    with pytest.raises(ValueError, match="series"):
        local_whittle(values)
