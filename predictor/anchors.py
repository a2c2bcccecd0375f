"""Coordinates in which the kernels see a series: a centre, a spread and a unit of increments.

They stand still, because moving coordinates move every non-linear feature: they are set at a
few early ticks and afterwards only when the level has left them by several spreads, or the
spread itself has changed by much. Early on regressions are learned anew on the window; later
linear ones are carried over exactly and non-linear ones begin again.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from predictor.types import Array

EARLY_TICKS = (3, 5, 10, 20, 40)
"""Ticks at which the coordinates are set from the past so far."""

DRIFT_LIMIT = 3.0
"""Spreads between the recent level and the centre beyond which they are set again."""

GROWTH_LIMIT = 3.0
SHRINKAGE_LIMIT = 8.0
"""Factors of the window's spread over the one in force beyond which they are set again."""

RECENT = 16


class Anchor(NamedTuple):
    """`centre` and `spread` of the level and `unit` of an increment (unit of y); `unit` is
    zero before the first setting."""

    centre: Array
    spread: Array
    unit: Array


class Change(NamedTuple):
    """How coordinates changed at a tick: a level x becomes `stretch · x + shift`, an increment
    d becomes `gain · d`; `early` where the window still holds all that was learned, `restart`
    where features that are not linear must begin again."""

    stretch: Array
    shift: Array
    gain: Array
    early: Array
    restart: Array


def init() -> Anchor:
    """Not set."""
    zero = jnp.zeros(())
    return Anchor(zero, zero, zero)


def unchanged() -> Change:
    """Coordinates that stay."""
    zero, one = jnp.zeros(()), jnp.ones(())
    no = jnp.asarray(False)
    return Change(stretch=one, shift=zero, gain=one, early=no, restart=no)


def follow(anchor: Anchor, window: Array, ticks: Array) -> tuple[Anchor, Change]:
    """Set the coordinates where they are due.

    **Arguments:** `window` `[n]`, values, newest first, of which `ticks` are real; the others
    repeat the first.
    """
    size = window.shape[0]
    inside = jnp.arange(size) < ticks
    count = jnp.minimum(ticks, size).astype(jnp.float64)
    increments = jnp.where(inside[1:], window[:-1] - window[1:], 0.0)
    # About the newest value, so that a large level costs no digits.
    offsets = jnp.where(inside, window - window[0], 0.0)
    mean = jnp.sum(offsets) / count
    deviation = jnp.where(inside, offsets - mean, 0.0)
    spread = jnp.sqrt(jnp.sum(jnp.square(deviation)) / count)
    unit = jnp.sqrt(jnp.sum(jnp.square(increments)) / jnp.maximum(count - 1.0, 1.0))
    # A level that rests while it steps at times still needs a spread to be measured with.
    spread = jnp.maximum(spread, 0.5 * unit)
    recent = jnp.mean(window[:RECENT])
    # A value that is repeated says nothing about the spread of those to come: after a freeze
    # the old coordinates fit again.
    moves = 2.0 * jnp.sum(increments != 0.0) > count

    is_set = anchor.unit > 0.0
    early = jnp.any(ticks == np.array(EARLY_TICKS))
    drifted = (
        (jnp.abs(recent - anchor.centre) > DRIFT_LIMIT * anchor.spread)
        | (spread > GROWTH_LIMIT * anchor.spread)
        | (moves & (spread * SHRINKAGE_LIMIT < anchor.spread))
    )
    late = ticks > EARLY_TICKS[-1]
    due = (early | (late & (drifted | ~is_set))) & (unit > 0.0)
    after = Anchor(
        jnp.where(due, window[0] + mean, anchor.centre),
        jnp.where(due, spread, anchor.spread),
        jnp.where(due, unit, anchor.unit),
    )
    moved = due & is_set
    spread_after = jnp.where(moved, after.spread, 1.0)
    return after, Change(
        stretch=jnp.where(moved, anchor.spread / spread_after, 1.0),
        shift=jnp.where(moved, (anchor.centre - after.centre) / spread_after, 0.0),
        gain=jnp.where(moved, anchor.unit / jnp.where(moved, after.unit, 1.0), 1.0),
        early=due & early,
        restart=due & (ticks >= EARLY_TICKS[-1]),
    )
