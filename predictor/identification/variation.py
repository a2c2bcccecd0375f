r"""Quadratic variation, and how much of it is jumps.

Σ ΔX² estimates [X] = ∫σ² dt + Σ (ΔJ)², and the bipower variation (π/2) Σ |ΔX||ΔX′| only the
first part, since a jump meets a neighbour that is small.

**Source:** Barndorff-Nielsen and Shephard (2004), *Power and bipower variation with stochastic
volatility and jumps*, Journal of Financial Econometrics 2, 1-37; Huang and Tauchen (2005), *The
relative contribution of jumps to total price variance*, ibidem 3, 456-499, for the statistic.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from predictor.identification.series import Host, as_series

SHORTEST = 32
TRIPOWER_MEAN = 2.0 ** (2.0 / 3.0) * math.gamma(7.0 / 6.0) / math.gamma(0.5)
"""E |Z|^{4/3} of a standard normal."""


class Variation(NamedTuple):
    """`quadratic` and `bipower` variation over the whole series, the `jump_share` of the first
    in [0, 1], and `jump_z`, standard normal without jumps and large with them."""

    quadratic: float
    bipower: float
    jump_share: float
    jump_z: float


def variation(values: Host) -> Variation:
    """Variation of a path `[T]` sampled at equal distances.

    **Failure:** `ValueError` where no two neighbouring increments move.
    """
    series = as_series(values, SHORTEST)
    steps = np.abs(np.diff(series))
    count = steps.size
    quadratic = float(steps @ steps)
    bipower = float(0.5 * np.pi * count / (count - 1) * (steps[1:] @ steps[:-1]))
    if not bipower > 0.0:
        raise ValueError("series has no two neighbouring increments that move")
    thirds = steps ** (4.0 / 3.0)
    products = np.sum(thirds[2:] * thirds[1:-1] * thirds[:-2])
    quarticity = count**2 / (count - 2) * TRIPOWER_MEAN**-3.0 * products
    spread = (0.25 * np.pi**2 + np.pi - 5.0) / count * max(1.0, quarticity / bipower**2)
    excess = 1.0 - bipower / quadratic
    return Variation(quadratic, bipower, max(0.0, excess), excess / math.sqrt(spread))
