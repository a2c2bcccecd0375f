"""Periods of seasons, of a level as of a volatility: those that are looked for, in ticks, and what
is known of the phases of one.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from predictor.types import Array

SHORTEST, LONGEST = 2, 64
PERIODS = np.arange(SHORTEST, LONGEST + 1)


class Profile(NamedTuple):
    """The mean of many cycles at each phase: `values` `[LONGEST]`, of which the first `period`
    count; of how many `cycles` it is made; the position of its `origin`, where its first phase
    was."""

    values: Array
    cycles: Array
    origin: Array

    def phase(self, lag: Array, position: Array) -> Array:
        """The phase of a position, `lag` ticks being the period."""
        return (position - self.origin) % lag

    def at(self, lag: Array, position: Array) -> Array:
        """The mean at the phase of a position."""
        return self.values[self.phase(lag, position)]

    def towards(self, lag: Array, position: Array, value: Array, rate: Array) -> Array:
        """The values `[LONGEST]`, the one at the phase of a position moved by `rate` to `value`."""
        here = jnp.arange(LONGEST) == self.phase(lag, position)
        return self.values + jnp.where(here, rate, 0.0) * (value - self.values)
