"""How far from the Cramér-Rao bound is the Hölder exponent, and what does it cost in the step?

Run with `python -m tests.benchmarks.bench_holder [PATHS]`. The table gives bias and standard
deviation over exact fractional Brownian paths (circulant embedding), the bound with unknown unit,
and their ratio, whose own error is 1/√(2 PATHS); then microseconds per lane and tick in a compiled
loop at a tile of 32, after compilation, the best of 20.
"""

from __future__ import annotations

import functools
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from predictor import PredictorConfig, holder, regularity
from predictor.config import WINDOW

POINTS = (128, 512, 4096)
EXPONENTS = (0.1, 0.3, 0.5, 0.7, 0.9)
LANES, TICKS = 32, 64


def fractional_paths(
    random: np.random.Generator, exponent: float, points: int, paths: int
) -> np.ndarray:
    """`[paths, points]`, exact.

    **Source:** Davies and Harte (1987), *Tests for Hurst effect*, Biometrika 74, 95-101.
    """
    covariance = holder.fractional_noise_covariance(exponent, points + 1)
    circle = np.concatenate([covariance, covariance[-2:0:-1]])
    spectrum = np.fft.fft(circle).real
    noise = random.normal(size=(paths, circle.size)) + 1j * random.normal(size=(paths, circle.size))
    waves = np.sqrt(np.maximum(spectrum, 0.0) / circle.size) * noise
    return np.cumsum(np.fft.fft(waves).real[:, :points], axis=1)


def accuracy(paths: int) -> None:
    """Print bias and scatter per length and exponent."""
    sys.stdout.write("points exponent |    bias     std  stated   bound  ratio\n")
    estimates_of = jax.jit(jax.vmap(holder.estimate))
    for points in POINTS:
        for exponent in EXPONENTS:
            random = np.random.default_rng(points + round(100 * exponent))
            found = estimates_of(fractional_paths(random, exponent, points, paths))
            bound = holder.cramer_rao_bound(exponent, points)
            spread = float(np.std(found.exponent))
            sys.stdout.write(
                f"{points:6d} {exponent:8.2f} | {float(np.mean(found.exponent)) - exponent:7.4f} "
                f"{spread:7.4f} {float(np.mean(found.standard_error)):7.4f} {bound:7.4f} "
                f"{spread / bound:6.3f}\n"
            )


def microseconds(step: Callable[[Any, Any], Any], carry: Any) -> float:
    """Time of `step(carry, windows)` per lane and tick."""

    @jax.jit
    def run(carry: Any, windows: Any) -> Any:
        def tick(state: Any, _: Any) -> tuple[Any, None]:
            carry, windows = state
            carry = step(carry, windows)
            # The next windows depend on the result, or the loop could be emptied.
            leaves = [jnp.nan_to_num(leaf.reshape(LANES, -1)[:, :1]) for leaf in carry]
            moved = windows[:, :1] + windows[:, 50:51] + 1e-9 * sum(leaves)
            return (carry, jnp.concatenate([moved, windows[:, :-1]], axis=1)), None

        return jax.lax.scan(tick, (carry, windows), None, length=TICKS)[0]

    windows = jnp.asarray(np.random.default_rng(0).normal(size=(LANES, WINDOW)))
    jax.block_until_ready(run(carry, windows))
    best = np.inf
    for _ in range(20):
        start = time.perf_counter()
        jax.block_until_ready(run(carry, windows))
        best = min(best, time.perf_counter() - start)
    return best / (TICKS * LANES) * 1e6


def cost() -> None:
    """Print what the estimate and the whole of `regularity.follow` cost."""
    nothing = holder.HolderEstimate(jnp.zeros(LANES), jnp.zeros(LANES))
    estimate = microseconds(lambda _, windows: jax.vmap(holder.estimate)(windows), nothing)
    fresh = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (LANES, *leaf.shape)), regularity.init()
    )
    follow = jax.vmap(
        functools.partial(regularity.follow, PredictorConfig()), in_axes=(0, 0, None, None)
    )
    whole = microseconds(
        lambda state, windows: follow(state, windows, jnp.asarray(1000), jnp.asarray(False)), fresh
    )
    sys.stdout.write(
        f"µs per lane and tick, tile {LANES}, {platform.machine()}: "
        f"estimate {estimate:.2f}, follow {whole:.2f}\n"
    )


if __name__ == "__main__":
    with jax.enable_x64(True):
        accuracy(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
        cost()
