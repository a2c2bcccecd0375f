"""Index, skewness and scale of stable samples from an independent generator."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from predictor.identification.stable_law import stable_law


@pytest.mark.parametrize("alpha", [0.8, 1.2, 1.6, 1.9])
@pytest.mark.parametrize("beta", [0.0, 0.6])
def test_parameters_are_recovered(alpha, beta):
    random = np.random.default_rng(round(100 * alpha))
    draws = stats.levy_stable.rvs(alpha, beta, scale=3.0, size=(20, 2000), random_state=random)

    found = np.array([stable_law(7.0 + sample) for sample in draws])

    # One index scatters by .03 to .05 at 2,000 draws.
    assert found[:, 0].mean() == pytest.approx(alpha, abs=0.04)
    assert found[:, 1].mean() == pytest.approx(beta, abs=0.15)
    assert found[:, 2].mean() == pytest.approx(3.0, rel=0.06)
    assert found[:, 0].std() < 0.08


def test_cauchy_and_gaussian_are_one_and_two():
    random = np.random.default_rng(1)

    cauchy, gaussian = (
        stable_law(random.standard_cauchy(5000)),
        stable_law(random.normal(size=5000)),
    )

    assert cauchy.alpha == pytest.approx(1.0, abs=0.06)
    assert cauchy.scale == pytest.approx(1.0, rel=0.08)
    assert gaussian.alpha > 1.96
    # S(2) has the variance 2 σ².
    assert gaussian.scale == pytest.approx(np.sqrt(0.5), rel=0.03)


def test_unit_and_offset_do_not_matter():
    draws = np.random.default_rng(2).standard_t(2.0, size=3000)

    one, other = stable_law(draws), stable_law(-5e6 + 1e3 * draws)

    assert other.alpha == pytest.approx(one.alpha, rel=1e-6)
    assert other.scale == pytest.approx(1e3 * one.scale, rel=1e-6)


def test_sample_that_does_not_vary_is_refused():
    with pytest.raises(ValueError, match="one value"):
        stable_law(np.zeros(100))
