"""Diffusions, regressions and networks that the tests of the markov kernel share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from predictor.kernels.markov import backward_equation as equation
from predictor.kernels.markov import ladder
from predictor.kernels.markov.coefficients import COEFFICIENTS, DOMAIN, denormalise

Host = np.ndarray[Any, Any]

POINTS, STEPS = 801, 400
"""With these the finite differences are within 0.003 of their limit over the range."""

TIMES = np.linspace(0.0, 1.0, 21)


def ornstein_uhlenbeck(rate: float, variance: float) -> Host:
    """Coefficients of dX = −rate X dt + √(2 rate variance) dW."""
    diffusion = 2.0 * rate * variance
    return np.array([0.0, -rate, 0.0, 0.0, np.log(diffusion), 0.0, 0.0])


def coefficients_in_range(seed: int, count: int) -> Host:
    """Random corners and interior points of the training range: `[count, 7]`."""
    box = np.random.default_rng(seed).uniform(-1.0, 1.0, (count, COEFFICIENTS))
    return np.asarray(jax.vmap(denormalise)(box))


@functools.lru_cache(maxsize=1)
def _on_grid() -> Callable[..., Any]:
    over_positions = jax.vmap(ladder.certainty_equivalents, (None, 0, None))
    return jax.jit(jax.vmap(over_positions, (0, None, None)))


def certainty_on_grid(coefficients: Host, times: Host, positions: Host) -> Host:
    """A of every member: `[members, times, positions]`."""
    values = _on_grid()(jnp.asarray(times), jnp.asarray(positions), jnp.asarray(coefficients))
    return np.moveaxis(np.asarray(values), -1, 0)


def value_on_grid(coefficients: Host, times: Host, positions: Host) -> Host:
    """V of every member: `[members, times, positions]`."""
    return np.tanh(certainty_on_grid(coefficients, times, positions))


@functools.lru_cache(maxsize=64)
def _reference(coefficients: tuple[float, ...]) -> tuple[Host, Host]:
    solution = equation.solve(np.array(coefficients), points=POINTS, steps=STEPS)
    inside = np.abs(solution.positions) <= DOMAIN
    every = STEPS // (TIMES.size - 1)
    return solution.positions[inside], solution.values[::every][:, inside]


def reference(coefficients: Host) -> tuple[Host, Host]:
    """Finite differences: positions in the domain, and V `[TIMES, positions]`."""
    return _reference(tuple(map(float, coefficients)))
