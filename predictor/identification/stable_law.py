r"""Index and scale of an α-stable law, by regression on the empirical characteristic function.

ln(−ln |φ(t)|²) = ln 2σ^α + α ln |t| is a line in ln |t|, and the phase of φ holds skewness and
location. The sample is brought to unit scale first, so that t may always be .1, .2, …, 1.

**Source:** Koutrouvelis (1980), *Regression-type estimation of the parameters of stable laws*,
Journal of the American Statistical Association 75, 918; Kogon and Williams (1998),
*Characteristic function based estimation of stable distribution parameters*, in *A Practical
Guide to Heavy Tails*, for the fixed points.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from predictor.identification.series import Host, as_series

SHORTEST = 64
POINTS = np.linspace(0.1, 1.0, 10)


class StableLaw(NamedTuple):
    """`alpha` in (0, 2], `beta` in [−1, 1] and `scale` in the unit of the sample."""

    alpha: float
    beta: float
    scale: float


def stable_law(values: Host) -> StableLaw:
    """Parameters of independent draws `[n]`; for n = 1000 α scatters by about .06.

    **Failure:** `ValueError` where the sample does not vary.
    """
    sample = as_series(values, SHORTEST)
    centred = sample - np.median(sample)
    # Half the interquartile range of a stable law of unit scale is 1 for α = 1, .95 for α = 2.
    scale = 0.5 * float(np.subtract(*np.quantile(sample, [0.75, 0.25])))
    if not scale > 0.0:
        raise ValueError("half of the sample has one value")
    alpha = 2.0
    for _ in range(2):  # the second round works at the scale that the first has found
        modulus = np.abs(_characteristic(centred / scale))
        slope, intercept = np.polyfit(np.log(POINTS), np.log(-2.0 * np.log(modulus)), 1)
        alpha = float(np.clip(slope, 0.1, 2.0))
        scale *= float((0.5 * np.exp(intercept)) ** (1.0 / alpha))
    return StableLaw(alpha, _skewness(centred / scale, alpha), scale)


def _characteristic(standard: Host) -> Host:
    """Empirical characteristic function at `POINTS`."""
    values: Host = np.exp(1j * np.outer(POINTS, standard)).mean(axis=1)
    return values


def _skewness(standard: Host, alpha: float) -> float:
    """β from the phase, arg φ(t) = δ t + β tan(πα/2) t^α (or −β (2/π) t ln t at α = 1)."""
    phase = np.unwrap(np.angle(_characteristic(standard)))
    # Continuous in α: t^α − t turns into (α − 1) t ln t, and tan(πα/2) into −2/(π(α − 1)).
    distance = alpha - 1.0
    if abs(distance) < 1e-6:
        bend = -(2.0 / np.pi) * POINTS * np.log(POINTS)
    else:
        bend = np.tan(0.5 * np.pi * alpha) * (POINTS**alpha - POINTS)
    if np.max(np.abs(bend)) < 1e-6:  # α = 2: skewness has no effect
        return 0.0
    design = np.column_stack([POINTS, bend])
    return float(np.clip(np.linalg.lstsq(design, phase, rcond=None)[0][1], -1.0, 1.0))
