"""A season of the volatility: a period found in the sizes of errors, and what each phase of it is.

Sizes are errors without their sign, over a volatility that the season has been taken out of.
Discounted Fourier sums at the frequencies of all periods tell which of them stands out from the
noise. From then on the mean size at each phase of the active period is followed, and shrunk to what
its line alone says.

**Source:** Fisher (1929), *Tests of significance in harmonic analysis*, Proceedings of the Royal
Society A 125, 54-59, for the law of the largest line; Goertzel (1958), *An algorithm for the
evaluation of finite trigonometric series*, American Mathematical Monthly 65, 34-35, for the
recursion.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from predictor.periods import LONGEST, PERIODS, SHORTEST, Profile
from predictor.selection import choose
from predictor.types import Array

LARGEST_SIZE = 3.0
"""Errors of more deviations count as this many."""

MEAN_RATE = 0.005

LOCAL_RATE = 0.05
"""Of the mean about which sizes are taken for the Fourier sums: what swells and fades without a
period is in it."""

MEMORY = 0.999
"""Discount of the Fourier sums, per tick."""

SIGNIFICANT = 14.0
"""Score from which on a period is no accident: of a line that has, in white noise, a probability of
e to the minus this."""

LOST = 4.0
"""Score below which the active period is given up."""

MARGIN = 8.0
"""By how much the score of another period has to exceed that of the active one."""

DIVISOR_MARGIN = 2.0
"""The same for a divisor of the active period: what a multiple adds to it has to stay there."""

HARMONIC = 5.0
"""Power of a line beyond which it counts for the multiples of its period, too."""

LEAST_CYCLES = 4
"""Cycles in the record from which on a period can become active."""

FIRST_LONG = 16
"""From this period on the noise is not white: clusters of large errors have no period and all long
ones. The mean power of those is the noise there."""

LARGEST_POWER = 4.0
"""More of a line does not count in that mean."""

PROFILE_RATE = 0.02
"""Least weight of the newest cycle in the profile."""

PRIOR_CYCLES = 20.0
"""Cycles by which the profile is shrunk to the line."""

LEAST_RATIO = 0.05
"""Least size of the errors at a phase, over that of any."""


class VolatilitySeason(NamedTuple):
    """The `mean` size of errors and its `local` mean; Fourier sums of what differs from the latter,
    `cosines` and `sines` `[periods]`, and the `noise`, their power without a season; errors
    `scored`; the active `period`, zero while there is none, and its `profile`, mean sizes over the
    mean of all."""

    mean: Array
    local: Array
    cosines: Array
    sines: Array
    noise: Array
    scored: Array
    period: Array
    profile: Profile


def init() -> VolatilitySeason:
    """State before the first error."""
    zero = jnp.zeros(())
    return VolatilitySeason(
        mean=zero,
        local=zero,
        cosines=jnp.zeros(PERIODS.size),
        sines=jnp.zeros(PERIODS.size),
        noise=zero,
        scored=zero,
        period=jnp.zeros((), jnp.int32),
        profile=Profile(jnp.ones(LONGEST), zero, jnp.zeros((), jnp.int64)),
    )


_TURN = np.exp(2j * np.pi / PERIODS)
"""By a tick, at each frequency."""

_LOCAL_GAIN = (1.0 - LOCAL_RATE) * (1.0 - 1.0 / _TURN) / (1.0 - (1.0 - LOCAL_RATE) / _TURN)
"""What a line keeps when the local mean is taken away."""

_FREEDOM = np.where(PERIODS == 2, 0.5, 1.0)
"""At the highest frequency a sum is real: its power has one degree of freedom instead of two."""

_FORWARD = 2.0 * _FREEDOM * _TURN / _LOCAL_GAIN
"""Turns a Fourier sum into what its line adds to the sizes one tick on, times the ticks summed."""

_HARMONICS = (PERIODS[:, None] % PERIODS == 0).astype(float)
"""Which lines lie at harmonics of a period, itself among them: `[periods, lines]`."""


def _scores(state: VolatilitySeason) -> Array:
    """How much stands out of the noise at each period `[periods]`; zero while the record is short.

    A pattern has lines at its harmonics, which may be stronger than its own.
    """
    square = jnp.square(state.cosines) + jnp.square(state.sines)
    power = square * _FREEDOM / jnp.maximum(state.noise, 1e-300)
    noise = jnp.mean(jnp.minimum(power, LARGEST_POWER)[FIRST_LONG - SHORTEST :])
    power = power / jnp.where(PERIODS < FIRST_LONG, 1.0, jnp.maximum(noise, 1.0))
    power = jnp.where(state.scored >= LEAST_CYCLES * PERIODS, power, 0.0)
    beyond = jnp.maximum(power - HARMONIC, 0.0)
    return jnp.minimum(power, HARMONIC) + jnp.asarray(_HARMONICS) @ beyond


def _active_period(state: VolatilitySeason) -> Array:
    scores = _scores(state)
    active = jnp.where(state.period > 0, scores[jnp.maximum(state.period - SHORTEST, 0)], 0.0)
    kept = jnp.where(active < LOST, 0, state.period)
    best = (jnp.argmax(scores) + SHORTEST).astype(jnp.int32)
    margin = jnp.where(kept % best == 0, DIVISOR_MARGIN, MARGIN)
    limit = jnp.where(kept > 0, jnp.maximum(active + margin, SIGNIFICANT), SIGNIFICANT)
    return jnp.where(jnp.max(scores) > limit, best, kept)


def follow(state: VolatilitySeason, size: Array, position: Array, learn: Array) -> VolatilitySeason:
    """Fold in the error at `position`, of `size` deviations; only passed by unless `learn`."""
    size = jnp.where(learn, jnp.minimum(size, LARGEST_SIZE), 0.0)
    scored = state.scored + jnp.where(learn, 1.0, 0.0)
    first = 1.0 / jnp.maximum(scored, 1.0)

    def followed(mean: Array, rate: float) -> Array:
        return mean + jnp.where(learn, jnp.maximum(rate, first), 0.0) * (size - mean)

    mean, local = followed(state.mean, MEAN_RATE), followed(state.local, LOCAL_RATE)
    centred = jnp.where(learn, size - local, 0.0)
    cosine, sine = MEMORY * _TURN.real, MEMORY * _TURN.imag
    state = state._replace(
        mean=mean,
        local=local,
        cosines=cosine * state.cosines - sine * state.sines + centred,
        sines=cosine * state.sines + sine * state.cosines,
        noise=MEMORY * MEMORY * state.noise + jnp.square(centred),
        scored=scored,
    )
    period = _active_period(state)
    begins = period != state.period
    profile = choose(begins, Profile(jnp.ones(LONGEST), jnp.zeros(()), position), state.profile)
    lag = jnp.maximum(period, SHORTEST)
    rate = jnp.where(learn, jnp.maximum(PROFILE_RATE, 1.0 / (profile.cycles + 1.0)), 0.0)
    profile = profile._replace(
        values=profile.towards(lag, position, size / jnp.maximum(mean, 1e-9), rate),
        cycles=profile.cycles + jnp.where(learn, 1.0 / lag, 0.0),
    )
    return state._replace(period=period, profile=profile)


def expected(state: VolatilitySeason, position: Array) -> Array:
    """The size of the next error, at `position`, over that of any; 1 while there is no season."""
    lag = jnp.maximum(state.period, SHORTEST)
    total = (1.0 - MEMORY**state.scored) / (1.0 - MEMORY)
    sums = state.cosines * _FORWARD.real - state.sines * _FORWARD.imag
    wave = 1.0 + sums[lag - SHORTEST] / jnp.maximum(total, 1.0) / jnp.maximum(state.mean, 1e-9)
    share = state.profile.cycles / (state.profile.cycles + PRIOR_CYCLES)
    ratio = wave + share * (state.profile.at(lag, position) - wave)
    ratio = jnp.maximum(ratio, LEAST_RATIO)
    return jnp.where(state.period > 0, ratio, 1.0)
