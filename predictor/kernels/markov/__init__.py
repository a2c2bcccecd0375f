"""markov: the conditional mean of a scalar Markov process, by Kramers–Moyal regression.

E[y_{t+1} − y_t | y_t = x] is regressed on 1, x, x², x³: the first Kramers–Moyal moment of
the embedded diffusion. Wins on mean-reverting and bistable processes; assumes that the
present value carries all that the past knows.

**Source:** Friedrich et al. (2011), *Approaching complexity by stochastic methods*, Physics
Reports 506, 87-162.
"""

from __future__ import annotations

import jax.numpy as jnp

from predictor.config import PredictorConfig
from predictor.kernels.base import KernelTick
from predictor.kernels.regression import regression_kernel, soft_clip
from predictor.types import Array

INPUT_LIMIT = 4.0
DRIFT_DEGREE = 3


def features(tick: KernelTick) -> Array:
    """Powers 0 to 3 of the standardised present value: `[4]`."""
    level = tick.levels[0]
    bounded = soft_clip(level, INPUT_LIMIT)
    return jnp.stack([jnp.ones(()), level, bounded * bounded, bounded * bounded * bounded])


def _prior_precision(config: PredictorConfig) -> Array:
    powers = jnp.arange(DRIFT_DEGREE + 1)
    return config.markov.markov_ridge * 10.0 ** jnp.maximum(powers - 1, 0)


KERNEL = regression_kernel(
    "markov", features, _prior_precision, lambda config: config.markov.markov_memory
)
