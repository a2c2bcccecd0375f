r"""Order d of fractional integration, from the spectrum f(ω) ∼ ω^{−2d} near zero.

0 for short memory, (0, ½) for long memory, ½ and more for paths; fractional Brownian motion has
d = H + ½.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from predictor.identification.series import Host, as_series, periodogram

SHORTEST = 64
LONGEST_MEMORY = 0.75
"""Level estimates above are replaced by 1 plus the estimate on increments: the periodogram of a
path leaks, and the estimators are normal below ¾ only."""


class FractionalOrder(NamedTuple):
    """`order` d, its asymptotic `standard_error`, and how many `frequencies` were used."""

    order: float
    standard_error: float
    frequencies: int


def geweke_porter_hudak(values: Host, power: float = 0.5) -> FractionalOrder:
    """Regression of the log periodogram on log 4 sin²(ω/2) over the first T^`power` ordinates.

    **Source:** Geweke and Porter-Hudak (1983), *The estimation and application of long memory
    time series models*, Journal of Time Series Analysis 4, 221-238.
    """
    frequencies, ordinates = _lowest(values, power)
    regressor = np.log(4.0 * np.square(np.sin(0.5 * frequencies)))
    centred = regressor - regressor.mean()
    spread = centred @ centred
    order = -float(centred @ np.log(ordinates) / spread)
    # The log of an exponential variable has the variance π²/6.
    return FractionalOrder(order, float(np.pi / np.sqrt(6.0 * spread)), frequencies.size)


def local_whittle(values: Host, power: float = 0.65) -> FractionalOrder:
    """Minimum of log mean(ω^{2d} I) − 2 d mean(log ω) over the first T^`power` ordinates.

    **Source:** Robinson (1995), *Gaussian semiparametric estimation of long range dependence*,
    Annals of Statistics 23, 1630-1661.
    """
    frequencies, ordinates = _lowest(values, power)
    logs = np.log(frequencies)
    logs -= logs.mean()
    order = 0.0
    # The objective is convex; its derivative is a weighted mean of the log frequencies.
    for _ in range(60):
        weights = ordinates * np.exp(2.0 * order * logs)
        weights /= weights.sum()
        slope = weights @ logs
        curvature = 2.0 * (weights @ np.square(logs) - slope**2)
        change = slope / max(curvature, 1e-12)
        order -= float(np.clip(change, -0.5, 0.5))
        if abs(change) < 1e-12:
            break
    # Σ(log ω − mean)² tends to the count; at 90 frequencies it is a sixth less.
    return FractionalOrder(order, 0.5 / float(np.sqrt(logs @ logs)), frequencies.size)


def fractional_order(values: Host) -> FractionalOrder:
    """Local Whittle on the level, or on the increments where the level is a path."""
    level = local_whittle(values)
    if level.order <= LONGEST_MEMORY:
        return level
    increments = local_whittle(np.diff(values))
    return increments._replace(order=1.0 + increments.order)


def _lowest(values: Host, power: float) -> tuple[Host, Host]:
    """The first T^`power` frequencies and ordinates."""
    series = as_series(values, SHORTEST)
    frequencies, ordinates = periodogram(series)
    count = min(int(series.size**power), frequencies.size)
    kept = ordinates[:count]
    # Ordinates that are rounding, as of a constant or of a sampled wave, carry no spectrum.
    if not np.all(kept > 1e-26 * np.square(series).sum()):
        raise ValueError("series has no power at some low frequency")
    return frequencies[:count], kept
