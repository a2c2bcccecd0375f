"""Named processes with known answers, for the demo, for load and for tests.

Every process is written so that its best one-step forecast is known or bounded: white noise
cannot be forecast, a random walk's best forecast is its last value, an autoregression's is its
conditional mean. All are in arbitrary units with steps of order one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.ticks import TICKS_PER_BATCH, TickBatch

Series = np.ndarray[Any, np.dtype[np.float64]]
Generator = np.random.Generator

START_NS = 1_700_000_000_000_000_000
"""Event time of the first tick: 14 November 2023, 22:13:20 UTC."""
SECOND_NS = 1_000_000_000
RUN_IN = 200
"""Steps thrown away where a process is not started from its stationary law."""


class Process(NamedTuple):
    """`generate(rng, n)` gives `n` values, float64, the same for the same generator."""

    name: str
    description: str
    generate: Callable[[Generator, int], Series]


def white_noise(rng: Generator, n: int) -> Series:
    """Independent N(0, 1): the best forecast is 0, RMSE 1, √½ of persistence."""
    return rng.standard_normal(n)


def random_walk(rng: Generator, n: int) -> Series:
    """Sums of independent N(0, 1): nothing beats the last value."""
    return 100.0 + np.cumsum(rng.standard_normal(n))


def ar1(rng: Generator, n: int) -> Series:
    """Autocorrelation 0.7^k, variance 1 / (1 − 0.49)."""
    return _first_order(rng.standard_normal(n), 0.7, rng.standard_normal() / np.sqrt(1 - 0.49))


def ar2(rng: Generator, n: int) -> Series:
    """x_t = 1.2 x_{t−1} − 0.6 x_{t−2} + N(0, 1): a damped cycle of about nine ticks."""
    shocks = rng.standard_normal(n + RUN_IN).tolist()
    out = np.empty(n + RUN_IN)
    last = before = 0.0
    for t, shock in enumerate(shocks):
        last, before = 1.2 * last - 0.6 * before + shock, last
        out[t] = last
    return out[RUN_IN:]


def ou(rng: Generator, n: int) -> Series:
    """Ornstein–Uhlenbeck around 50, sampled exactly: rate 0.05 per tick, stationary deviation 2."""
    decay = np.exp(-0.05)
    shocks = 2.0 * np.sqrt(1.0 - decay**2) * rng.standard_normal(n)
    return 50.0 + _first_order(shocks, decay, 2.0 * rng.standard_normal())


def local_level(rng: Generator, n: int) -> Series:
    """A random walk of steps 0.3 under noise of deviation 1: exponential smoothing is optimal."""
    return 10.0 + np.cumsum(0.3 * rng.standard_normal(n)) + rng.standard_normal(n)


def seasonal(rng: Generator, n: int) -> Series:
    """A sine of period 24 and amplitude 5 with a random phase, under noise of deviation 0.5."""
    phase = rng.uniform(0.0, 2.0 * np.pi)
    return (
        20.0
        + 5.0 * np.sin(2.0 * np.pi * np.arange(n) / 24.0 + phase)
        + (0.5 * rng.standard_normal(n))
    )


def trend_breaks(rng: Generator, n: int) -> Series:
    """A broken line whose slope is drawn anew every 100 ticks on average, under noise 0.5."""
    slopes = _held(rng, n, 1.0 / 100.0, lambda count: rng.normal(0.0, 0.3, count))
    return np.cumsum(slopes) + 0.5 * rng.standard_normal(n)


def regime(rng: Generator, n: int) -> Series:
    """Levels N(0, 8²), each held for 150 ticks on average, under noise of deviation 1."""
    levels = _held(rng, n, 1.0 / 150.0, lambda count: rng.normal(0.0, 8.0, count))
    return levels + rng.standard_normal(n)


def garch(rng: Generator, n: int) -> Series:
    """A random walk with GARCH(1,1) steps (0.05, 0.10, 0.85): unit variance, bursts of it."""
    shocks = rng.standard_normal(n).tolist()
    steps = np.empty(n)
    variance, square = 1.0, 1.0
    for t, shock in enumerate(shocks):
        variance = 0.05 + 0.10 * square + 0.85 * variance
        steps[t] = step = shock * variance**0.5
        square = step * step
    return 100.0 + np.cumsum(steps)


def jump_diffusion(rng: Generator, n: int) -> Series:
    """A random walk of steps 0.3 with jumps N(0, 4²) at 2 % of the ticks."""
    jumps = np.where(rng.random(n) < 0.02, rng.normal(0.0, 4.0, n), 0.0)
    return 100.0 + np.cumsum(0.3 * rng.standard_normal(n) + jumps)


def setar(rng: Generator, n: int) -> Series:
    """Threshold autoregression: 1 + 0.6 x below zero, −1 + 0.6 x above, plus N(0, 0.5²)."""
    shocks = (0.5 * rng.standard_normal(n)).tolist()
    out = np.empty(n)
    x = 0.0
    for t, shock in enumerate(shocks):
        out[t] = x = (1.0 if x <= 0.0 else -1.0) + 0.6 * x + shock
    return out


def logistic_map(rng: Generator, n: int) -> Series:
    """x_t = 3.9 x_{t−1} (1 − x_{t−1}): chaos, exactly predictable one step ahead."""
    out = np.empty(n)
    x = rng.uniform(0.2, 0.8)
    for t in range(n):
        out[t] = x = 3.9 * x * (1.0 - x)
    return out


def lorenz(rng: Generator, n: int) -> Series:
    """First coordinate of the Lorenz system (10, 28, 8/3), sampled every 0.05 time units."""
    point = (1.0 + rng.normal(0.0, 0.5), 1.0 + rng.normal(0.0, 0.5), 25.0 + rng.normal(0.0, 0.5))
    out = np.empty(n + RUN_IN)
    for t in range(n + RUN_IN):
        for _ in range(5):
            point = _runge_kutta(point, 0.01)
        out[t] = point[0]
    return out[RUN_IN:]


Point = tuple[float, float, float]


def _lorenz_velocity(point: Point) -> Point:
    x, y, z = point
    return 10.0 * (y - x), x * (28.0 - z) - y, x * y - 8.0 / 3.0 * z


def _runge_kutta(point: Point, h: float) -> Point:
    """One classical step of fourth order."""

    def ahead(slope: Point, share: float) -> Point:
        x, y, z = point
        return x + share * h * slope[0], y + share * h * slope[1], z + share * h * slope[2]

    a = _lorenz_velocity(point)
    b = _lorenz_velocity(ahead(a, 0.5))
    c = _lorenz_velocity(ahead(b, 0.5))
    d = _lorenz_velocity(ahead(c, 1.0))
    x, y, z = (
        p + h / 6.0 * (a_ + 2.0 * b_ + 2.0 * c_ + d_)
        for p, a_, b_, c_, d_ in zip(point, a, b, c, d, strict=True)
    )
    return x, y, z


def intermittent(rng: Generator, n: int) -> Series:
    """Demand: zero at 80 % of the ticks, else 1 + Poisson(3); the mean is 0.8."""
    return np.where(rng.random(n) < 0.2, 1.0 + rng.poisson(3.0, n), 0.0)


def fractional_noise(rng: Generator, n: int, hurst: float = 0.75) -> Series:
    """Fractional Gaussian noise with Hurst exponent 0.75, exact: unit variance, long memory.

    **Source:** Davies and Harte (1987), *Tests for Hurst effect*, Biometrika 74, 95-101.
    """
    if n == 0:
        return np.empty(0)
    lags = np.arange(n + 1, dtype=float)
    two_h = 2.0 * hurst
    covariance = 0.5 * ((lags + 1) ** two_h - 2 * lags**two_h + np.abs(lags - 1) ** two_h)
    # The circulant that embeds the covariance has the noise's law in its first n coordinates.
    spectrum = np.fft.rfft(np.concatenate([covariance, covariance[-2:0:-1]])).real
    shaped = np.fft.rfft(rng.standard_normal(2 * n)) * np.sqrt(np.maximum(spectrum, 0.0))
    return np.fft.irfft(shaped, 2 * n)[:n]


def _first_order(shocks: Series, factor: float, start: float) -> Series:
    """x_t = factor x_{t−1} + shock_t with x_{−1} = start."""
    out = np.empty(len(shocks))
    x = float(start)
    for t, shock in enumerate(shocks.tolist()):
        out[t] = x = factor * x + shock
    return out


def _held(rng: Generator, n: int, rate: float, draw: Callable[[int], Series]) -> Series:
    """Values drawn anew with probability `rate` at each tick and held in between."""
    index = np.cumsum(rng.random(n) < rate)
    return draw(int(index[-1]) + 1)[index] if n else np.empty(0)


def _first_line(generate: Callable[..., Any]) -> str:
    return (generate.__doc__ or "").splitlines()[0]


PROCESSES: dict[str, Process] = {
    generate.__name__: Process(generate.__name__, _first_line(generate), generate)
    for generate in (
        white_noise,
        random_walk,
        ar1,
        ar2,
        ou,
        local_level,
        seasonal,
        trend_breaks,
        regime,
        garch,
        jump_diffusion,
        setar,
        logistic_map,
        lorenz,
        intermittent,
        fractional_noise,
    )
}
"""Every process by its name."""


def series(
    names: Sequence[str],
    assets: int,
    ticks: int,
    seed: int,
    start_ns: int = START_NS,
    interval_ns: int = SECOND_NS,
) -> Iterator[TickBatch]:
    """Ticks of `assets` series of each named process, interleaved by event time.

    All series tick together, `interval_ns` apart from `start_ns` on; ids are `ar1-000` and so
    on. A series depends on its own name and the seed only, not on what else is asked for. All
    values are held in memory: 8 bytes per tick.

    **Failure:** KeyError for an unknown name.
    """
    ids, columns = [], []
    for name in names:
        for number in range(assets):
            rng = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
            ids.append(f"{name}-{number:03d}")
            columns.append(PROCESSES[name].generate(rng, ticks))
    if not columns or not ticks:
        return
    table = np.stack(columns, axis=1)
    rows = max(1, TICKS_PER_BATCH // len(ids))
    for first in range(0, ticks, rows):
        block = table[first : first + rows]
        times = start_ns + np.arange(first, first + len(block), dtype=np.int64) * interval_ns
        yield TickBatch(ids * len(block), block.reshape(-1), np.repeat(times, len(ids)))
