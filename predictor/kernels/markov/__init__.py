"""markov: the conditional mean of a scalar Markov process.

Members: the linear drift; the drift as a polynomial of degree five; the drift at every
resolution, by Kramers–Moyal moments on a tree of cells; two switching regimes; and the backward
equation of the embedded diffusion, solved by a deep Galerkin network.

Wins on mean-reverting, bistable, threshold and switching processes; assumes that the present
value, with the regime, carries all that the past knows.

**Source:** Friedrich et al. (2011), *Approaching complexity by stochastic methods*, Physics
Reports 506, 87-162.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from predictor.kernels.bank import BankState, Member, bank_kernel
from predictor.kernels.base import KernelTick
from predictor.kernels.markov.context_tree import context_tree_member
from predictor.kernels.markov.switching import switching_member
from predictor.kernels.markov.value_function import ValueReading, reading, value_function_member
from predictor.kernels.regression import autoregression, nonlinear_member
from predictor.types import Array

INPUT_LIMIT = 4.0
DRIFT_DEGREE = 5
DRIFT_PRECISION = 0.1


def _polynomial(tick: KernelTick) -> Array:
    level = tick.levels[0]
    bounded = jnp.clip(level, -INPUT_LIMIT, INPUT_LIMIT)
    powers = [bounded**power for power in range(2, DRIFT_DEGREE + 1)]
    return jnp.stack([jnp.ones(()), level, *powers])


MEMBERS: tuple[Member, ...] = (
    autoregression("mean_reversion", 1, 0, lambda config: config.markov.markov_memory),
    nonlinear_member(
        "polynomial_drift",
        _polynomial,
        np.full(DRIFT_DEGREE + 1, DRIFT_PRECISION),
        lambda config: config.markov.markov_memory,
    ),
    context_tree_member("kramers_moyal"),
    switching_member("switching"),
    value_function_member("value_function"),
)

KERNEL = bank_kernel("markov", MEMBERS)


def value_reading(state: BankState) -> ValueReading:
    """What the deep Galerkin solution said at the last tick."""
    names = [member.name for member in MEMBERS]
    return reading(state.members[names.index("value_function")])
