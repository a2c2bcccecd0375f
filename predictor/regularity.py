"""Robust mode and the emergency of regularity, from the Hölder exponent of the window.

Robust means that the exponent is below its threshold by more than its error; it changes the
transport cost and nothing else. An emergency is robust *and* a significant drop below the
exponent's own trailing level, so that a signal that was always rough is none.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from predictor.config import WINDOW, PredictorConfig
from predictor.holder import STANDARD_ERROR, holder_exponent
from predictor.types import Array

TRAILING_MEMORY = 0.02
ONE_SIDED_95 = 1.645
ENTRY_DROP = 3.0 * STANDARD_ERROR
EXIT_DROP = 1.0 * STANDARD_ERROR


class RegularityState(NamedTuple):
    """`exponent`, NaN until the window is full; its `trailing` mean; the two modes."""

    exponent: Array
    trailing: Array
    robust: Array
    emergency: Array


def init() -> RegularityState:
    """Nothing known."""
    nothing, no = jnp.asarray(jnp.nan), jnp.asarray(False)
    return RegularityState(nothing, nothing, no, no)


def follow(
    config: PredictorConfig, state: RegularityState, window: Array, accepted: Array, held: Array
) -> RegularityState:
    """Update from `window` `[WINDOW]`; where `held`, the exponent keeps its last value."""
    rules = config.monitoring
    measured = jnp.where((accepted >= WINDOW) & ~held, holder_exponent(window), state.exponent)
    exponent = jnp.where(jnp.isnan(measured), state.exponent, measured)
    known = ~jnp.isnan(exponent)
    entered = exponent + ONE_SIDED_95 * STANDARD_ERROR < rules.holder_threshold
    stayed = exponent < rules.holder_threshold + rules.holder_hysteresis
    robust = known & jnp.where(state.robust, stayed, entered)
    drop = state.trailing - exponent
    fell = jnp.where(state.emergency, drop > EXIT_DROP, drop > ENTRY_DROP)
    followed = state.trailing + TRAILING_MEMORY * (exponent - state.trailing)
    return RegularityState(
        exponent=exponent,
        trailing=jnp.where(jnp.isnan(state.trailing), exponent, followed),
        robust=robust,
        emergency=robust & fell,
    )
