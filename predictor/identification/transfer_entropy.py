r"""Information that the past of one series adds about the next value of another.

For jointly Gaussian series, with the residual variances of two regressions on up to five lags,

$$ T_{Y \to X} = \tfrac12 \ln \frac{\operatorname{Var}(x_t \mid x_{<t})}
                                  {\operatorname{Var}(x_t \mid x_{<t}, y_{<t})} . $$

**Source:** Schreiber (2000), *Measuring information transfer*, Physical Review Letters 85, 461;
Barnett, Barrett, Seth (2009), *Granger causality and transfer entropy are equivalent for
Gaussian variables*, Physical Review Letters 103, 238701.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from predictor.identification.series import Host, as_series, lagged

SHORTEST = 64
LAGS = 5


class TransferEntropy(NamedTuple):
    """`nats` per tick, and the `p_value` of none (2 n T is χ² with as many degrees as lags)."""

    nats: float
    p_value: float


def transfer_entropy(source: Host, target: Host, lags: int = LAGS) -> TransferEntropy:
    """T from `source` to `target`, both `[T]`; 0 or more by construction.

    **Failure:** `ValueError` for unequal lengths, and for a target that its past determines.
    """
    driver, driven = as_series(source, SHORTEST), as_series(target, SHORTEST)
    if driver.size != driven.size:
        raise ValueError(f"source has {driver.size} values, target {driven.size}")
    own = np.column_stack([np.ones(driven.size - lags), lagged(driven, lags)])
    both = np.column_stack([own, lagged(driver, lags)])
    ahead = driven[lags:]
    restricted, full = _residual(own, ahead), _residual(both, ahead)
    if not full > 1e-20 * np.square(ahead).sum():
        raise ValueError("target is determined by the past: its entropy is not finite")
    nats = max(0.0, 0.5 * math.log(restricted / full))
    return TransferEntropy(nats, chi_square_tail(2.0 * ahead.size * nats, lags))


def chi_square_tail(statistic: float, degrees: int) -> float:
    """P(χ² > statistic), by the recursion of the incomplete gamma function."""
    half = 0.5 * statistic
    if degrees % 2:
        order, tail = 0.5, math.erfc(math.sqrt(half))
    else:
        order, tail = 1.0, math.exp(-half)
    while order < 0.5 * degrees:
        tail += math.exp(-half) * half**order / math.gamma(order + 1.0)
        order += 1.0
    return tail


def _residual(features: Host, target: Host) -> float:
    coefficients = np.linalg.lstsq(features, target, rcond=None)[0]
    return float(np.sum(np.square(target - features @ coefficients)))
