"""A kernel that is a bank of members, weighed by their evidence.

A member forecasts the next increment, as a kernel does; persistence is always one of them.
The kernel's forecast is their mean under the weights of `predictor.evidence`, so that one
kernel serves series of several kinds and a member that does not fit costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from predictor import evidence
from predictor.config import WARM_UP_TICKS, PredictorConfig
from predictor.kernels.base import Kernel, KernelForecast, KernelTick
from predictor.selection import choose, only_where
from predictor.types import Array

INCREMENT_LIMIT = 20.0
"""Bound on a member's forecast, in typical increments."""

FIRST_SCORED = 6
"""Accepted ticks after which members are weighed; earlier errors say little about them."""


class Member(NamedTuple):
    """One way of forecasting, for a single lane.

    - `init(config) -> state`
    - `step(config, state, tick) -> (state, increment)`, learning first. Where `tick.learn` is
      False the coefficients must not move, except as `tick.change` says the coordinates moved:
      a regression is not put back where the tick turns out to have been none.
    - `variance(state) -> variance`, for members that know how the noise depends on the state.
    - `awake(state) -> bool`, for members that have nothing to say at times: one that sleeps is
      not heard, and keeps its weight.
    """

    name: str
    init: Callable[[PredictorConfig], Any]
    step: Callable[[PredictorConfig, Any, KernelTick], tuple[Any, Array]]
    variance: Callable[[Any], Array] | None = None
    awake: Callable[[Any], Array] | None = None


class BankState(NamedTuple):
    """States of the members, the evidence about persistence and them, and what they said."""

    members: tuple[Any, ...]
    evidence: evidence.Evidence
    said: Array


def bank_kernel(name: str, members: Sequence[Member]) -> Kernel:
    """The kernel `name` made of `members` and persistence."""
    count = len(members) + 1

    def _variance(states: Sequence[Any], weights: Array) -> Array:
        """Mean of the members' variances, weighed as their forecasts are; NaN without any."""
        total, share = jnp.zeros(()), jnp.zeros(())
        for index, (member, state) in enumerate(zip(members, states, strict=True), start=1):
            if member.variance is not None:
                total = total + weights[index] * member.variance(state)
                share = share + weights[index]
        return total / share if any(member.variance for member in members) else jnp.asarray(jnp.nan)

    def _awake(states: Sequence[Any]) -> Array:
        """Who has something to say `[count]`, persistence always."""
        yes = jnp.asarray(True)
        own = [
            member.awake(state) if member.awake else yes
            for member, state in zip(members, states, strict=True)
        ]
        return jnp.stack([yes, *own])

    def anew(member: Member, config: PredictorConfig) -> Callable[[Any], Any]:
        return lambda lost: member.init(config)

    def init(config: PredictorConfig) -> BankState:
        states = tuple(member.init(config) for member in members)
        return BankState(states, evidence.init(count), jnp.zeros(count))

    def step(
        config: PredictorConfig, state: BankState, tick: KernelTick
    ) -> tuple[BankState, KernelForecast]:
        scored = evidence.learn(
            state.evidence,
            tick.target - state.said,
            config.fusion.member_learning_rate,
            sleeping=~_awake(state.members),
        )
        scores = tick.learn & (tick.accepted > FIRST_SCORED)
        weighed = choose(scores, scored, state.evidence)
        states, increments = [], [jnp.zeros(())]
        for member, member_state in zip(members, state.members, strict=True):
            after, increment = member.step(config, member_state, tick)
            # A member that lost its footing begins again instead of taking the bank along.
            sound = jnp.isfinite(increment)
            states.append(only_where(~sound & tick.learn, anew(member, config), after))
            increments.append(
                jnp.where(sound, jnp.clip(increment, -INCREMENT_LIMIT, INCREMENT_LIMIT), 0.0)
            )
        said, speaks = jnp.stack(increments), _awake(states)
        shares = jnp.where(speaks, weighed.weights, 0.0)
        mean = jnp.sum(shares * said) / jnp.sum(shares)
        said = jnp.where(speaks, said, mean)
        forecast = KernelForecast(
            mean, tick.accepted >= WARM_UP_TICKS, _variance(states, weighed.weights)
        )
        weighed = evidence.rescaled(weighed, tick.change.gain)
        return BankState(tuple(states), weighed, said), forecast

    return Kernel(name, init, step)
