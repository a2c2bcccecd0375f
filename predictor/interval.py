"""Calibrated prediction interval: a bank of volatilities and two tracked quantiles.

EWMA variances of several memories, and some proportional to the square of a proxy (the exogenous
one where the feed carries it, what kernels know about the noise at the present state, the season of
the volatility), are weighted by their discounted Student-t likelihood. The two signed quantiles of
the standardised error are followed by online gradient steps on the pinball loss, which holds the
long-run coverage whatever the law of the errors is.

**Source:** Gibbs and Candès (2021), *Adaptive conformal inference under distribution
shift*; Koenker and Bassett (1978), *Regression quantiles*.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import jax.scipy.special as special
import numpy as np

from predictor import volatility_season
from predictor.config import WARM_UP_TICKS, PredictorConfig
from predictor.types import KERNELS, Array

SQUARE_RATES = np.array([0.001, 0.005, 0.015, 0.04, 0.1, 0.25])
ABSOLUTE_RATES = np.array([0.005, 0.03])
"""EWMA rates per tick of scales by mean squared and by mean absolute error; the latter hold
where the tails are so heavy that a variance means little."""

RATES = np.concatenate([SQUARE_RATES, ABSOLUTE_RATES])
BY_SQUARES = np.arange(RATES.size) < SQUARE_RATES.size

MEAN_ABSOLUTE = np.sqrt(0.5 * np.pi)
"""Standard deviation over mean absolute deviation of a normal law."""

GIVEN = 1 + KERNELS
"""Proxies from outside: the exogenous one, and one per kernel."""

SEASON_RATES = np.array([0.01, 0.04, 0.15])
"""EWMA rates of the volatilities that the season multiplies, slowest first."""

PROXY_RATES = np.concatenate([np.full(GIVEN, 0.01), SEASON_RATES])
"""Least rates per tick at which the ratio of squared errors to squared proxies is followed."""

PROXIES = PROXY_RATES.size
OF_SEASON = np.arange(PROXIES) >= GIVEN

PROXY_RANGE = 1e4
"""Most that the proxy may move the variance from its slow average, either way."""

LARGEST_RATIO = 1e12
"""Bound on error² over variance, so that a jump after a constant stretch stays finite."""

LIKELIHOOD_MEMORY = 0.995
DEGREES_OF_FREEDOM = 5.0
SMALLEST_QUANTILE = 0.05

EARLY_TICKS = 1200.0
"""Up to so many ticks the quantiles take longer steps, by the root of the time."""

PRIOR_WIDTH = 1.08
"""Quantiles before anything is learned, over the normal ones: the errors to come are larger than
those that volatilities, weights and coefficients were fitted to."""


class IntervalState(NamedTuple):
    """`variances` `[rates]` (unit of y squared); per proxy `proxy_ratios`, mean of error² over
    proxy², their `proxy_counts` and the last `proxies`, NaN if none, all `[proxies]`;
    `likelihood` `[rates + proxies]`; `scale` behind the last interval; the quantiles `lower`,
    `upper` in its units, as offsets from the prior ones; the `season` of the sizes of errors."""

    variances: Array
    proxy_ratios: Array
    proxy_counts: Array
    proxies: Array
    likelihood: Array
    scale: Array
    lower: Array
    upper: Array
    scored: Array
    season: volatility_season.VolatilitySeason


def init() -> IntervalState:
    """State before the first error."""
    zero = jnp.zeros(())
    return IntervalState(
        variances=jnp.zeros(RATES.size),
        proxy_ratios=jnp.zeros(PROXIES),
        proxy_counts=jnp.zeros(PROXIES),
        proxies=jnp.full(PROXIES, jnp.nan),
        likelihood=jnp.zeros(RATES.size + PROXIES),
        scale=zero,
        lower=zero,
        upper=zero,
        scored=jnp.zeros((), jnp.int64),
        season=volatility_season.init(),
    )


def _lower_tail(config: PredictorConfig) -> tuple[float, Array]:
    """Probability below the interval and the prior quantile there; the upper one mirrors it."""
    tail = 0.5 * (1.0 - config.interval.coverage)
    return tail, PRIOR_WIDTH * special.ndtri(tail)


def _is_proxy(proxy: Array) -> Array:
    # Beyond these its square leaves the range of float64.
    return jnp.isfinite(proxy) & (proxy > 1e-140) & (proxy < 1e140)


def _variances(state: IntervalState, proxies: Array) -> tuple[Array, Array]:
    """All variances `[rates + proxies]` and which of them exist."""
    known = (state.proxy_counts >= WARM_UP_TICKS) & (~OF_SEASON | (state.season.period > 0))
    usable = _is_proxy(proxies) & known
    by_proxy = jnp.where(usable, state.proxy_ratios * jnp.square(proxies), 1.0)
    # One absurd proxy must not make the interval absurd.
    slow = state.variances[0]
    by_proxy = jnp.clip(by_proxy, slow / PROXY_RANGE, slow * PROXY_RANGE)
    variances = jnp.concatenate([state.variances, by_proxy])
    exists = jnp.concatenate([jnp.ones(RATES.size, bool), usable])
    return variances, exists


def score(config: PredictorConfig, state: IntervalState, error: Array) -> IntervalState:
    """Fold in the error (unit of y) of the last published forecast."""
    squared = jnp.square(error)
    scored = state.scored + 1
    variances, exists = _variances(state, state.proxies)
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

    tail, prior = _lower_tail(config)
    standardised = jnp.where(
        state.scale > 0.0, error / jnp.where(state.scale > 0, state.scale, 1.0), 0.0
    )
    longer = jnp.maximum(1.0, jnp.sqrt(EARLY_TICKS / (state.scored + 1.0)))
    step = config.interval.quantile_step * longer
    below = standardised < prior + state.lower
    above = standardised > -prior + state.upper
    track = warm & (state.scale > 0.0)
    lower = jnp.where(track, state.lower + step * (tail - below), state.lower)
    upper = jnp.where(track, state.upper - step * (tail - above), state.upper)

    given = _is_proxy(state.proxies)
    by_proxy = jnp.minimum(squared / jnp.where(given, jnp.square(state.proxies), 1.0), 1e300)
    counts = state.proxy_counts + given
    rate = jnp.maximum(PROXY_RATES, 1.0 / jnp.maximum(counts, 1.0))
    ratios = state.proxy_ratios + jnp.where(given, rate, 0.0) * (by_proxy - state.proxy_ratios)
    rates = jnp.maximum(RATES, 1.0 / scored)
    by_squares = state.variances + rates * (squared - state.variances)
    deviations = jnp.sqrt(state.variances)
    deviations = deviations + rates * (MEAN_ABSOLUTE * jnp.abs(error) - deviations)
    return state._replace(
        variances=jnp.where(BY_SQUARES, by_squares, jnp.square(deviations)),
        proxy_ratios=ratios,
        proxy_counts=counts,
        likelihood=likelihood,
        lower=jnp.minimum(lower, -SMALLEST_QUANTILE - prior),
        upper=jnp.maximum(upper, SMALLEST_QUANTILE + prior),
        scored=scored,
    )


def pass_by(state: IntervalState, error: Array, position: Array, learn: Array) -> IntervalState:
    """Let the season of the volatility see the tick at `position`: the error (unit of y) of the
    last published forecast where there is one to `learn`, else that time went on."""
    # Without its season, so that the season stays in the sizes once it is known.
    variance = state.proxy_ratios[GIVEN]
    known = learn & (variance > 0.0)
    size = jnp.where(known, jnp.abs(error) / jnp.sqrt(jnp.where(known, variance, 1.0)), 0.0)
    return state._replace(season=volatility_season.follow(state.season, size, position, known))


def bounds(
    config: PredictorConfig, state: IntervalState, mean: Array, given: Array, position: Array
) -> tuple[IntervalState, Array, Array]:
    """The interval about `mean` for the next value, which will be at `position`: the state to score
    it with, lower, upper. `given` `[1 + kernels]` are the proxies from outside."""
    season = volatility_season.expected(state.season, position)
    proxies = jnp.concatenate([given, jnp.full(SEASON_RATES.size, season)])
    variances, exists = _variances(state, proxies)
    score_ = jnp.where(exists, state.likelihood, -jnp.inf)
    weights = jnp.exp(score_ - jnp.max(score_))
    weights = weights / jnp.sum(weights)
    scale = jnp.sqrt(jnp.sum(weights * variances))
    _, prior = _lower_tail(config)
    lower = jnp.minimum(mean + (prior + state.lower) * scale, mean)
    upper = jnp.maximum(mean + (-prior + state.upper) * scale, mean)
    return state._replace(scale=scale, proxies=proxies), lower, upper
