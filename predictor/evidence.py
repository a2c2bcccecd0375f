"""Tracking the best expert: weights from discounted likelihoods, with a fixed share.

Errors are standardised by those of the currently best expert, so that a difference counts by
what it is worth against the noise that no expert escapes, whatever the unit and whatever the
worst expert does. The share keeps every expert within reach of a few hundred ticks.
Rate and share fall with the age of the record to what they are in a long one.

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

SHARE = 0.0005
"""Weight that is spread over all experts at each tick of a long record."""

EARLY_SHARE = 0.3
"""That weight times the ticks before: what a short record says may soon turn out otherwise."""

EARLY_TICKS = 200.0
"""Up to so many ticks weights learn faster, by the root of the time: the experts of a short series
have to be told apart within tens of ticks."""

BELIEVED = 0.5
"""Rate of a Gaussian likelihood that is believed, beyond which being early is no reason to go."""


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


def rate_at(rate: Scalar, scored: Array) -> Array:
    """Learning rate after so many ticks, where it is `rate` in a long record."""
    faster = rate * jnp.sqrt(EARLY_TICKS / (scored + 1.0))
    return jnp.maximum(rate, jnp.minimum(faster, BELIEVED))


def share_at(scored: Array) -> Array:
    """Weight that is spread over all experts after so many ticks."""
    return jnp.maximum(SHARE, EARLY_SHARE / (scored + 10.0))


def learn(state: Evidence, errors: Array, rate: Scalar, sleeping: Array | None = None) -> Evidence:
    """Fold in the experts' errors `[k]`; `rate` is the learning rate per squared standard
    deviation of a long record. Experts that were `sleeping` `[k]` keep the weight they had.

    **Source:** Freund, Schapire, Singer, Warmuth (1997), *Using and combining predictors that
    specialize*, for experts that sleep.
    """
    bounded = jnp.clip(errors / unit_of(state), -ERROR_LIMIT, ERROR_LIMIT)
    loss = jnp.where(state.scored > 0.0, rate_at(rate, state.scored) * jnp.square(bounded), 0.0)
    if sleeping is not None:
        heard = jnp.where(sleeping, 0.0, state.weights)
        together = -jnp.log(jnp.sum(heard * jnp.exp(-loss)) / jnp.sum(heard))
        loss = jnp.where(sleeping, together, loss)
    weights = state.weights * jnp.exp(jnp.min(loss) - loss)
    weights = weights / jnp.sum(weights)
    spread = share_at(state.scored)
    scored = state.scored + 1.0
    speed = jnp.maximum(VARIANCE_MEMORY, 1.0 / scored)
    limits = jnp.where(state.variances > 0.0, ERROR_LIMIT**2 * state.variances, jnp.inf)
    squared = jnp.minimum(jnp.square(errors), limits)
    return Evidence(
        weights=(1.0 - spread) * weights + spread / weights.shape[0],
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
