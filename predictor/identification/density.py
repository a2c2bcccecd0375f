r"""Laws on a grid: of a diffusion after a time, and of a forecast.

The density p of dX = b dt + σ dW obeys the equation of Fokker and Planck,

$$ \partial_t p = -\partial_x (b\,p) + \tfrac12 \partial_{xx} (\sigma^2 p), $$

the dual of the backward equation. It is marched by the transpose of that equation's monotone
scheme: mass is kept and no density is negative for any step, and Σ p g Δx is the backward
solution V of the same grid to the last rounding.

**Source:** Risken (1989), *The Fokker-Planck Equation*, chapter 4, for the duality.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from predictor.identification.series import Host
from predictor.kernels.markov.backward_equation import generator_matrix, march_back

GRID = 256
"""Points of the density of a forecast."""

HALF_WIDTH = 4.0
"""Deviations that this grid reaches to either side."""

NARROWEST = 1e-6
"""Least deviation of a forecast, in its unit."""


class Density(NamedTuple):
    """`values` `[n]` per unit of the ascending, uniform `positions` `[n]`."""

    positions: Host
    values: Host

    @property
    def spacing(self) -> float:
        """Δx between two positions."""
        return float(self.positions[1] - self.positions[0])

    def mean_of(self, function: Host) -> float:
        """∫ p g dx for `function` `[n]`, g at the positions."""
        return float(self.values @ function) * self.spacing

    @property
    def entropy(self) -> float:
        """−∫ p ln p dx in nats."""
        return -self.mean_of(np.log(self.values, where=self.values > 0.0, out=np.zeros(self.size)))

    @property
    def size(self) -> int:
        """Number of points."""
        return int(self.positions.size)


def forecast_density(mean: float, deviation: float) -> Density:
    """The normal law of a forecast on 256 points, four deviations to either side.

    **Failure:** `ValueError` where an argument is not finite or `deviation` is negative.
    """
    if not (np.isfinite(mean) and np.isfinite(deviation) and deviation >= 0.0):
        raise ValueError(
            f"mean {mean} and deviation {deviation} give no law: both have to be finite"
            " and the deviation not negative"
        )
    width = max(deviation, NARROWEST)
    standard = np.linspace(-HALF_WIDTH, HALF_WIDTH, GRID)
    height = np.exp(-0.5 * standard**2) / (np.sqrt(2.0 * np.pi) * width)
    return Density(mean + width * standard, height)


def transition_density(
    positions: Host,
    drift: Host,
    diffusion: Host,
    start: float,
    *,
    horizon: float = 1.0,
    steps: int = 200,
) -> Density:
    """The law of X `horizon` after it was at `start`; ends of the grid reflect.

    **Arguments:** `positions` `[n]`, uniform and ascending, with `start` inside; `drift` b and
    `diffusion` σ² there, `[n]`, per unit of time; `steps` of implicit Euler.

    **Failure:** `ValueError` for a start outside of the grid.

    **Cost:** O(n³) once and O(n²) per step. First order in time, first to second in space.
    """
    if not positions[0] <= start <= positions[-1]:
        raise ValueError(
            f"start {start} lies outside of the grid from {positions[0]} to {positions[-1]}:"
            " widen the grid"
        )
    spacing = float(positions[1] - positions[0])
    generator = generator_matrix(drift, diffusion, spacing)
    mass = _between_neighbours(positions, start, spacing)
    # The transpose turns the march back from a terminal value into one forward from a law.
    return Density(positions, march_back(horizon * generator.T, mass, steps)[0] / spacing)


def _between_neighbours(positions: Host, start: float, spacing: float) -> Host:
    """The point mass at `start`, shared by the two positions about it so that its mean is right."""
    return np.maximum(0.0, 1.0 - np.abs(positions - start) / spacing)
