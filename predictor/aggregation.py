"""Bernstein online aggregation: weights of experts from their regrets, without a rate to tune.

**Source:** Wintenberger (2017), *Optimal learning with Bernstein online aggregation*,
Machine Learning 106, 119-141.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from predictor.types import Array

MEMORY = 0.995
"""Discount of regrets per tick, so that an expert that was right for long can be overtaken within
two hundred."""

ERROR_LIMIT = 5.0
"""Bound on the aggregate's error, and on how far an expert is from it."""

VARIANCE_FACTOR = 2.2


class Aggregation(NamedTuple):
    """Discounted squared and second-order corrected regrets of the experts, `[k]` each."""

    squared: Array
    regret: Array


def init(experts: int) -> Aggregation:
    """No evidence: uniform weights."""
    return Aggregation(jnp.zeros(experts), jnp.zeros(experts))


def weights(state: Aggregation, prior: Sequence[float] | None = None) -> Array:
    """Point of the simplex `[k]`; `prior` `[k]`, without evidence, is uniform where not given."""
    squared = jnp.maximum(state.squared, 1e-12)
    score = -0.5 * jnp.log(squared) + state.regret / jnp.sqrt(squared)
    exponential = jnp.exp(score - jnp.max(score))
    if prior is not None:
        exponential = jnp.asarray(prior) * exponential
    return exponential / jnp.sum(exponential)


def learn(state: Aggregation, errors: Array, aggregated_error: Array) -> Aggregation:
    """Fold in the experts' errors `[k]` and that of their aggregate, all target minus
    forecast in one scale-free unit."""
    # Scaled down together: clipped one by one, the experts of a bad reading all err alike,
    # and one that follows it is never told from one that does not.
    part = ERROR_LIMIT / jnp.maximum(jnp.abs(aggregated_error), ERROR_LIMIT)
    lead = jnp.clip(part * (errors - aggregated_error), -ERROR_LIMIT, ERROR_LIMIT)
    # Linearised squared loss: 2 (ŷ − y)(ŷ − x_k), written in errors.
    regret = -2.0 * part * aggregated_error * lead
    squared = MEMORY * state.squared + VARIANCE_FACTOR * jnp.square(regret)
    correction = jnp.square(regret) / jnp.sqrt(jnp.maximum(squared, 1e-12))
    return Aggregation(squared, MEMORY * state.regret + regret - correction)
