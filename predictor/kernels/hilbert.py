"""hilbert: regression in the reproducing-kernel Hilbert space of a polynomial kernel.

The inhomogeneous polynomial kernel k(u, v) = (1 + ⟨u, v⟩)³ on a delay embedding has a
finite feature map, the monomials up to degree three, so kernel ridge regression is exact
recursive least squares on them. The embedding coordinates are the level and the two last
increments, which span the same space as three lags but are nearly uncorrelated. Further
increments enter linearly: the Wiener–Hopf part of the forecast.

Wins on smooth chaos, threshold autoregressions and linear processes; assumes that the law
of the next increment depends on the last eight values.
"""

from __future__ import annotations

from itertools import combinations_with_replacement

import jax.numpy as jnp

from predictor.config import PredictorConfig
from predictor.kernels.base import KernelTick
from predictor.kernels.regression import regression_kernel, soft_clip
from predictor.types import Array

DEGREE = 3
EMBEDDING = 3
LINEAR_LAGS = 5
INPUT_LIMIT = 4.0

MONOMIALS = tuple(
    indices
    for degree in range(1, DEGREE + 1)
    for indices in combinations_with_replacement(range(EMBEDDING), degree)
)


def features(tick: KernelTick) -> Array:
    """Constant, monomials of the embedding, then further increments: `[25]`."""
    raw = jnp.stack([tick.levels[0], tick.increments[0], tick.increments[1]])
    bounded = soft_clip(raw, INPUT_LIMIT)
    columns = [jnp.ones(())]
    for indices in MONOMIALS:
        value = raw[indices[0]] if len(indices) == 1 else bounded[indices[0]]
        for index in indices[1:]:
            value = value * bounded[index]
        columns.append(value)
    linear = tick.increments[2 : 2 + LINEAR_LAGS]
    return jnp.concatenate([jnp.stack(columns), linear])


def _prior_precision(config: PredictorConfig) -> Array:
    # Products of unit-variance inputs have the energy of their degree's moments, and
    # curvature is the exception: each degree is trusted a tenth of the one below.
    degrees = [1] + [len(indices) for indices in MONOMIALS] + [1] * LINEAR_LAGS
    return config.hilbert.hilbert_ridge * jnp.asarray([10.0 ** (d - 1) for d in degrees])


KERNEL = regression_kernel(
    "hilbert", features, _prior_precision, lambda config: config.hilbert.hilbert_memory
)
