"""Exponentially forgetting recursive least squares, one regression per lane.

Source: Haykin, *Adaptive Filter Theory*, chapter 10; rank-one updates only, so that the
compiled step holds no matrix factorisation.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from predictor.types import Array, Scalar

TRACE_CAP = 1e6
"""Bound on the trace of the inverse covariance per coefficient.

Directions without excitation grow by 1/λ at every tick; the cap keeps them from winding up
until one noisy value moves a coefficient without limit.
"""


class Regression(NamedTuple):
    """State: coefficients `[d]` and inverse covariance of the features `[d, d]`."""

    coefficients: Array
    covariance: Array


def init(prior_precision: Array) -> Regression:
    """Zero coefficients under independent Gaussian priors of the given precisions `[d]`."""
    return Regression(jnp.zeros_like(prior_precision), jnp.diag(1.0 / prior_precision))


def predict(state: Regression, features: Array) -> Array:
    """The regression's value at `features` `[d]`."""
    return jnp.sum(state.coefficients * features)


def learn(state: Regression, features: Array, target: Array, memory: Scalar) -> Regression:
    """One tick: `features` `[d]` met `target` under the forgetting factor `memory`.

    **Cost:** O(d²). The update is symmetric to the last bit because the subtracted outer
    product is that of one vector with itself.
    """
    projected = jnp.sum(state.covariance * features[:, None], axis=0)
    gain_norm = memory + jnp.sum(features * projected)
    error = target - predict(state, features)
    coefficients = state.coefficients + projected * (error / gain_norm)
    root = projected / jnp.sqrt(gain_norm)
    covariance = (state.covariance - root[:, None] * root[None, :]) / memory
    trace = jnp.trace(covariance)
    limit = TRACE_CAP * features.shape[0]
    covariance = covariance * jnp.where(trace > limit, limit / trace, 1.0)
    return Regression(coefficients, covariance)
