"""hilbert: projection on the past in a reproducing-kernel Hilbert space.

Members: the linear projection (Wiener–Hopf) on a few increments alone, and on the level with a
few and with many of them, recursively; the polynomial kernel of degree three on a short and on
a dilated delay embedding; two seasonal regressions, on periods found from the ticks.

Wins on chaos, oscillations, linear processes of any order and seasons; assumes that the law
of the next increment depends on the last hundred values, and stays what it was for some
thousands of ticks.

**Source:** Aronszajn (1950), *Theory of reproducing kernels*; Wiener (1949), *Extrapolation,
interpolation, and smoothing of stationary time series*.
"""

from __future__ import annotations

from predictor.config import PredictorConfig
from predictor.kernels.bank import bank_kernel
from predictor.kernels.hilbert.polynomial import polynomial_member
from predictor.kernels.hilbert.seasonal import seasonal_member
from predictor.kernels.regression import autoregression
from predictor.types import Scalar

SHORT_EMBEDDING = (0, 1, 2)

DILATED_EMBEDDING = (0, 1, 3, 6, 10, 15)
"""Triangular numbers: neighbours for the noise, distance for the slow coordinates."""


def _memory(config: PredictorConfig) -> Scalar:
    return config.hilbert.hilbert_memory


KERNEL = bank_kernel(
    "hilbert",
    (
        # A short series that has not come back to any level yet says nothing about one.
        autoregression("integrated_autoregression_4", 0, 4, _memory),
        autoregression("autoregression_3", 1, 2, _memory),
        autoregression("autoregression_9", 1, 8, _memory),
        autoregression("autoregression_33", 1, 32, _memory),
        polynomial_member("polynomial", SHORT_EMBEDDING, 3, 0.1),
        polynomial_member("dilated_polynomial", DILATED_EMBEDDING, 3, 0.03),
        seasonal_member("seasonal_difference", "difference"),
        seasonal_member("seasonal_level", "level"),
    ),
)
