"""Which ticks are believed: order, domain, frozen signal, staleness, sampling rate.

All gates run inside the compiled step, lane by lane, so that the batched path has every one
of them. They read the tick, its clock and the lane's own state, nothing else.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from predictor.config import WARM_UP_TICKS, Ingestion, PredictorConfig
from predictor.selection import choose
from predictor.types import Array

RETURN_SHARE = 0.1
"""Part of a rejected jump that the next tick may take back and still be a new level."""

EXTREME_LIMIT = 50.0
"""Jumps of so many limits are still extremes that a series of heavy tails may have had: half of the
jump will do as agreement, since the tick after is on its way back."""

ROUGH_CONFIRMATIONS = 2
"""Further rejected ticks after which it will do for a jump of any size: a level that is new and
rough against the old one confirms itself thrice, unrelated bad readings seldom do."""

LEARNED_INTERVALS = 8
"""Intervals seen before a gap can be called long."""


class GateState(NamedTuple):
    """What the gates remember of one lane.

    Times in nanoseconds, values in the unit of the series. `answered_*` is the last tick
    that got a forecast, believed or not; `accepted_timestamp` the last believed one.
    """

    answered_timestamp: Array
    answered_magnitude: Array
    accepted_timestamp: Array
    last_value: Array
    location: Array
    variance: Array
    rejected: Array
    rejected_value: Array
    interval_log_median: Array
    intervals: Array
    run: Array
    run_when_frozen: Array
    repeats: Array
    repeats_repeated: Array
    transitions: Array
    squared_change: Array
    frozen: Array
    moving: Array
    stale: Array
    under_sampled: Array
    degraded: Array
    clean: Array


class Verdict(NamedTuple):
    """What the gates say about one tick.

    `refused`: late or a duplicate, nothing happens. `rejected`: answered, not believed.
    `readmitted`: an agreeing tick after rejected ones. Then the level has shifted by itself
    (`rebase`), or, where the tick is already on its way back, the rejected value was an
    extreme one of this series after all.
    The others are states after this tick; `entered_*` and `left_*` are their edges.
    """

    refused: Array
    rejected: Array
    readmitted: Array
    rebase: Array
    frozen: Array
    entered_frozen: Array
    left_frozen: Array
    entered_stale: Array
    under_sampled: Array
    entered_under_sampled: Array
    degraded: Array
    left_degraded: Array


def init() -> GateState:
    """State before the first tick."""
    zero, count, no = jnp.zeros(()), jnp.zeros((), jnp.int64), jnp.asarray(False)
    return GateState(
        answered_timestamp=count,
        answered_magnitude=zero,
        accepted_timestamp=count,
        last_value=zero,
        location=zero,
        variance=zero,
        rejected=count,
        rejected_value=zero,
        interval_log_median=zero,
        intervals=count,
        run=count,
        run_when_frozen=count,
        repeats=zero,
        repeats_repeated=zero,
        transitions=zero,
        squared_change=zero,
        frozen=no,
        moving=count,
        stale=no,
        under_sampled=no,
        degraded=no,
        clean=count,
    )


def _same(a: Array, b: Array) -> Array:
    return (a == b) | (jnp.isnan(a) & jnp.isnan(b))


def _out_of_order(state: GateState, accepted: Array, answered: Array, y: Array, t: Array) -> Array:
    late = (accepted > 0) & (t < state.accepted_timestamp)
    repeated = (t == state.answered_timestamp) & _same(y, state.answered_magnitude)
    return late | ((answered > 0) & repeated)


def _limit(config: Ingestion, state: GateState) -> Array:
    """Distance from the location beyond which a value is an outlier."""
    return config.sigma_bound * jnp.sqrt(state.variance)


def _domain(
    config: Ingestion, state: GateState, accepted: Array, y: Array
) -> tuple[Array, Array, Array]:
    """Whether `y` is rejected, whether it confirms a value that was rejected before, and
    whether it stayed there."""
    finite = jnp.isfinite(y)
    limit = _limit(config, state)
    # A series that never moved has no spread to measure a distance with.
    judged = (accepted >= WARM_UP_TICKS) & (limit > 1e-9 * jnp.abs(state.location))
    outlying = judged & (jnp.abs(y - state.location) > limit)
    jump = jnp.abs(state.rejected_value - state.location)
    distance = jnp.abs(y - state.rejected_value)
    needed = config.outlier_readmit_steps
    enough = state.rejected >= needed
    believable = jump <= EXTREME_LIMIT * limit
    persistent = state.rejected >= needed + ROUGH_CONFIRMATIONS
    agrees = (distance <= limit) | ((distance <= 0.5 * jump) & (believable | persistent))
    confirmed = outlying & jnp.isfinite(state.rejected_value) & enough & agrees
    stayed = confirmed & (distance <= RETURN_SHARE * jump)
    return ~finite | (outlying & ~confirmed), finite & confirmed, finite & stayed


class _Repetition(NamedTuple):
    run: Array
    run_when_frozen: Array
    repeats: Array
    repeats_repeated: Array
    transitions: Array
    squared_change: Array
    frozen: Array
    moving: Array


def _repetition(config: Ingestion, state: GateState, accepted: Array, y: Array) -> _Repetition:
    """Follow runs of equal values and decide whether this one is a frozen feed.

    A run becomes evidence when it ends, and only up to the length at which it was called
    frozen: a feed that hangs must not teach that hanging is normal.
    """
    repeated = (accepted > 0) & (y == state.last_value)
    run = jnp.where(repeated, state.run + 1, 1)
    ended = (accepted > 0) & ~repeated
    learned_run = jnp.where(state.frozen, state.run_when_frozen, state.run).astype(jnp.float64)
    repeats = state.repeats + jnp.where(ended, learned_run - 1.0, 0.0)
    again = state.repeats_repeated + jnp.where(ended, jnp.maximum(learned_run - 2.0, 0.0), 0.0)
    transitions = state.transitions + jnp.where(ended, learned_run, 0.0)
    marginal = (repeats + 0.5) / (transitions + 1.0)
    probability = (again + marginal) / (repeats + 1.0)
    improbable = run.astype(jnp.float64) * jnp.log(probability) < jnp.log(
        config.frozen_signal_probability
    )
    # A series that has never moved has shown nothing that a standstill would contradict.
    alive = (accepted >= WARM_UP_TICKS) & (state.squared_change > 0.0)
    freezes = alive & (run >= config.frozen_signal_min_steps) & improbable
    change = jnp.square(y - state.last_value)
    moves = change > config.frozen_signal_recovery_ratio * state.squared_change
    # Residual noise of a dead feed starts the count afresh; a standstill between two moves
    # does not, or a series that rests after each step would never be released.
    moving = jnp.where(moves, state.moving + 1, jnp.where(repeated, state.moving, 0))
    moving = jnp.where(state.frozen, moving, 0)
    released = state.frozen & (moving >= config.frozen_signal_recovery_steps)
    frozen = (state.frozen & ~released) | (~state.frozen & freezes)
    rate = jnp.maximum(config.location_memory, 1.0 / jnp.maximum(accepted, 1))
    learned_change = state.squared_change + rate * (change - state.squared_change)
    # The average belongs to the time before the freeze: repeats inside a run say nothing
    # about how the signal moves when it lives.
    keep = state.frozen | repeated | (accepted == 0)
    return _Repetition(
        run=run,
        run_when_frozen=jnp.where(~state.frozen & frozen, run, state.run_when_frozen),
        repeats=repeats,
        repeats_repeated=again,
        transitions=transitions,
        squared_change=jnp.where(keep, state.squared_change, learned_change),
        frozen=frozen,
        moving=jnp.where(released, 0, moving),
    )


class _Cadence(NamedTuple):
    interval_log_median: Array
    intervals: Array
    stale: Array
    under_sampled: Array
    recovered: Array


def _cadence(
    config: Ingestion, state: GateState, accepted: Array, t: Array, now: Array
) -> _Cadence:
    """Compare the gap since the last believed tick with the learned median interval."""
    gap = (t - state.accepted_timestamp).astype(jnp.float64)
    seen = (accepted > 0) & (gap > 0)
    log_gap = jnp.log(jnp.maximum(gap, 1.0))
    # Robbins–Monro for the median of the log interval; its first value is the first gap.
    step = jnp.maximum(0.05, 1.0 / (state.intervals + 1.0))
    towards = state.interval_log_median + step * jnp.sign(log_gap - state.interval_log_median)
    moved = jnp.where(state.intervals == 0, log_gap, towards)
    if config.time_gates == "off":
        no = jnp.asarray(False)
        beyond, under_sampled, recovered = no, no, jnp.asarray(True)
    elif config.time_gates == "absolute":
        age = jnp.maximum((now - t).astype(jnp.float64), jnp.where(accepted > 0, gap, 0.0))
        limit = jnp.asarray(config.staleness_ttl_ns, jnp.float64)
        beyond = age > limit
        under_sampled = (accepted > 0) & (gap > config.besov_nyquist_interval_ns)
        recovered = age < config.inference_recovery_hysteresis * limit
    else:
        known = seen & (state.intervals >= LEARNED_INTERVALS)
        median = jnp.exp(state.interval_log_median)
        limit = config.staleness_intervals * median
        beyond = known & (gap > limit)
        under_sampled = known & (gap > config.nyquist_intervals * median)
        recovered = ~known | (gap < config.inference_recovery_hysteresis * limit)
    return _Cadence(
        interval_log_median=jnp.where(seen, moved, state.interval_log_median),
        intervals=state.intervals + seen,
        stale=beyond | (state.stale & ~recovered),
        under_sampled=under_sampled,
        recovered=recovered,
    )


def apply(
    config: PredictorConfig,
    state: GateState,
    accepted: Array,
    answered: Array,
    y: Array,
    t: Array,
    now: Array,
) -> tuple[GateState, Verdict]:
    """Judge one tick.

    **Arguments:** `accepted` and `answered` count earlier ticks; `y` is the magnitude, `t`
    its event time and `now` the clock, both in nanoseconds.

    **Returns:** the state after the tick (unchanged where it is refused) and the verdict.
    """
    rules = config.ingestion
    refused = _out_of_order(state, accepted, answered, y, t)
    rejected, readmitted, rebase = _domain(rules, state, accepted, y)
    value = jnp.where(rejected, state.last_value, y)
    repetition = _repetition(rules, state, accepted, value)
    cadence = _cadence(rules, state, accepted, t, now)

    rate = jnp.maximum(rules.location_memory, 1.0 / (accepted + 1.0))
    # An extreme that is recalled counts for what would have been believed at once.
    bound = _limit(rules, state)
    deviation = value - state.location
    deviation = jnp.where(readmitted, jnp.clip(deviation, -bound, bound), deviation)
    # A hung feed must not shrink the scale: the first live tick would be an outlier.
    rate = jnp.where(repetition.frozen & ~readmitted, 0.0, rate)
    location = jnp.where(rebase, value, state.location + rate * deviation)
    spread = jnp.where(rebase, value - state.rejected_value, deviation)
    variance = (1.0 - rate) * (state.variance + rate * jnp.square(spread))
    variance = jnp.where(accepted == 0, 0.0, variance)

    believed = GateState(
        answered_timestamp=t,
        answered_magnitude=y,
        accepted_timestamp=t,
        last_value=value,
        location=location,
        variance=variance,
        rejected=jnp.zeros((), jnp.int64),
        rejected_value=state.rejected_value,
        interval_log_median=cadence.interval_log_median,
        intervals=cadence.intervals,
        run=repetition.run,
        run_when_frozen=repetition.run_when_frozen,
        repeats=repetition.repeats,
        repeats_repeated=repetition.repeats_repeated,
        transitions=repetition.transitions,
        squared_change=repetition.squared_change,
        frozen=repetition.frozen,
        moving=repetition.moving,
        stale=cadence.stale,
        under_sampled=cadence.under_sampled,
        degraded=state.degraded,
        clean=state.clean,
    )
    disbelieved = state._replace(
        answered_timestamp=t,
        answered_magnitude=y,
        rejected=state.rejected + 1,
        rejected_value=y,
    )
    after = choose(rejected, disbelieved, believed)

    bad = rejected | after.stale | after.frozen
    cleanly = ~bad & cadence.recovered
    clean = jnp.where(state.degraded & cleanly, state.clean + 1, 0)
    recovered = state.degraded & (clean >= rules.degraded_recovery_min_steps)
    degraded = bad | (state.degraded & ~recovered)
    after = after._replace(degraded=degraded, clean=jnp.where(degraded, clean, 0))
    verdict = Verdict(
        refused=refused,
        rejected=rejected,
        readmitted=readmitted,
        rebase=rebase,
        frozen=after.frozen,
        entered_frozen=after.frozen & ~state.frozen,
        left_frozen=state.frozen & ~after.frozen,
        entered_stale=after.stale & ~state.stale,
        under_sampled=after.under_sampled,
        entered_under_sampled=after.under_sampled & ~state.under_sampled,
        degraded=degraded,
        left_degraded=state.degraded & ~degraded,
    )
    return choose(refused, state, after), verdict
