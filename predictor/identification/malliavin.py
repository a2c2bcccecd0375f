r"""How a forecast, or any functional of Gaussian shocks, answers to each of them.

For F = f(ΔW₁, …, ΔW_n) the Malliavin derivative is D_t F = ∂f/∂ΔW_t, and the formula of Clark and
Ocone represents F by its conditional expectations,

$$ F = \mathrm E F + \sum_t \mathrm E[D_t F \mid F_{t-1}]\, \Delta W_t + o(1), $$

with an error that vanishes as the steps do and is zero for a linear F.

**Source:** Nualart (2006), *The Malliavin Calculus and Related Topics*, proposition 1.3.14.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from predictor.identification.series import Host
from predictor.types import Array

Functional = Callable[[Array], Array]


class ClarkOcone(NamedTuple):
    """`mean` of F, `integrand` `[paths, n]` and what is left over, `residual` `[paths]`."""

    mean: float
    integrand: Host
    residual: Host


def derivative(functional: Functional, past: Host) -> Host:
    """∂f/∂x for `past` `[n]`, exact: the gradient of a forecast with respect to its inputs."""
    with jax.enable_x64(True):
        return np.asarray(jax.grad(functional)(jnp.asarray(past, jnp.float64)))


def clark_ocone(
    functional: Functional,
    shocks: Host,
    features: Callable[[Host], Host] | None = None,
) -> ClarkOcone:
    """Represent F on `paths` of Gaussian `shocks` `[paths, n]`.

    E[D_t F | F_{t−1}] is the regression of the derivative on `features` of the path before t,
    `[paths, n]` ↦ `[paths, k]` with the later shocks set to zero; by default powers 0 to 3 of
    its sum, which is exact for functionals of the end point up to degree four.
    """
    paths, steps = shocks.shape
    with jax.enable_x64(True):
        sample = jnp.asarray(shocks, jnp.float64)
        values = np.asarray(jax.vmap(functional)(sample))
        slopes = np.asarray(jax.vmap(jax.grad(functional))(sample))
    basis = _powers_of_the_sum if features is None else features
    integrand = np.empty((paths, steps))
    for step in range(steps):
        known = np.where(np.arange(steps) < step, shocks, 0.0)
        design = basis(known)
        integrand[:, step] = design @ np.linalg.lstsq(design, slopes[:, step], rcond=None)[0]
    mean = float(values.mean())
    return ClarkOcone(mean, integrand, values - mean - np.sum(integrand * shocks, axis=1))


def _powers_of_the_sum(known: Host) -> Host:
    return np.vander(known.sum(axis=1), 4, increasing=True)
