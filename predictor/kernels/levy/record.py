"""What the solver of the diffusion did of late, for the telemetry.

The schemes of the last hundred ticks are kept exactly, two bits a tick, so that their frequencies
are those of a window and not of a fading memory (seed S001, the solver counters). Maxima fade.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from predictor.kernels.levy.schemes import MeanStep, Scheme
from predictor.types import Array

TICKS = 100
"""Ticks over which the schemes are counted."""

MEMORY = 0.99
"""Discount per tick of the largest stiffness and residual, and of the mean of iterations."""

_TICKS_PER_WORD = 16
_FIRST_BITS = np.uint32(0x55555555)


def _inside() -> np.ndarray:
    """The first bit of each of the `TICKS` newest ticks, newest word first."""
    ticks = np.arange(-(-TICKS // _TICKS_PER_WORD) * _TICKS_PER_WORD).reshape(-1, _TICKS_PER_WORD)
    bits = np.uint32(1) << (2 * (ticks % _TICKS_PER_WORD)).astype(np.uint32)
    return np.sum(np.where(ticks < TICKS, bits, 0), axis=1).astype(np.uint32)


_INSIDE = _inside()
_CODES = np.arange(1, len(Scheme) + 1, dtype=np.uint32)


class SolverReading(NamedTuple):
    """What the solver did of late; NaN before its first step.

    `frequencies` `[3]` of the explicit, the mixed and the implicit scheme; the largest
    `stiffness`; mean `iterations` per tick and largest `residual` of the implicit steps; the
    thresholds `low` and `high` in force.
    """

    frequencies: Array
    stiffness: Array
    iterations: Array
    residual: Array
    low: Array
    high: Array


class SolverRecord(NamedTuple):
    """`schemes` `[7]`, uint32, two bits a tick from the newest on: 0 where the solver did not run,
    else one more than its `Scheme`; fading sums of `solved` ticks and of Newton `iterations`;
    fading maxima of `stiffness` and `residual`; the thresholds `low` and `high`."""

    schemes: Array
    solved: Array
    iterations: Array
    stiffness: Array
    residual: Array
    low: Array
    high: Array


def init() -> SolverRecord:
    """Nothing solved yet."""
    zero, nothing = jnp.zeros(()), jnp.asarray(jnp.nan)
    return SolverRecord(
        jnp.zeros(len(_INSIDE), jnp.uint32), zero, zero, zero, zero, nothing, nothing
    )


def noted(record: SolverRecord, ran: Array, step: MeanStep) -> SolverRecord:
    """The record after a tick at which the solver took `step`, if it `ran`."""
    code = jnp.where(ran, step.scheme + 1, 0).astype(jnp.uint32)
    oldest = record.schemes >> (2 * (_TICKS_PER_WORD - 1))
    entering = jnp.concatenate([code[None], oldest[:-1]])
    solved = ran & (step.scheme != int(Scheme.EXPLICIT))

    def largest(of_late: Array, now: Array, counted: Array) -> Array:
        return jnp.maximum(MEMORY * of_late, jnp.where(counted, now, 0.0))

    return SolverRecord(
        schemes=(record.schemes << 2) | entering,
        solved=MEMORY * record.solved + solved,
        iterations=MEMORY * record.iterations + jnp.where(solved, step.newton_iterations, 0),
        stiffness=largest(record.stiffness, step.stiffness, ran),
        residual=largest(record.residual, step.residual, solved),
        low=step.limits.low,
        high=step.limits.high,
    )


def counts(schemes: Array) -> Array:
    """Ticks of each `Scheme` among the last `TICKS`, `[3]`."""
    differing = schemes[None, :] ^ (_FIRST_BITS * _CODES[:, None])
    equal = ~(differing | (differing >> 1)) & _INSIDE
    return jnp.sum(jax.lax.population_count(equal).astype(jnp.int32), axis=1, dtype=jnp.int32)


def reading(record: SolverRecord) -> SolverReading:
    """The record for the telemetry."""
    schemes = counts(record.schemes).astype(jnp.float64)
    total = jnp.sum(schemes)
    ran = jnp.where(total > 0.0, 0.0, jnp.nan)
    solved = jnp.where(record.solved > 0.0, 0.0, jnp.nan)
    return SolverReading(
        frequencies=schemes / jnp.maximum(total, 1.0) + ran,
        stiffness=record.stiffness + ran,
        iterations=record.iterations / jnp.maximum(record.solved, 1e-300) + solved,
        residual=record.residual + solved,
        low=record.low,
        high=record.high,
    )
