r"""How a forecast, or any functional of Gaussian shocks, answers to each of them.

For F = f(ΔW₁, …, ΔW_n) the Malliavin derivative is D_t F = ∂f/∂ΔW_t, and the formula of Clark and
Ocone represents F by its conditional expectations,

$$ F = \mathrm E F + \sum_t \mathrm E[D_t F \mid F_{t-1}]\, \Delta W_t + o(1), $$

with an error that vanishes as the steps do and is zero for a linear F.

For a diffusion dX = b dt + σ dW from x and a payoff that need not be smooth, the formula of Bismut,
Elworthy and Li moves the derivative from the payoff to a weight on the path,

$$ \partial_x \mathrm E f(X_T) = \mathrm E\Bigl[f(X_T) \frac1T \int_0^T
   \frac{Y_t}{\sigma(X_t)}\, dW_t\Bigr], \qquad
   dY = b'(X)\,Y\,dt + \sigma'(X)\,Y\,dW,\quad Y_0 = 1, $$

with the first variation Y = ∂X/∂x.

**Source:** Nualart (2006), *The Malliavin Calculus and Related Topics*, proposition 1.3.14;
Elworthy and Li (1994), *Formulae for the derivatives of heat semigroups*, Journal of Functional
Analysis 125, 252-286.
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

_Path = tuple[Array, Array, Array]
"""Position, first variation and stochastic integral."""


class ClarkOcone(NamedTuple):
    """`mean` of F, `integrand` `[paths, n]` and what is left over, `residual` `[paths]`."""

    mean: float
    integrand: Host
    residual: Host


class Sensitivity(NamedTuple):
    """`endings` X_T and `weights` of the paths, both `[paths]`: ∂ₓ E f(X_T) is the mean of
    f(`endings`) × `weights`, for any f."""

    endings: Host
    weights: Host

    def slope_of(self, payoff: Host) -> tuple[float, float]:
        """∂ₓ E f(X_T) for f at the endings, `[paths]`, and its standard error.

        The weights have mean zero, so f is centred first, which takes variance away and no mean.
        """
        terms = (payoff - payoff.mean()) * self.weights
        return float(terms.mean()), float(terms.std() / np.sqrt(terms.size))


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


def bismut_elworthy_li(
    drift: Functional, volatility: Functional, start: float, horizon: float, shocks: Host
) -> Sensitivity:
    """Weights for ∂ₓ E f(X_T) at x = `start`, by Euler steps of `horizon` / n.

    **Arguments:** `drift` b and `volatility` σ > 0: scalars to scalars, differentiable by jax;
    `shocks` `[paths, n]`: standard normal.

    **Errors:** O(1/n) in the mean, and the sampling error that `slope_of` tells.
    """
    steps = shocks.shape[1]
    width = horizon / steps

    def step(carry: _Path, shock: Array) -> tuple[_Path, None]:
        position, variation, integral = carry
        move = jnp.sqrt(width) * shock

        def euler(x: Array) -> Array:
            return x + drift(x) * width + volatility(x) * move

        moved, slope = jax.value_and_grad(euler)(position)
        return (
            moved,
            slope * variation,
            integral + variation / volatility(position) * move,
        ), None

    def along(path: Array) -> tuple[Array, Array]:
        begin = (jnp.asarray(start, jnp.float64), jnp.ones(()), jnp.zeros(()))
        (ending, _, integral), _ = jax.lax.scan(step, begin, path)
        return ending, integral / horizon

    with jax.enable_x64(True):
        endings, weights = jax.jit(jax.vmap(along))(jnp.asarray(shocks, jnp.float64))
    return Sensitivity(np.asarray(endings), np.asarray(weights))


def _powers_of_the_sum(known: Host) -> Host:
    return np.vander(known.sum(axis=1), 4, increasing=True)
