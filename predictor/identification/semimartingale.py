r"""Doob's decomposition X = X₀ + A + M: what was to be expected, and the rest.

In discrete time every integrable series is a semimartingale: A_t = Σ E[ΔX_s | F_{s−1}] is
predictable and M a martingale. The conditional mean has to be fitted; it is here an
autoregression of the increments on the level and on past increments, or whatever forecasts the
caller has.

**Source:** Doob (1953), *Stochastic Processes*, chapter VII.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from predictor.identification.series import Host, as_series, lagged

SHORTEST = 32
ORDER = 3


class Semimartingale(NamedTuple):
    """Over the values from `start` on: `compensator` A and `martingale` M, `[n]`, both 0 at
    their first value, and `drift_share`: share of A's increments in the mean square of X's."""

    start: int
    compensator: Host
    martingale: Host
    drift_share: float


def semimartingale(values: Host, forecasts: Host | None = None) -> Semimartingale:
    """Decompose a series `[T]`.

    **Arguments:** `forecasts` `[T]`: the forecast of each value from the values before it, the
    first unused; by default fitted.
    """
    series = as_series(values, SHORTEST)
    if forecasts is None:
        start = ORDER - 1
        expected = _fitted_increments(series, ORDER)
    else:
        start = 0
        given = np.asarray(forecasts, np.float64)
        if given.shape != series.shape:
            raise ValueError(f"forecasts have the shape {given.shape}, not {series.shape}")
        expected = given[1:] - series[:-1]
    increments = np.diff(series[start:])
    compensator = np.concatenate([[0.0], np.cumsum(expected)])
    martingale = np.concatenate([[0.0], np.cumsum(increments - expected)])
    total = np.sum(np.square(increments))
    share = float(np.sum(np.square(expected)) / total) if total > 0.0 else 0.0
    return Semimartingale(start, compensator, martingale, share)


def _fitted_increments(series: Host, order: int) -> Host:
    """Least-squares E[Δx_t | x_{t−1}, Δx_{t−1}, …] for t from `order` on."""
    past = lagged(series, order)
    features = np.column_stack([np.ones(past.shape[0]), past[:, 0], -np.diff(past, axis=1)])
    target = np.diff(series)[order - 1 :]
    fitted: Host = features @ np.linalg.lstsq(features, target, rcond=None)[0]
    return fitted
