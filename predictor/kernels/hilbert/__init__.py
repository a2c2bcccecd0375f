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

import jax.numpy as jnp
import numpy as np

from predictor.kernels.bank import Member, bank_kernel
from predictor.kernels.base import KernelTick
from predictor.kernels.hilbert.polynomial import polynomial_member
from predictor.kernels.hilbert.seasonal import seasonal_member
from predictor.kernels.regression import linear_member
from predictor.types import Array

SHORT_EMBEDDING = (0, 1, 2)

DILATED_EMBEDDING = (0, 1, 3, 6, 10, 15)
"""Triangular numbers: neighbours for the noise, distance for the slow coordinates."""


def autoregression(name: str, increments: int) -> Member:
    """Linear projection on the level and the last `increments` increments."""

    def features(tick: KernelTick) -> Array:
        return jnp.concatenate([jnp.ones(1), tick.levels[:1], tick.increments[:increments]])

    return linear_member(
        name, features, np.ones(2 + increments), lambda config: config.hilbert.hilbert_memory
    )


def integrated_autoregression(name: str, increments: int) -> Member:
    """Linear projection on the last `increments` increments alone: a short series that has not
    come back to any level yet says nothing about one."""

    def features(tick: KernelTick) -> Array:
        return jnp.concatenate([jnp.ones(1), tick.increments[:increments]])

    return linear_member(
        name,
        features,
        np.ones(1 + increments),
        lambda config: config.hilbert.hilbert_memory,
        levels=0,
    )


KERNEL = bank_kernel(
    "hilbert",
    (
        integrated_autoregression("integrated_autoregression_4", 4),
        autoregression("autoregression_3", 2),
        autoregression("autoregression_9", 8),
        autoregression("autoregression_33", 32),
        polynomial_member("polynomial", SHORT_EMBEDDING, 3, 0.1),
        polynomial_member("dilated_polynomial", DILATED_EMBEDDING, 3, 0.03),
        seasonal_member("seasonal_difference", "difference"),
        seasonal_member("seasonal_level", "level"),
    ),
)
