"""Calibrated prediction interval: a bank of volatilities and two tracked quantiles.

EWMA variances of several memories, and one proportional to the exogenous dispersion proxy
where the feed carries it, are weighted by their discounted Student-t likelihood. The two
signed quantiles of the standardised error are followed by online gradient steps on the
pinball loss, which holds the long-run coverage whatever the law of the errors is.

**Source:** Gibbs and Candès (2021), *Adaptive conformal inference under distribution
shift*; Koenker and Bassett (1978), *Regression quantiles*.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import jax.scipy.special as special
import numpy as np

from predictor.config import WARM_UP_TICKS, PredictorConfig
from predictor.types import Array

RATES = np.array([0.005, 0.02, 0.06, 0.2])
"""EWMA rates of the variances, per tick."""

PROXY_RATE = 0.02

PROXY_RANGE = 1e4
"""Most that the proxy may move the variance from its slow average, either way."""

LARGEST_RATIO = 1e12
"""Bound on error² over variance, so that a jump after a constant stretch stays finite."""

LIKELIHOOD_MEMORY = 0.99
DEGREES_OF_FREEDOM = 5.0
SMALLEST_QUANTILE = 0.05
EARLY_INFLATION_TICKS = 4.0


class IntervalState(NamedTuple):
    """`variances` `[4]` (unit of y squared); `proxy_ratio`, mean of error² over proxy²;
    `likelihood` `[5]`; `scale` behind the last interval; the quantiles `lower`, `upper` in
    its units, as offsets from the normal ones; `proxy`, the last proxy, NaN if none."""

    variances: Array
    proxy_ratio: Array
    proxy_count: Array
    likelihood: Array
    scale: Array
    lower: Array
    upper: Array
    proxy: Array
    scored: Array


def init() -> IntervalState:
    """State before the first error."""
    zero = jnp.zeros(())
    return IntervalState(
        variances=jnp.zeros(RATES.size),
        proxy_ratio=zero,
        proxy_count=zero,
        likelihood=jnp.zeros(RATES.size + 1),
        scale=zero,
        lower=zero,
        upper=zero,
        proxy=jnp.asarray(jnp.nan),
        scored=jnp.zeros((), jnp.int64),
    )


def _is_proxy(proxy: Array) -> Array:
    # Beyond these its square leaves the range of float64.
    return jnp.isfinite(proxy) & (proxy > 1e-140) & (proxy < 1e140)


def _variances(state: IntervalState, proxy: Array) -> tuple[Array, Array]:
    """All variances `[5]` and which of them exist."""
    usable = _is_proxy(proxy) & (state.proxy_count >= WARM_UP_TICKS)
    by_proxy = jnp.where(usable, state.proxy_ratio * jnp.square(proxy), 1.0)
    # One absurd proxy must not make the interval absurd.
    slow = state.variances[0]
    by_proxy = jnp.clip(by_proxy, slow / PROXY_RANGE, slow * PROXY_RANGE)
    variances = jnp.concatenate([state.variances, by_proxy[None]])
    exists = jnp.concatenate([jnp.ones(RATES.size, bool), usable[None]])
    return variances, exists


def score(config: PredictorConfig, state: IntervalState, error: Array) -> IntervalState:
    """Fold in the error (unit of y) of the last published forecast."""
    squared = jnp.square(error)
    scored = state.scored + 1
    variances, exists = _variances(state, state.proxy)
    safe = jnp.maximum(variances, 1e-300)
    nu = DEGREES_OF_FREEDOM
    ratio = jnp.minimum(squared / safe, LARGEST_RATIO)
    log_likelihood = -0.5 * jnp.log(safe) - 0.5 * (nu + 1.0) * jnp.log1p(ratio / (nu - 2.0))
    warm = state.scored >= WARM_UP_TICKS
    gained = jnp.where(warm & exists, log_likelihood, 0.0)
    # A member that does not exist keeps pace with the best, to start level when it does.
    missing = jnp.max(jnp.where(exists, gained, -jnp.inf))
    gained = jnp.where(exists, gained, missing)
    likelihood = LIKELIHOOD_MEMORY * state.likelihood + jnp.where(warm, gained, 0.0)

    tail = 0.5 * (1.0 - config.interval.coverage)
    normal = special.ndtri(tail)
    standardised = jnp.where(
        state.scale > 0.0, error / jnp.where(state.scale > 0, state.scale, 1.0), 0.0
    )
    step = config.interval.quantile_step
    below = standardised < normal + state.lower
    above = standardised > -normal + state.upper
    track = warm & (state.scale > 0.0)
    lower = jnp.where(track, state.lower + step * (tail - below), state.lower)
    upper = jnp.where(track, state.upper - step * (tail - above), state.upper)

    has_proxy = _is_proxy(state.proxy)
    by_proxy = jnp.minimum(squared / jnp.where(has_proxy, jnp.square(state.proxy), 1.0), 1e300)
    proxy_count = state.proxy_count + has_proxy
    proxy_rate = jnp.maximum(PROXY_RATE, 1.0 / jnp.maximum(proxy_count, 1.0))
    proxy_ratio = jnp.where(
        has_proxy,
        state.proxy_ratio + proxy_rate * (by_proxy - state.proxy_ratio),
        state.proxy_ratio,
    )
    rates = jnp.maximum(jnp.asarray(RATES), 1.0 / scored)
    return state._replace(
        variances=state.variances + rates * (squared - state.variances),
        proxy_ratio=proxy_ratio,
        proxy_count=proxy_count,
        likelihood=likelihood,
        lower=jnp.minimum(lower, -SMALLEST_QUANTILE - normal),
        upper=jnp.maximum(upper, SMALLEST_QUANTILE + normal),
        scored=scored,
    )


def bounds(
    config: PredictorConfig, state: IntervalState, mean: Array, proxy: Array
) -> tuple[IntervalState, Array, Array]:
    """The interval about `mean` for the next value: the state to score it with, lower, upper."""
    variances, exists = _variances(state, proxy)
    score_ = jnp.where(exists, state.likelihood, -jnp.inf)
    weights = jnp.exp(score_ - jnp.max(score_))
    weights = weights / jnp.sum(weights)
    inflation = 1.0 + EARLY_INFLATION_TICKS / jnp.maximum(state.scored, 1)
    early = state.scored < WARM_UP_TICKS
    variance = jnp.sum(weights * variances) * jnp.where(early, inflation, 1.0)
    scale = jnp.sqrt(variance)
    normal = special.ndtri(0.5 * (1.0 - config.interval.coverage))
    lower = jnp.minimum(mean + (normal + state.lower) * scale, mean)
    upper = jnp.maximum(mean + (-normal + state.upper) * scale, mean)
    return state._replace(scale=scale, proxy=proxy), lower, upper
