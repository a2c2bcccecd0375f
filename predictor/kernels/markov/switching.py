"""Markov-switching autoregression: two regimes of mean reversion and noise.

Each regime is a regression of the increment on the level, learned with the weight of the
regime's filtered probability; their variances and the transition probabilities follow the
same weights. The first regime starts as persistence, the second as the mean.

**Source:** Hamilton (1989), *A new approach to the economic analysis of nonstationary time
series and the business cycle*, Econometrica 57; Cappé and Moulines (2009), *On-line
expectation-maximization algorithm for latent data models*.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from predictor.config import PredictorConfig
from predictor.kernels.bank import Member
from predictor.kernels.base import KernelTick
from predictor.selection import choose
from predictor.types import Array

REGIMES = 2
MEMORY = 0.999
TRANSITION_MEMORY = 0.998
PRIOR_TRANSITIONS = np.array([[49.0, 1.0], [1.0, 49.0]])
"""Counted transitions that the prior is worth."""

ERROR_LIMIT = 8.0
FIRST_LEARNED = 12
TRACE_CAP = 20.0
LARGEST_RATE = 0.3


class SwitchingState(NamedTuple):
    """Per regime the `coefficients` on constant and level `[2, 2]`, the `inverse` of their
    information as its three entries `[2, 3]` (11, 12, 22), and the noise `variances` `[2]`;
    filtered `probabilities` `[2]`; counted `transitions` `[2, 2]`; the `level` behind the
    last forecast."""

    coefficients: Array
    inverse: Array
    variances: Array
    probabilities: Array
    transitions: Array
    level: Array


def _init(config: PredictorConfig) -> SwitchingState:
    del config
    return SwitchingState(
        coefficients=jnp.zeros((REGIMES, 2)),
        inverse=jnp.broadcast_to(jnp.asarray([1.0, 0.0, 1.0]), (REGIMES, 3)),
        variances=jnp.ones(REGIMES),
        probabilities=jnp.full(REGIMES, 0.5),
        transitions=jnp.asarray(PRIOR_TRANSITIONS),
        level=jnp.zeros(()),
    )


def _transition_probabilities(state: SwitchingState) -> Array:
    return state.transitions / jnp.sum(state.transitions, axis=1, keepdims=True)


def _predicted(state: SwitchingState) -> Array:
    """Probabilities of the regimes at the next tick `[2]`."""
    return jnp.sum(state.probabilities[:, None] * _transition_probabilities(state), axis=0)


def _means(state: SwitchingState, level: Array) -> Array:
    return state.coefficients[:, 0] + state.coefficients[:, 1] * level


def _learn(state: SwitchingState, target: Array, ticks: Array) -> SwitchingState:
    error = target - _means(state, state.level)
    chances = _transition_probabilities(state)
    squared = jnp.minimum(jnp.square(error) / state.variances, 200.0)
    likelihood = jnp.exp(-0.5 * squared) / jnp.sqrt(state.variances)
    joint = state.probabilities[:, None] * chances * likelihood[None, :]
    joint = joint / jnp.maximum(jnp.sum(joint), 1e-300)
    posterior = jnp.sum(joint, axis=0) + 1e-12
    posterior = posterior / jnp.sum(posterior)
    transitions = TRANSITION_MEMORY * state.transitions + joint
    transitions = transitions + (1.0 - TRANSITION_MEMORY) * PRIOR_TRANSITIONS

    # A tick that belongs to a regime with probability p is p of a tick.
    memory = 1.0 - (1.0 - MEMORY) * posterior
    first, cross, second = state.inverse[:, 0], state.inverse[:, 1], state.inverse[:, 2]
    x = state.level
    projected = jnp.stack([first + cross * x, cross + second * x], axis=1)
    norm = 1.0 / jnp.maximum(posterior, 1e-9) + projected[:, 0] + projected[:, 1] * x
    bounded = jnp.clip(error, -ERROR_LIMIT, ERROR_LIMIT)
    coefficients = state.coefficients + projected * (bounded / norm)[:, None]
    outer = jnp.stack(
        [
            jnp.square(projected[:, 0]),
            projected[:, 0] * projected[:, 1],
            jnp.square(projected[:, 1]),
        ],
        axis=1,
    )
    inverse = (state.inverse - outer / norm[:, None]) / memory[:, None]
    size = inverse[:, 0] + inverse[:, 2]
    inverse = inverse * jnp.where(size > TRACE_CAP, TRACE_CAP / size, 1.0)[:, None]
    rate = 2.0 * posterior * jnp.maximum(2.0 * (1.0 - MEMORY), 1.0 / (ticks + 1.0))
    squared_error = jnp.minimum(jnp.square(bounded), 16.0 * state.variances)
    variances = state.variances + jnp.minimum(rate, LARGEST_RATE) * (
        squared_error - state.variances
    )
    return SwitchingState(
        coefficients=coefficients,
        inverse=inverse,
        variances=jnp.clip(variances, 1e-6, 1e6),
        probabilities=posterior,
        transitions=transitions,
        level=state.level,
    )


def _transport(state: SwitchingState, tick: KernelTick) -> SwitchingState:
    """Carry the regressions into the present coordinates (`recursive_least_squares.transport`)."""
    stretch, gain = tick.change.stretch, tick.change.gain
    mixing = tick.change.shift / stretch
    constant = state.coefficients[:, 0] - mixing * state.coefficients[:, 1]
    slope = state.coefficients[:, 1] / stretch
    first, cross, second = state.inverse[:, 0], state.inverse[:, 1], state.inverse[:, 2]
    inverse = jnp.stack(
        [
            first - 2.0 * mixing * cross + jnp.square(mixing) * second,
            (cross - mixing * second) / stretch,
            second / jnp.square(stretch),
        ],
        axis=1,
    )
    return state._replace(
        coefficients=gain * jnp.stack([constant, slope], axis=1),
        inverse=inverse,
        variances=jnp.square(gain) * state.variances,
    )


def _step(
    config: PredictorConfig, state: SwitchingState, tick: KernelTick
) -> tuple[SwitchingState, Array]:
    del config
    ticks = tick.accepted
    learns = tick.learn & (ticks > FIRST_LEARNED)
    state = choose(learns, _learn(state, tick.target, ticks.astype(jnp.float64)), state)
    state = _transport(state, tick)
    # The mean of the series is the level at which the expected increment undoes the distance.
    apart = jnp.zeros((REGIMES, 2)).at[1, 1].set(-tick.ratio)
    starts = ticks == FIRST_LEARNED
    state = state._replace(
        coefficients=jnp.where(starts, apart, state.coefficients),
        variances=jnp.where(starts, 1.0, state.variances),
        level=tick.levels[0],
    )
    mean = jnp.sum(_predicted(state) * _means(state, state.level))
    return state, jnp.where(ticks > FIRST_LEARNED + 8, mean, 0.0)


def _variance(state: SwitchingState) -> Array:
    """Variance of the mixture of the regimes about its mean."""
    chances, means = _predicted(state), _means(state, state.level)
    spread = jnp.square(means - jnp.sum(chances * means))
    return jnp.sum(chances * (state.variances + spread))


def switching_member(name: str) -> Member:
    """Two regimes, each a mean-reverting process with its own noise."""
    return Member(name, _init, _step, _variance)
