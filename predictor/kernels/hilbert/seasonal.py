"""Seasons: a period found from the ticks, and regressions on what happened one period ago.

Every period up to the longest is scored at each tick by the discounted squared errors of the
plainest seasonal forecast; the best becomes the active one once two cycles of it have been
seen, and is replaced only by one that is clearly better, so that multiples of a period and
neighbours of it do not take turns. The regression keeps its coefficients when the period
changes, since what they mean stays nearly the same.

Beside the last two cycles stands the profile, the mean over many cycles at each phase, so that the
noise of a single cycle is averaged away where the season stays what it is.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from predictor import recursive_least_squares as rls
from predictor.config import WINDOW, PredictorConfig
from predictor.kernels.bank import Member
from predictor.kernels.base import KernelTick
from predictor.selection import choose, only_where
from predictor.types import Array

SHORTEST, LONGEST = 2, 64
PERIODS = np.arange(SHORTEST, LONGEST + 1)

SCORE_MEMORY = 0.99
"""Discount of the squared errors by which periods are compared, per tick."""

SCORE_LIMIT = 8.0
"""Errors of more typical increments count as this many."""

REPLACEMENT_RATIO = 0.7
"""A period takes over when its mean squared error is below this part of the active one's."""

DEVIATIONS = 3.0
"""Standard deviations of a mean squared error that count against a period that is not active."""

MEMORY = 0.998
PRECISION = np.ones(9)

PROFILE_RATE = 0.05
"""Least weight of the newest cycle in the profile."""

CYCLES = 8
"""Most cycles of the window of which a profile is made when the period changes."""

Form = Literal["difference", "level"]


class SeasonalState(NamedTuple):
    """`period`, zero while none is active; `scores` `[periods]`, discounted squared errors;
    ticks `scored`; the regression with the features behind its last forecast; the `profile`
    `[LONGEST]`, in levels, of which the first `period` count; of how many `cycles` it is made, and
    the position of its `origin`, where its first phase was."""

    period: Array
    scores: Array
    scored: Array
    regression: rls.Regression
    features: Array
    profile: Array
    cycles: Array
    origin: Array


def _init(config: PredictorConfig) -> SeasonalState:
    del config
    return SeasonalState(
        period=jnp.zeros((), jnp.int32),
        scores=jnp.zeros(PERIODS.size),
        scored=jnp.zeros(()),
        regression=rls.init(PRECISION),
        features=jnp.zeros(PRECISION.size),
        profile=jnp.zeros(LONGEST),
        cycles=jnp.zeros(()),
        origin=jnp.zeros((), jnp.int64),
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
    # The few ticks by which a long period is judged must not make it look good by accident.
    spread = 1.0 + DEVIATIONS * jnp.sqrt(2.0 / jnp.maximum(counts, 1.0))
    means = state.scores / jnp.maximum(counts, 1e-9)
    bounds = jnp.where(eligible, spread * means, jnp.inf)
    best = jnp.argmin(bounds)  # the first, hence shortest, of equals
    current = means[jnp.maximum(state.period - SHORTEST, 0)]
    takes_over = (state.period == 0) | (bounds[best] < REPLACEMENT_RATIO * current)
    found = jnp.isfinite(bounds[best]) & takes_over
    return jnp.where(found, (best + SHORTEST).astype(jnp.int32), state.period)


def _newest(form: Form, levels: Array, period: Array) -> Array:
    """What goes into the profile now: the increment, or the level less the mean of its cycle."""
    if form == "difference":
        return levels[0] - levels[1]
    return levels[0] - jnp.sum(jnp.where(jnp.arange(WINDOW) < period, levels, 0.0)) / period


def _all_of_the_window(form: Form, levels: Array, period: Array) -> Array:
    """The same at every tick in sight `[WINDOW − 1]`, newest first; without meaning where a cycle
    is not in sight as a whole."""
    if form == "difference":
        return levels[:-1] - levels[1:]
    sums = jnp.concatenate([jnp.zeros(1), jnp.cumsum(levels)])
    ends = jnp.minimum(jnp.arange(WINDOW - 1) + period, WINDOW)
    return levels[:-1] - (sums[ends] - sums[: WINDOW - 1]) / period


def _made_of_the_window(
    form: Form, state: SeasonalState, tick: KernelTick, period: Array
) -> SeasonalState:
    """A profile of the last cycles in sight, the newest tick at phase zero."""
    lag = jnp.maximum(period, SHORTEST)
    reach = jnp.minimum(tick.accepted, WINDOW) - 1 - (lag if form == "level" else 0)
    behind = (-jnp.arange(LONGEST)) % lag
    places = behind[:, None] + lag * jnp.arange(CYCLES)[None, :]
    cycles = jnp.clip(reach // lag, 1, CYCLES)
    inside = jnp.arange(CYCLES)[None, :] < cycles
    values = _all_of_the_window(form, tick.levels, lag)[jnp.minimum(places, WINDOW - 2)]
    return state._replace(
        profile=jnp.sum(jnp.where(inside, values, 0.0), axis=1) / cycles,
        cycles=cycles.astype(jnp.float64),
        origin=tick.position,
    )


def _phase(state: SeasonalState, position: Array) -> Array:
    return (position - state.origin) % jnp.maximum(state.period, SHORTEST)


def _followed(form: Form, state: SeasonalState, tick: KernelTick) -> SeasonalState:
    """The profile with what happened now at its phase."""
    lag = jnp.maximum(state.period, SHORTEST)
    cycles = state.cycles + 1.0 / lag
    rate = jnp.maximum(PROFILE_RATE, 1.0 / (cycles + 1.0))
    newest = _newest(form, tick.levels, lag)
    here = tick.learn & (jnp.arange(LONGEST) == _phase(state, tick.position))
    return state._replace(
        profile=state.profile + jnp.where(here, rate, 0.0) * (newest - state.profile),
        cycles=jnp.where(tick.learn, cycles, state.cycles),
    )


def _expected(form: Form, state: SeasonalState, tick: KernelTick) -> Array:
    """The next increment by the profile, in typical increments."""
    lag = jnp.maximum(state.period, SHORTEST)
    following = state.profile[_phase(state, tick.position + 1)]
    now = _newest(form, tick.levels, lag) if form == "level" else 0.0
    return tick.ratio * (following - now)


def _features(form: Form, tick: KernelTick, period: Array, expected: Array) -> Array:
    """`[9]`: constant, level, recent increments, the last two cycles at this phase, and what the
    profile expects."""
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
    rest = [increments[0], increments[1], *cycles, over_present(lag), expected]
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
        after = after._replace(profile=change.stretch * after.profile)
        after = only_where(
            period != state.period,
            lambda old: _made_of_the_window(form, old, tick, period),
            _followed(form, after, tick),
        )._replace(period=period)
        features = _features(form, tick, period, _expected(form, after, tick))
        increment = jnp.where(period > 0, rls.predict(regression, features), 0.0)
        return after._replace(regression=regression, features=features), increment

    return Member(name, _init, step)
