"""Hölder exponent of a path from its structure function."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from predictor.types import Array

LAGS = (1, 2, 4, 8, 16)

STANDARD_ERROR = 0.067
"""Standard deviation of the estimate on Brownian paths of 128 points."""

_LOG_LAGS = np.log(np.array(LAGS, dtype=float))
_SLOPE = (_LOG_LAGS - _LOG_LAGS.mean()) / np.sum((_LOG_LAGS - _LOG_LAGS.mean()) ** 2)


def holder_exponent(window: Array) -> Array:
    r"""Half the log-log slope of the second-order structure function, clipped to [0, 1].

    For a path with E|y_{t+τ} − y_t|² ∝ τ^{2H} the result estimates H: 0.5 for Brownian
    motion, near 0 for a stationary series without memory.

    **Arguments:** `window` `[n]`, values in order, either direction, any unit.

    **Returns:** H, or NaN where the path does not move.

    **Source:** Muzy, Bacry, Arnéodo (1993), *Multifractal formalism for fractal signals*,
    Physical Review E 47, 875, for the relation; the estimator is its second moment.
    """
    moments = jnp.stack(
        [jnp.mean(jnp.square(window[lag:] - window[: window.shape[0] - lag])) for lag in LAGS]
    )
    moves = jnp.min(moments) > 0.0
    logs = jnp.log(jnp.where(moves, moments, 1.0))
    exponent = jnp.clip(0.5 * jnp.sum(jnp.asarray(_SLOPE) * logs), 0.0, 1.0)
    return jnp.where(moves, exponent, jnp.nan)
