"""Seasons: a period found from the ticks, and regressions on what happened one period ago.

Every period up to the longest is scored at each tick by the discounted squared errors of the
plainest seasonal forecast. The best becomes the active one once two cycles of it have been
seen, unless persistence errs by far less; until then the member sleeps. It is replaced only at
a tick that is learned, and by one that is clearly better, so that multiples of a period and
neighbours of it do not take turns. The regression keeps its coefficients when the period changes,
since what they mean stays nearly the same.

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
from predictor.periods import LONGEST, PERIODS, SHORTEST, Profile
from predictor.selection import choose
from predictor.types import Array

SCORE_MEMORY = 0.99
"""Discount of the squared errors by which periods are compared, per tick."""

SCORE_LIMIT = 8.0
"""Errors of more typical increments count as this many."""

REPLACEMENT_RATIO = 0.7
"""A period takes over when its mean squared error is below this part of the active one's."""

WAKING_RATIO = 2.0
"""The first period becomes active when its mean squared error, with what counts against it, is
below so many of persistence's."""

DIVISOR_RATIO = 1.05
"""A divisor of the active period takes over below this part: a multiple errs as much as the period
itself, and sees each phase less often."""

DEVIATIONS = 3.0
"""Standard deviations of a mean squared error that count against a period that is not active."""

MEMORY = 0.998
PRECISION = np.ones(10)
PRIOR = np.eye(10)[9]
"""Coefficients before anything is learned: what the profile expects."""

PROFILE_RATE = 0.05
"""Least weight of the newest cycle in the profile."""

CYCLES = 8
"""Most cycles of the window of which a profile is made once the period has changed."""

Form = Literal["difference", "level"]


class SeasonalState(NamedTuple):
    """`period`, zero while none is active; `scores` `[periods]`, discounted squared errors, and
    those of `persistence`; ticks `scored`; the regression with the features behind its last
    forecast; the profile of the active period, in levels."""

    period: Array
    scores: Array
    persistence: Array
    scored: Array
    regression: rls.Regression
    features: Array
    profile: Profile


def _init(config: PredictorConfig) -> SeasonalState:
    del config
    return SeasonalState(
        period=jnp.zeros((), jnp.int32),
        scores=jnp.zeros(PERIODS.size),
        persistence=jnp.zeros(()),
        scored=jnp.zeros(()),
        regression=rls.init(PRECISION)._replace(coefficients=jnp.asarray(PRIOR)),
        features=jnp.zeros(PRECISION.size),
        profile=Profile(jnp.zeros(LONGEST), jnp.zeros(()), jnp.zeros((), jnp.int64)),
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


def _scored(form: Form, state: SeasonalState, tick: KernelTick) -> SeasonalState:
    """The state after the errors of all periods and of persistence at this tick, in the unit of
    increments that is in force now."""
    square = jnp.square(tick.change.gain)
    kept = state._replace(scores=square * state.scores, persistence=square * state.persistence)
    reached = state.scored >= PERIODS
    added = jnp.where(reached, jnp.square(_errors(form, tick)), 0.0)
    increment = jnp.clip(tick.increments[0], -SCORE_LIMIT, SCORE_LIMIT)
    scored = kept._replace(
        scores=SCORE_MEMORY * kept.scores + added,
        persistence=SCORE_MEMORY * kept.persistence + jnp.square(increment),
        scored=state.scored + 1.0,
    )
    return choose(tick.learn, scored, kept)


_DISCOUNTS = SCORE_MEMORY ** -(PERIODS + 1.0)
_DIVIDES = np.arange(LONGEST + 1)[:, None] % PERIODS[None, :] == 0


def _active_period(state: SeasonalState, ticks: Array) -> Array:
    # What has been summed: (1 − mⁿ) / (1 − m) at n = scored − period − 1, none before that.
    faded = SCORE_MEMORY**state.scored
    counts = jnp.maximum(1.0 - faded * _DISCOUNTS, 0.0) / (1.0 - SCORE_MEMORY)
    persistence = (1.0 - SCORE_MEMORY) * state.persistence / jnp.maximum(1.0 - faded, 1e-9)
    eligible = (ticks >= 2 * PERIODS + 2) & (counts > 0.0)
    # The few ticks by which a long period is judged must not make it look good by accident.
    spread = 1.0 + DEVIATIONS * jnp.sqrt(2.0 / jnp.maximum(counts, 1.0))
    means = state.scores / jnp.maximum(counts, 1e-9)
    bounds = jnp.where(eligible, spread * means, jnp.inf)
    best = jnp.argmin(bounds)  # the first, hence shortest, of equals
    current = means[jnp.maximum(state.period - SHORTEST, 0)]
    limit = jnp.where(state.period == 0, WAKING_RATIO * persistence, REPLACEMENT_RATIO * current)
    takes_over = bounds[best] < limit
    found = jnp.isfinite(bounds[best]) & takes_over
    period = jnp.where(found, (best + SHORTEST).astype(jnp.int32), state.period)
    shorter = jnp.asarray(_DIVIDES)[period] & (period > PERIODS) & eligible
    as_good = shorter & (means <= DIVISOR_RATIO * means[jnp.maximum(period - SHORTEST, 0)])
    divisor = (jnp.argmax(as_good) + SHORTEST).astype(jnp.int32)
    return jnp.where(jnp.any(as_good), divisor, period)


def _newest(form: Form, levels: Array, period: Array) -> Array:
    """What goes into the profile now: the increment, or the level less the mean of its cycle."""
    if form == "difference":
        return levels[0] - levels[1]
    return levels[0] - jnp.sum(jnp.where(jnp.arange(WINDOW) < period, levels, 0.0)) / period


def _cycles_in_sight(form: Form, accepted: Array, period: Array) -> Array:
    """Cycles of which the window shows what follows next, each with all that it is compared to."""
    reach = jnp.minimum(accepted, WINDOW)
    whole = (reach + 1) // period - 1 if form == "level" else (reach - 1) // period
    return jnp.clip(whole, 1, CYCLES)


def _following_in_sight(form: Form, levels: Array, period: Array, cycles: Array) -> Array:
    """The mean, over these cycles of the window, of what went into the profile one tick on."""
    counted = jnp.arange(1, CYCLES + 1)
    places = jnp.minimum(counted * period - 1, WINDOW - 2)
    inside = counted <= cycles
    total = jnp.sum(jnp.where(inside, levels[places], 0.0))
    if form == "difference":
        return (total - jnp.sum(jnp.where(inside, levels[places + 1], 0.0))) / cycles
    # The cycles whose means are taken lie end to end.
    back = jnp.arange(WINDOW)
    spanned = (back >= period - 1) & (back < (cycles + 1) * period - 1)
    return (total - jnp.sum(jnp.where(spanned, levels, 0.0)) / period) / cycles


def _followed(form: Form, profile: Profile, tick: KernelTick, lag: Array, begins: Array) -> Profile:
    """The profile with what happened now at its phase, from here on where its period `begins`.

    During the first cycle of a period each phase is made of the window before it is asked for.
    """
    seen = _cycles_in_sight(form, tick.accepted, lag)
    profile = Profile(
        values=tick.change.stretch * profile.values,
        cycles=jnp.where(begins, seen, profile.cycles),
        origin=jnp.where(begins, tick.position, profile.origin),
    )
    cycles = profile.cycles + 1.0 / lag
    rate = jnp.maximum(PROFILE_RATE, 1.0 / (cycles + 1.0))
    newest = _newest(form, tick.levels, lag)
    values = profile.towards(lag, tick.position, newest, jnp.where(tick.learn, rate, 0.0))
    first = tick.position - profile.origin < lag
    following = _following_in_sight(form, tick.levels, lag, seen)
    made = first & (jnp.arange(LONGEST) == profile.phase(lag, tick.position + 1))
    return profile._replace(
        values=jnp.where(made, following, values),
        cycles=jnp.where(tick.learn, cycles, profile.cycles),
    )


def _expected(form: Form, profile: Profile, tick: KernelTick, lag: Array) -> Array:
    """The next increment by the profile, in typical increments."""
    following = profile.at(lag, tick.position + 1)
    now = _newest(form, tick.levels, lag) if form == "level" else 0.0
    return tick.ratio * (following - now)


def _surprise(form: Form, profile: Profile, tick: KernelTick, lag: Array) -> Array:
    """By how much the present differs from what the profile said of its phase before this tick, in
    typical increments: noise that is correlated goes on from there."""
    expected = tick.change.stretch * profile.at(lag, tick.position)
    return tick.ratio * (_newest(form, tick.levels, lag) - expected)


def _features(form: Form, tick: KernelTick, lag: Array, surprise: Array, expected: Array) -> Array:
    """`[10]`: constant, level, recent increments, the last two cycles at this phase, how the
    profile was surprised by the present, and what it expects next."""
    levels, increments = tick.levels, tick.increments
    enough = (2 * lag <= WINDOW - 2) & (tick.accepted > 2 * lag)
    twice = jnp.where(enough, 2 * lag, lag)

    def over_present(delay: Array) -> Array:
        return tick.ratio * (levels[delay] - levels[0])

    if form == "level":
        cycles = [increments[2], over_present(lag - 1), over_present(twice - 1)]
    else:
        cycles = [increments[lag - 1], increments[lag], increments[twice - 1]]
    rest = [increments[0], increments[1], *cycles, over_present(lag), surprise, expected]
    return jnp.stack([jnp.ones(()), levels[0], *rest])


def seasonal_member(name: str, form: Form) -> Member:
    """Regression on the last cycles, as increments (`difference`) or as values (`level`)."""

    def step(
        config: PredictorConfig, state: SeasonalState, tick: KernelTick
    ) -> tuple[SeasonalState, Array]:
        del config
        learned = rls.learn(state.regression, state.features, tick.target, MEMORY, PRECISION)
        learned = choose(tick.learn, learned, state.regression)
        after = _scored(form, state._replace(regression=learned), tick)
        period = jnp.where(tick.learn, _active_period(after, tick.accepted), state.period)
        begins = period != state.period
        change = tick.change
        regression = rls.transport(after.regression, change.stretch, change.shift, change.gain)
        fresh = rls.init(PRECISION)._replace(coefficients=regression.coefficients)
        regression = choose(begins, fresh, regression)
        lag = jnp.maximum(period, SHORTEST)
        surprise = jnp.where(begins, 0.0, _surprise(form, after.profile, tick, lag))
        profile = _followed(form, after.profile, tick, lag, begins)
        features = _features(form, tick, lag, surprise, _expected(form, profile, tick, lag))
        features = jnp.where(period > 0, features, 0.0)
        increment = jnp.where(period > 0, rls.predict(regression, features), 0.0)
        return after._replace(
            period=period, regression=regression, features=features, profile=profile
        ), increment

    return Member(name, _init, step, awake=lambda state: state.period > 0)
