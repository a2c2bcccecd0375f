"""Seasons: a period found from the ticks, and regressions on what happened one period ago.

Every period up to the longest is scored at each tick by the discounted squared errors of the
plainest seasonal forecast; the best becomes the active one once two cycles of it have been
seen, and is replaced only by one that is clearly better, so that multiples of a period and
neighbours of it do not take turns. The regression keeps its coefficients when the period
changes, since what they mean stays nearly the same.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from predictor import recursive_least_squares as rls
from predictor.config import WINDOW, PredictorConfig
from predictor.kernels.bank import Member
from predictor.kernels.base import KernelTick
from predictor.selection import choose
from predictor.types import Array

SHORTEST, LONGEST = 2, 64
PERIODS = np.arange(SHORTEST, LONGEST + 1)

SCORE_MEMORY = 0.99
"""Discount of the squared errors by which periods are compared, per tick."""

SCORE_LIMIT = 8.0
"""Errors of more typical increments count as this many."""

REPLACEMENT_RATIO = 0.7
"""A period takes over when its mean squared error is below this part of the active one's."""

MEMORY = 0.998
PRECISION = np.ones(8)

Form = Literal["difference", "level"]


class SeasonalState(NamedTuple):
    """`period`, zero while none is active; `scores` `[periods]`, discounted squared errors;
    ticks `scored`; the regression with the features behind its last forecast."""

    period: Array
    scores: Array
    scored: Array
    regression: rls.Regression
    features: Array


def _init(config: PredictorConfig) -> SeasonalState:
    del config
    return SeasonalState(
        period=jnp.zeros((), jnp.int32),
        scores=jnp.zeros(PERIODS.size),
        scored=jnp.zeros(()),
        regression=rls.init(PRECISION),
        features=jnp.zeros(PRECISION.size),
    )


def _errors(form: Form, tick: KernelTick) -> Array:
    """What each period would have erred by at this tick, in typical increments `[periods]`."""
    levels = tick.levels
    before = levels[PERIODS]
    if form == "level":
        error = levels[0] - before
    else:
        error = (levels[0] - levels[1]) - (before - levels[PERIODS + 1])
    return jnp.clip(tick.ratio * error, -SCORE_LIMIT, SCORE_LIMIT)


def _active_period(state: SeasonalState, ticks: Array) -> Array:
    seen = jnp.maximum(state.scored - PERIODS - 1.0, 0.0)
    counts = (1.0 - SCORE_MEMORY**seen) / (1.0 - SCORE_MEMORY)
    eligible = (ticks >= 2 * PERIODS + 2) & (counts > 0.0)
    means = jnp.where(eligible, state.scores / jnp.maximum(counts, 1e-9), jnp.inf)
    best = jnp.argmin(means)  # the first, hence shortest, of equals
    current = means[jnp.maximum(state.period - SHORTEST, 0)]
    takes_over = (state.period == 0) | (means[best] < REPLACEMENT_RATIO * current)
    found = jnp.isfinite(means[best]) & takes_over
    return jnp.where(found, (best + SHORTEST).astype(jnp.int32), state.period)


def _features(form: Form, tick: KernelTick, period: Array) -> Array:
    """`[8]`: constant, level, recent increments, and the last two cycles at this phase."""
    levels, increments = tick.levels, tick.increments
    lag = jnp.maximum(period, SHORTEST)
    enough = (2 * lag <= WINDOW - 2) & (tick.accepted > 2 * lag)
    twice = jnp.where(enough, 2 * lag, lag)

    def over_present(delay: Array) -> Array:
        return tick.ratio * (levels[delay] - levels[0])

    if form == "level":
        cycles = [increments[2], over_present(lag - 1), over_present(twice - 1)]
    else:
        cycles = [increments[lag - 1], increments[lag], increments[twice - 1]]
    rest = [increments[0], increments[1], *cycles, over_present(lag)]
    values = jnp.stack([jnp.ones(()), levels[0], *rest])
    return jnp.where(period > 0, values, 0.0)


def seasonal_member(name: str, form: Form) -> Member:
    """Regression on the last cycles, as increments (`difference`) or as values (`level`)."""

    def step(
        config: PredictorConfig, state: SeasonalState, tick: KernelTick
    ) -> tuple[SeasonalState, Array]:
        del config
        learned = rls.learn(state.regression, state.features, tick.target, MEMORY, PRECISION)
        gain = tick.change.gain
        scores = jnp.square(gain) * state.scores
        reached = state.scored >= PERIODS
        added = jnp.where(reached, jnp.square(_errors(form, tick)), 0.0)
        after = state._replace(
            scores=SCORE_MEMORY * scores + added, scored=state.scored + 1.0, regression=learned
        )
        after = choose(tick.learn, after, state._replace(scores=scores))
        period = _active_period(after, tick.accepted)
        change = tick.change
        regression = rls.transport(after.regression, change.stretch, change.shift, change.gain)
        fresh = rls.init(PRECISION)._replace(coefficients=regression.coefficients)
        regression = choose(period != state.period, fresh, regression)
        features = _features(form, tick, period)
        increment = jnp.where(period > 0, rls.predict(regression, features), 0.0)
        return after._replace(period=period, regression=regression, features=features), increment

    return Member(name, _init, step)
