"""Processes whose best one-step-ahead forecast and exact interval are known in closed form.

The names are permanent, and a tolerance belongs to each: a change of the numerics that breaks
one is a loss of quality, not a new baseline.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Array = np.ndarray

NORMAL = 1.959963985
"""Upper 2.5 % point of the standard normal law."""

STUDENT_5 = 2.570581836
"""The same of Student's t with five degrees of freedom."""


class Truth(NamedTuple):
    """`values` `[rows, lanes]`; of the value after each, its conditional mean `best` and half
    the width of its exact 95 % interval, both given everything up to then."""

    values: Array
    best: Array
    half_width: Array


Process = Callable[[np.random.Generator, int, int], Truth]


def _constant(values: Array, best: Array, half_width: float) -> Truth:
    return Truth(values, best, np.full_like(values, half_width))


def white(random: np.random.Generator, rows: int, lanes: int) -> Truth:
    """Best forecast: the mean."""
    values = 3.0 + random.normal(size=(rows, lanes))
    return _constant(values, np.full_like(values, 3.0), NORMAL)


def walk(random: np.random.Generator, rows: int, lanes: int) -> Truth:
    """Best forecast: the last value."""
    values = 100.0 + np.cumsum(random.normal(size=(rows, lanes)), axis=0)
    return _constant(values, values, NORMAL)


def _autoregression(noise: Array, slope: float) -> Array:
    values = np.zeros_like(noise)
    for row in range(1, len(noise)):
        values[row] = slope * values[row - 1] + noise[row]
    return values


def mean_reverting(random: np.random.Generator, rows: int, lanes: int) -> Truth:
    """AR(1): φ times the last value."""
    values = _autoregression(random.normal(size=(rows, lanes)), 0.6)
    return _constant(values, 0.6 * values, NORMAL)


def oscillating(random: np.random.Generator, rows: int, lanes: int) -> Truth:
    """AR(2) with complex roots."""
    values = np.zeros((rows, lanes))
    for row in range(2, rows):
        past = 1.4 * values[row - 1] - 0.8 * values[row - 2]
        values[row] = past + random.normal(size=lanes)
    best = 1.4 * values
    best[1:] -= 0.8 * values[:-1]
    return _constant(values, best, NORMAL)


def hidden_level(random: np.random.Generator, rows: int, lanes: int) -> Truth:
    """Local level: the Kalman filter at its steady gain g, g² = q (1 - g)."""
    q = 0.05
    values = np.cumsum(np.sqrt(q) * random.normal(size=(rows, lanes)), axis=0)
    values += random.normal(size=(rows, lanes))
    gain = 0.5 * (np.sqrt(q * q + 4.0 * q) - q)
    best = np.zeros_like(values)
    best[0] = values[0]
    for row in range(1, rows):
        best[row] = best[row - 1] + gain * (values[row] - best[row - 1])
    return _constant(values, best, NORMAL / np.sqrt(1.0 - gain))


def moving_average(random: np.random.Generator, rows: int, lanes: int) -> Truth:
    """MA(1): θ times the last innovation."""
    noise = random.normal(size=(rows + 1, lanes))
    return _constant(noise[1:] + 0.7 * noise[:-1], 0.7 * noise[1:], NORMAL)


def fat_tailed(random: np.random.Generator, rows: int, lanes: int) -> Truth:
    """AR(1) with innovations of Student's t, five degrees of freedom."""
    values = _autoregression(random.standard_t(5, size=(rows, lanes)), 0.5)
    return _constant(values, 0.5 * values, STUDENT_5)


def threshold(random: np.random.Generator, rows: int, lanes: int) -> Truth:
    """Two regimes by the sign of the last value."""
    values = np.zeros((rows, lanes))
    for row in range(1, rows):
        last = values[row - 1]
        slope = np.where(last > 0.0, -0.5, 0.8)
        values[row] = slope * last + random.normal(size=lanes)
    return _constant(values, np.where(values > 0.0, -0.5, 0.8) * values, NORMAL)


def _clustered(random: np.random.Generator, rows: int, lanes: int) -> tuple[Array, Array]:
    """Noise of GARCH(1,1), and the standard deviation of the next: `[rows, lanes]` each."""
    noise = np.zeros((rows, lanes))
    variance = np.full((rows + 1, lanes), 1.0)
    for row in range(rows):
        noise[row] = np.sqrt(variance[row]) * random.normal(size=lanes)
        variance[row + 1] = 0.05 + 0.1 * noise[row] ** 2 + 0.85 * variance[row]
    return noise, np.sqrt(variance[1:])


def clustered_volatility(random: np.random.Generator, rows: int, lanes: int) -> Truth:
    """Price whose returns are GARCH(1,1): the last value, and an interval that breathes."""
    returns, deviation = _clustered(random, rows, lanes)
    values = 100.0 + np.cumsum(returns, axis=0)
    return Truth(values, values, NORMAL * deviation)


def seasonal_volatility(random: np.random.Generator, rows: int, lanes: int) -> Truth:
    """Hourly price that is restless at one time of the day, by a factor of three and on top of
    what clusters: the last value."""
    noise, deviation = _clustered(random, rows, lanes)
    hours = np.exp(0.55 * np.cos(2.0 * np.pi * np.arange(rows + 1) / 24))[:, None]
    values = 100.0 + np.cumsum(hours[:-1] * noise, axis=0)
    return Truth(values, values, NORMAL * hours[1:] * deviation)


def seasonal(random: np.random.Generator, rows: int, lanes: int) -> Truth:
    """An arbitrary pattern of period 12 and noise: the pattern."""
    pattern = 1.5 * random.normal(size=(12, lanes))
    season = pattern[np.arange(rows + 1) % 12]
    return _constant(season[:-1] + random.normal(size=(rows, lanes)), season[1:], NORMAL)


def long_memory(random: np.random.Generator, rows: int, lanes: int) -> Truth:
    """Fractional noise of order 0.35, by its Durbin–Levinson recursion (Hosking 1981)."""
    order = 0.35
    values = np.zeros((rows, lanes))
    best = np.zeros((rows, lanes))
    deviation = np.zeros(rows)
    phi = np.zeros(0)
    # Variance of the process, whose innovations have variance one.
    lags = np.arange(1, 100_000)
    spread = np.sqrt(1.0 + np.sum(np.square(np.cumprod((lags - 1.0 + order) / lags))))
    values[0] = spread * random.normal(size=lanes)
    variance = spread**2
    for row in range(rows):
        partial = order / (row + 1.0 - order)
        phi = np.append(phi - partial * phi[::-1], partial)
        variance *= 1.0 - partial**2
        best[row] = phi @ values[row::-1]
        deviation[row] = np.sqrt(variance)
        if row + 1 < rows:
            values[row + 1] = best[row] + deviation[row] * random.normal(size=lanes)
    return Truth(values, best, np.repeat(NORMAL * deviation[:, None], lanes, axis=1))


def chaotic(random: np.random.Generator, rows: int, lanes: int) -> Truth:
    """The logistic map, driven by little noise."""
    noise = 0.01 * random.normal(size=(rows, lanes))
    values = np.zeros((rows, lanes))
    values[0] = random.uniform(0.2, 0.8, size=lanes)
    for row in range(1, rows):
        last = values[row - 1]
        values[row] = 3.7 * last * (1.0 - last) + noise[row]
    return _constant(values, 3.7 * values * (1.0 - values), 0.01 * NORMAL)


def bad_readings(random: np.random.Generator, rows: int, lanes: int) -> Truth:
    """AR(1) of which one reading in fifty is off by 12 deviations or more, and so is known to be
    when it comes: the slope to the power of the ticks since the last good one."""
    slope, share = 0.8, 0.02
    levels = _autoregression(random.normal(size=(rows, lanes)), slope)
    bad = random.uniform(size=(rows, lanes)) < share
    bad[0] = False
    size = 12.0 + random.exponential(4.0, size=(rows, lanes))
    values = levels + bad * size * random.choice([-1.0, 1.0], size=(rows, lanes))
    best, variance = np.zeros((2, rows, lanes))
    for row in range(rows):
        followed = slope * best[row - 1], 1.0 + slope**2 * variance[row - 1]
        best[row] = np.where(bad[row], followed[0], slope * levels[row])
        variance[row] = np.where(bad[row], followed[1], 1.0)
    # Half the width that a good reading, 98 of 100, keeps to 95 times in 100.
    return Truth(values, best, 2.162 * np.sqrt(variance))


@dataclass(frozen=True)
class Scenario:
    """A process, and what must be kept at the size of the test: RMSE over that of the best
    forecast, the interval's Winkler score and its width over those of the exact one, and its
    largest coverage."""

    process: Process
    error_limit: float
    interval_limit: float
    width_limit: float = 1.15
    coverage_limit: float = 0.96


SCENARIOS = {
    "white-noise": Scenario(white, 1.009, 1.05),
    "random-walk": Scenario(walk, 1.001, 1.05),
    "mean-reverting": Scenario(mean_reverting, 1.009, 1.05),
    "oscillating": Scenario(oscillating, 1.020, 1.05),
    "hidden-level": Scenario(hidden_level, 1.008, 1.05),
    "moving-average": Scenario(moving_average, 1.019, 1.05),
    "fat-tailed": Scenario(fat_tailed, 1.009, 1.08),
    "threshold": Scenario(threshold, 1.015, 1.05),
    "clustered-volatility": Scenario(clustered_volatility, 1.005, 1.08),
    "seasonal": Scenario(seasonal, 1.09, 1.11),
    "long-memory": Scenario(long_memory, 1.02, 1.06),
    "chaotic": Scenario(chaotic, 1.05, 1.10),
    "bad-readings": Scenario(bad_readings, 1.05, 1.20, width_limit=1.40, coverage_limit=0.97),
    "seasonal-volatility": Scenario(seasonal_volatility, 1.005, 1.10),
}
