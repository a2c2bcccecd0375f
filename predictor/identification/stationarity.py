"""Evidence for and against stationarity: KPSS, whose null it is, and the variance ratio, whose
null is a random walk. Two tests with opposite nulls can agree, or leave the question open."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from predictor.identification.series import Host, as_series

SHORTEST = 32

KPSS_STATISTICS = (0.347, 0.463, 0.574, 0.739)
KPSS_LEVELS = (0.10, 0.05, 0.025, 0.01)
"""Table 1 of Kwiatkowski et al. for stationarity about a level."""

SIGNIFICANCE = 0.05


class Verdict(StrEnum):
    """What both tests together say."""

    STATIONARY = "stationary"
    INTEGRATED = "integrated"
    UNDECIDED = "undecided"


class Kpss(NamedTuple):
    """`statistic`, and its `p_value`, which the table confines to [.01, .1]."""

    statistic: float
    p_value: float


class VarianceRatio(NamedTuple):
    """Var(x_t − x_{t−q}) over q times that of one step; `z` is standard normal on a walk."""

    ratio: float
    z: float


class Stationarity(NamedTuple):
    """Both tests and the `verdict` at 5 %."""

    kpss: Kpss
    variance_ratio: VarianceRatio
    verdict: Verdict


def kpss(values: Host) -> Kpss:
    """Test of stationarity about a constant level; large statistics speak against it.

    The long-run variance has a Bartlett window of ⌊12 (T/100)^¼⌋ lags, which keeps the size of
    the test below 10 % up to AR(1) coefficients of .8.

    **Source:** Kwiatkowski, Phillips, Schmidt, Shin (1992), *Testing the null hypothesis of
    stationarity against the alternative of a unit root*, Journal of Econometrics 54, 159-178.
    """
    series = as_series(values, SHORTEST)
    length = series.size
    residual = series - series.mean()
    lags = int(12.0 * (length / 100.0) ** 0.25)
    variance = residual @ residual / length
    for lag in range(1, lags + 1):
        weight = 1.0 - lag / (lags + 1.0)
        variance += 2.0 * weight * (residual[lag:] @ residual[:-lag]) / length
    if not variance > 0.0:
        raise ValueError("series does not vary")
    sums = np.cumsum(residual)
    statistic = float(sums @ sums / (length**2 * variance))
    return Kpss(statistic, float(np.interp(statistic, KPSS_STATISTICS, KPSS_LEVELS)))


def variance_ratio(values: Host, horizon: int = 8) -> VarianceRatio:
    """Ratio of variances over `horizon` steps and over one, with unbiased denominators.

    Below 1 the series reverts, above 1 it trends. `z` allows for changing volatility.

    **Source:** Lo and MacKinlay (1988), *Stock market prices do not follow random walks*,
    Review of Financial Studies 1, 41-66.
    """
    series = as_series(values, SHORTEST)
    steps = np.diff(series)
    count = steps.size
    if not 2 <= horizon <= count // 2:
        raise ValueError(f"horizon is {horizon}, from 2 to {count // 2} is possible")
    drift = steps.mean()
    squares = np.square(steps - drift)
    one = squares.sum() / (count - 1)
    if not one > 0.0:
        raise ValueError("series does not move, or by the same amount at every step")
    spans = series[horizon:] - series[:-horizon] - horizon * drift
    many = np.sum(np.square(spans)) / (horizon * (count - horizon + 1) * (1.0 - horizon / count))
    variance = 0.0
    for lag in range(1, horizon):
        # Robust variance of the autocorrelation at this lag.
        delta = np.sum(squares[lag:] * squares[:-lag]) / squares.sum() ** 2
        variance += (2.0 * (horizon - lag) / horizon) ** 2 * delta
    ratio = float(many / one)
    return VarianceRatio(ratio, (ratio - 1.0) / math.sqrt(variance))


def stationarity(values: Host) -> Stationarity:
    """Both tests: stationary where KPSS does not reject and the ratio is significantly below
    1, integrated where KPSS rejects and it is not, undecided else."""
    level, ratio = kpss(values), variance_ratio(values)
    rejected = level.p_value < SIGNIFICANCE
    reverts = ratio.z < -1.645
    if reverts and not rejected:
        return Stationarity(level, ratio, Verdict.STATIONARY)
    if rejected and not reverts:
        return Stationarity(level, ratio, Verdict.INTEGRATED)
    return Stationarity(level, ratio, Verdict.UNDECIDED)
