r"""Robust mode and the emergency of regularity, from the Hölder exponent of the window.

A path has its own exponent. A stationary series has none (its increments look like those of
H → 0 however calm it is), so that the exponent of its running sum is followed instead: ½ for
white noise, above for persistence, below for anti-persistence. Which of the two the series is,
is decided by likelihood on the same increments: fractional Brownian motion against fractional
Gaussian noise and AR(1), in nats that accumulate from tick to tick, with hysteresis.

Robust means that the exponent is below its threshold by more than its error; it changes the
transport cost and nothing else. An emergency is robust *and* a significant drop below the
exponent's own trailing median, so that a signal that was always rough is none. Where the
increments follow no law of an exponent, as those of seasons and oscillations do, the exponent
errs by more than its standard error, and a drop counts for as much less.

**Source:** Kantelhardt et al. (2002), *Multifractal detrended fluctuation analysis of
nonstationary time series*, Physica A 316, 87-114, for exponents of the running sum; Wald
(1945), *Sequential tests of statistical hypotheses*, Annals of Mathematical Statistics 16, 117.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from predictor.config import WINDOW, PredictorConfig
from predictor.holder import (
    Family,
    HolderEstimate,
    Host,
    best,
    differenced_covariance,
    exponent_grid,
    family,
    fractional_brownian_motion,
    fractional_noise_covariance,
    sine_powers,
    standard_error_at,
    unit_increments,
)
from predictor.selection import choose
from predictor.types import Array

INCREMENTS = WINDOW - 1

ROUGHEST_PATH = 0.05
"""Exponents below belong to no path: with 128 points they cannot be told from noise about a
constant level."""

AUTOREGRESSIONS = np.array([0.2, 0.35, 0.5, 0.65, 0.75, 0.85, 0.92])
"""AR(1) coefficients of the stationary laws; beyond, 128 points cannot tell them from a walk."""

DECISION = 2.0
"""Nats of evidence that make the series stationary, or a path again."""

MOST_EVIDENCE = 5.0
"""Bound on the evidence of one window and on the sum, nats: how much has to be unlearned."""

OUTLIER = 5.0
"""Increments beyond this many mean absolute increments (4 standard deviations of a Gaussian)
are pulled in: one bad value is not a change of regularity."""

HISTORY = 32
"""Exponents behind the trailing median."""

SPACING = 16
"""Ticks between them, so that the median looks back over four windows."""

FEWEST = WINDOW // SPACING
"""Exponents before the median is trusted: one window."""

ONE_SIDED_95 = 1.645
ENTRY_DROP = 4.0
"""Standard errors of the drop at which an emergency begins."""
EXIT_DROP = 1.0
"""Standard errors of the drop at which it ends."""


class RegularityState(NamedTuple):
    """What is known about the roughness of one lane.

    `exponent`, NaN until the window is full, with its `standard_error`; `stationary`: whether
    it is the exponent of the running sum; `evidence`: for that, nats; `history` `[HISTORY]`:
    exponents of the present form, every `SPACING` ticks, NaN where none yet; `measured`:
    exponents since the form changed; the two modes.
    """

    exponent: Array
    standard_error: Array
    stationary: Array
    evidence: Array
    history: Array
    measured: Array
    robust: Array
    emergency: Array


class Reading(NamedTuple):
    """What one window says: both exponents, the `misfits` `[2]` of their laws (path, profile),
    `nats` for stationarity, and whether it `moves`."""

    path: HolderEstimate
    profile: HolderEstimate
    misfits: Array
    nats: Array
    moves: Array


def init() -> RegularityState:
    """Nothing known."""
    nothing, no = jnp.asarray(jnp.nan), jnp.asarray(False)
    return RegularityState(
        exponent=nothing,
        standard_error=nothing,
        stationary=no,
        evidence=jnp.zeros(()),
        history=jnp.full(HISTORY, jnp.nan),
        measured=jnp.zeros((), jnp.int64),
        robust=no,
        emergency=no,
    )


def follow(
    config: PredictorConfig, state: RegularityState, window: Array, accepted: Array, held: Array
) -> RegularityState:
    """Update from `window` `[WINDOW]`, newest first; where `held` or constant, keep the state."""
    reading = read(window)
    readable = (accepted >= WINDOW) & ~held & reading.moves
    return choose(readable, _judge(config, _classify(state, reading), reading), state)


def read(window: Array) -> Reading:
    """Both exponents of `window` `[WINDOW]` and the evidence for stationarity.

    **Cost:** about 2.5 µs a lane in a tile of 32 on one core.
    """
    increments = unit_increments(window)
    limit = OUTLIER * jnp.mean(jnp.abs(increments))
    moves = (limit > 0.0) & jnp.isfinite(limit)
    increments = jnp.where(moves, jnp.clip(increments, -limit, limit), 1.0)
    laws = _laws()
    powers = sine_powers(increments)
    losses = powers @ jnp.asarray(laws.weights)
    count = laws.path.exponents.size
    path, profile = losses[:count], losses[count : 2 * count]
    first_path = int(np.searchsorted(laws.path.exponents, ROUGHEST_PATH))
    ratio = jnp.min(path[first_path:]) / jnp.min(losses[count:])
    return Reading(
        path=best(laws.path, path),
        profile=best(laws.profile, profile),
        misfits=jnp.stack(
            [_misfit(laws.path, powers, path), _misfit(laws.profile, powers, profile)]
        ),
        nats=jnp.clip(0.5 * INCREMENTS * jnp.log(ratio), -MOST_EVIDENCE, MOST_EVIDENCE),
        moves=moves,
    )


def _misfit(laws: Family, powers: Array, losses: Array) -> Array:
    """Scatter of the powers `[n]` about the most likely of the laws, over what it is where that
    law is true: their ratios to their expectations have a variance of two."""
    ratios = powers * jnp.asarray(laws.weights.T)[jnp.argmin(losses)]
    return jnp.sqrt(0.5 * jnp.var(ratios)) / jnp.mean(ratios)


def _classify(state: RegularityState, reading: Reading) -> RegularityState:
    """Weigh the evidence; a change of form starts the history and the modes afresh."""
    # A tick renews one of the window's increments, so it brings that share of its evidence.
    gathered = state.evidence + reading.nats / INCREMENTS
    evidence = jnp.where(jnp.isnan(state.exponent), reading.nats, gathered)
    evidence = jnp.clip(evidence, -MOST_EVIDENCE, MOST_EVIDENCE)
    stationary = jnp.where(state.stationary, evidence > -DECISION, evidence > DECISION)
    state = state._replace(evidence=evidence)
    return choose(
        stationary == state.stationary,
        state,
        init()._replace(evidence=evidence, stationary=stationary),
    )


def _judge(config: PredictorConfig, state: RegularityState, reading: Reading) -> RegularityState:
    """The exponent of the present form, and the two modes."""
    rules = config.monitoring
    exponent, error = choose(state.stationary, reading.profile, reading.path)
    entered = exponent + ONE_SIDED_95 * error < rules.holder_threshold
    stayed = exponent < rules.holder_threshold + rules.holder_hysteresis
    robust = jnp.where(state.robust, stayed, entered)
    misfit = jnp.where(state.stationary, reading.misfits[1], reading.misfits[0])
    drop = _significance_of_drop(state, exponent) / jnp.maximum(misfit, 1.0)
    fell = drop > jnp.where(state.emergency, EXIT_DROP, ENTRY_DROP)
    due = state.measured % SPACING == 0
    slot = (state.measured // SPACING) % HISTORY
    written = due & (jnp.arange(HISTORY) == slot)
    return state._replace(
        exponent=exponent,
        standard_error=error,
        history=jnp.where(written, exponent, state.history),
        measured=state.measured + 1,
        robust=robust,
        emergency=robust & fell,
    )


def _significance_of_drop(state: RegularityState, exponent: Array) -> Array:
    """How far `exponent` is below the trailing median, in standard errors of that distance;
    NaN while the median is not trusted."""
    laws = _laws()
    known = jnp.sum(~jnp.isnan(state.history))
    trailing = _lower_median(state.history, known)
    error = choose(
        state.stationary,
        standard_error_at(laws.profile, trailing),
        standard_error_at(laws.path, trailing),
    )
    # The median of m independent exponents scatters by √(π/2m) standard errors, and the
    # history holds as many as windows fit into it.
    windows = jnp.maximum(known, 1) * (SPACING / WINDOW)
    drop = (trailing - exponent) / (error * jnp.sqrt(1.0 + 0.5 * np.pi / windows))
    return jnp.where(known >= FEWEST, drop, jnp.nan)


def _lower_median(values: Array, known: Array) -> Array:
    """Median of the `known` values that are not NaN; of two in the middle the lower one."""
    # Ranks by counting: a sort costs more at this length.
    below = values[None, :] < values[:, None]
    tied = (values[None, :] == values[:, None]) & np.tri(HISTORY, k=-1, dtype=bool)
    rank = jnp.sum(below | tied, axis=1)
    middle = (rank == (known - 1) // 2) & ~jnp.isnan(values)
    return jnp.sum(jnp.where(middle, values, 0.0))


class _Laws(NamedTuple):
    """Exponents of paths and of running sums; `weights` `[n, 2 G + A]` of these and of AR(1)."""

    path: Family
    profile: Family
    weights: Host


@functools.cache
def _laws() -> _Laws:
    path = fractional_brownian_motion(INCREMENTS)
    profile = family(
        lambda h, lags: differenced_covariance(fractional_noise_covariance(h, lags + 1)),
        exponent_grid(INCREMENTS),
        INCREMENTS,
    )
    short = family(
        lambda phi, lags: differenced_covariance(phi ** np.arange(lags + 1.0)),
        AUTOREGRESSIONS,
        INCREMENTS,
    )
    weights = np.concatenate([path.weights, profile.weights, short.weights], axis=1)
    return _Laws(path, profile, weights)
