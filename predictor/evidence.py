"""Tracking the best expert: weights from discounted likelihoods, with a fixed share.

Errors are standardised by those of the currently best expert, so that a difference counts by
what it is worth against the noise that no expert escapes, whatever the unit and whatever the
worst expert does. The share keeps every expert within reach of a few hundred ticks.

**Source:** Herbster and Warmuth (1998), *Tracking the best expert*, Machine Learning 32,
151-178.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from predictor.types import Array, Scalar

ERROR_LIMIT = 5.0
"""Errors of more standard deviations of the best expert count as this many."""

VARIANCE_MEMORY = 0.02
"""EWMA rate of the experts' squared errors, per tick."""

SMALLEST_UNIT = 1e-9
"""Floor of the unit of errors, for series that an expert forecasts exactly."""

SHARE = 0.001
"""Weight that is spread over all experts at each tick."""


class Evidence(NamedTuple):
    """`weights` on the simplex and mean squared errors `variances`, `[k]`; ticks `scored`."""

    weights: Array
    variances: Array
    scored: Array


def init(experts: int) -> Evidence:
    """No evidence: uniform weights."""
    return Evidence(jnp.full(experts, 1.0 / experts), jnp.zeros(experts), jnp.zeros(()))


def unit_of(state: Evidence) -> Array:
    """Standard deviation of the best expert's errors, which is what errors are measured in."""
    return jnp.maximum(jnp.sqrt(jnp.min(state.variances)), SMALLEST_UNIT)


def learn(state: Evidence, errors: Array, rate: Scalar) -> Evidence:
    """Fold in the experts' errors `[k]`; `rate` is the learning rate per squared standard
    deviation, ½ for a Gaussian likelihood that is believed."""
    bounded = jnp.clip(errors / unit_of(state), -ERROR_LIMIT, ERROR_LIMIT)
    loss = jnp.where(state.scored > 0.0, rate * jnp.square(bounded), 0.0)
    weights = state.weights * jnp.exp(jnp.min(loss) - loss)
    weights = weights / jnp.sum(weights)
    share = SHARE / weights.shape[0]
    scored = state.scored + 1.0
    speed = jnp.maximum(VARIANCE_MEMORY, 1.0 / scored)
    limits = jnp.where(state.variances > 0.0, ERROR_LIMIT**2 * state.variances, jnp.inf)
    squared = jnp.minimum(jnp.square(errors), limits)
    return Evidence(
        weights=(1.0 - SHARE) * weights + share,
        variances=state.variances + speed * (squared - state.variances),
        scored=scored,
    )


def rescaled(state: Evidence, gain: Array) -> Evidence:
    """The same evidence where errors are measured in units `1 / gain` as large."""
    return state._replace(variances=jnp.square(gain) * state.variances)


def softened(state: Evidence, share: float) -> Evidence:
    """`share` of the weight spread evenly."""
    uniform = 1.0 / state.weights.shape[0]
    return state._replace(weights=(1.0 - share) * state.weights + share * uniform)
