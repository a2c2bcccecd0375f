r"""Hölder exponent of a path, by the likelihood of its increments in the sine basis.

The increments of fractional Brownian motion of exponent H are stationary Gaussian noise with a
covariance Σ(H) that is known up to the unit. The sine transform diagonalises Σ exactly for
H → 0 and H = ½ and nearly so in between, so that the likelihood needs only the powers u² of
the sine coefficients and their *exact* expected values d(H), not the spectral density: with the
unit profiled out,

$$ \ell(H) = -\frac n2 \log \frac1n \sum_k \frac{u_k^2}{d_k(H)} - \frac12 \sum_k \log d_k(H). $$

Exact expectations make the estimating equation unbiased at every length, and the basis keeps
the scatter within 3 % of the Cramér-Rao bound with unknown unit, at 128 points already
(`python -m tests.benchmarks.bench_holder`). The same tables serve any stationary family of
increments, see `predictor/regularity.py`.

**Source:** Sykulski, Olhede, Guillaumin, Lilly, Early (2019), *The debiased Whittle likelihood*,
Biometrika 106, 251-266; Mandelbrot and Van Ness (1968), *Fractional Brownian motions,
fractional noises and applications*, SIAM Review 10, 422-437.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from predictor.types import Array

Host = np.ndarray[Any, Any]

LONGEST_MATRIX = 255
"""Increments up to which the sine transform is a product with a constant matrix; beyond, it
is a Fourier transform. The step's window is below: a Fourier transform leaves the fused
program for a library call."""

SHORTEST_PATH = 8
"""Points below which no exponent is estimated."""


class HolderEstimate(NamedTuple):
    """`exponent` in [0, 1] and its `standard_error`; NaN where the path does not move."""

    exponent: Array
    standard_error: Array


class Family(NamedTuple):
    """Laws of the increments, one per column; constants of the program.

    - `weights`: `[n, G]`, 1/d_k scaled by the geometric mean of d: `log(powers @ weights)` is
      −2/n times the log-likelihood, up to a constant.
    - `exponents`: `[G]`, the parameter, ascending.
    - `standard_errors`: `[G]`, of the estimate where that column is true.
    """

    weights: Host
    exponents: Host
    standard_errors: Host


def fractional_noise_covariance(exponent: float, lags: int) -> Host:
    """Covariances `[lags]` of the increments of unit fractional Brownian motion."""
    lag = np.arange(lags, dtype=float)
    power = 2.0 * exponent
    neighbours = np.abs(lag - 1.0) ** power + (lag + 1.0) ** power
    return 0.5 * neighbours - lag**power


def differenced_covariance(covariance: Host) -> Host:
    """Covariances `[lags - 1]` of the increments of a stationary series."""
    before = np.concatenate([covariance[1:2], covariance[:-2]])
    return 2.0 * covariance[:-1] - before - covariance[1:]


def sine_variances(covariance: Host) -> Host:
    r"""Expected powers `[n]` of the sine coefficients under the covariances `[n]`.

    With m = n + 1 and θ = πk/m the sum over the Toeplitz matrix collapses to

    $$ d_k = \gamma_0 + \frac2m \sum_{j=1}^{n-1} \gamma_j
             \left[ (m - j) \cos j\theta + \cot\theta \, \sin j\theta \right]. $$
    """
    length = covariance.size
    period = length + 1
    lag = np.arange(length)
    twice = np.where(lag == 0, 1.0, 2.0) * covariance
    padded = np.zeros((2, 2 * period))
    padded[0, :length] = twice * (period - lag)
    padded[1, :length] = twice * (lag > 0)
    cosines, sines = np.fft.rfft(padded)[:, 1:period]
    angle = np.pi * np.arange(1, period) / period
    variances: Host = (cosines.real - sines.imag / np.tan(angle)) / period
    return variances


def cramer_rao_bound(exponent: float, points: int) -> float:
    """Smallest standard deviation of an unbiased estimate of H from a path with unknown unit.

    **Cost:** O(points³), on the host.

    **Source:** Porat and Friedlander (1986), *Computation of the exact information matrix of
    Gaussian time series*, IEEE Transactions on Acoustics, Speech and Signal Processing 34, 118.
    """
    lags = points - 1
    lag = np.abs(np.subtract.outer(np.arange(lags), np.arange(lags)))
    covariance = fractional_noise_covariance(exponent, lags)[lag]
    derivative = _slope(lambda h: fractional_noise_covariance(h, lags), exponent)[lag]
    score = np.linalg.solve(covariance, derivative)
    information = 0.5 * (np.sum(score * score.T) - np.trace(score) ** 2 / lags)
    return float(information**-0.5)


def family(covariance_of: Callable[[float, int], Host], exponents: Host, increments: int) -> Family:
    """Tables for the laws `covariance_of(exponent, lags)` at the given `exponents` `[G]`."""
    weights, errors = [], []
    for exponent in exponents:
        covariance = covariance_of(exponent, increments)
        variances = sine_variances(covariance)
        slopes = _slope(lambda h: sine_variances(covariance_of(h, increments)), exponent)
        weights.append(np.exp(np.log(variances).mean()) / variances)
        errors.append(_standard_error(covariance, variances, slopes / variances))
    return Family(
        weights=np.ascontiguousarray(np.stack(weights, axis=1)[_wave_order(increments)]),
        exponents=np.asarray(exponents),
        standard_errors=np.array(errors),
    )


def _standard_error(covariance: Host, variances: Host, scores: Host) -> float:
    """Root of the variance of the likelihood's slope over its curvature, unit profiled out.

    What correlation is left between sine coefficients widens it: by 1 % at H = .7, 15 % at .9.
    Beyond `LONGEST_MATRIX` increments the correlation is left out.
    """
    length = covariance.size
    scores = scores - scores.mean()
    curvature = 0.5 * np.sum(np.square(scores))
    if length > LONGEST_MATRIX:
        return float(curvature**-0.5)
    lag = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    # By Fourier transforms, since a matrix product would wake the threads of the BLAS.
    between = _sine_transform(_sine_transform(covariance[lag]).T)
    shared = np.square(between) / np.outer(variances, variances)
    slope_variance = 0.5 * np.sum(shared * np.outer(scores, scores))
    return float(slope_variance**0.5 / curvature)


def _sine_transform(rows: Host) -> Host:
    """Orthonormal sine transform of each row, waves ascending."""
    count, length = rows.shape
    zero = np.zeros((count, 1))
    odd = np.concatenate([zero, rows, zero, -rows[:, ::-1]], axis=1)
    waves: Host = np.fft.rfft(odd).imag[:, 1 : length + 1] / np.sqrt(2.0 * (length + 1))
    return waves


def exponent_grid(increments: int) -> Host:
    """Exponents in (0, 1), denser near the ends, about one standard error apart.

    They are equidistant in the angle θ of H = (1 − cos θ)/2, in which the likelihood is
    nearly a parabola between neighbours, at the ends too.
    """
    count = max(16, round(33.0 * (increments / 127.0) ** 0.5))
    grid: Host = 0.5 * (1.0 - np.cos(np.pi * np.arange(1, count + 1) / (count + 1)))
    return grid


def sine_powers(increments: Array) -> Array:
    """Squared sine coefficients `[n]`, odd wave numbers first."""
    length = increments.shape[0]
    if length > LONGEST_MATRIX:
        zero = jnp.zeros(1, increments.dtype)
        odd = jnp.concatenate([zero, increments, zero, -increments[::-1]])
        waves = jnp.fft.rfft(odd).imag[1 : length + 1] / np.sqrt(2.0 * (length + 1))
        return jnp.square(jnp.concatenate([waves[0::2], waves[1::2]]))
    symmetric, antisymmetric = _sine_matrices(length)
    half = length // 2
    mirrored = increments[::-1]
    sums = (increments + mirrored)[: length - half]
    differences = (increments - mirrored)[:half]
    # The middle of an odd number is its own mirror image; its row is halved in the matrix.
    waves = jnp.concatenate(
        [jnp.asarray(symmetric) @ sums, jnp.asarray(antisymmetric) @ differences]
    )
    return jnp.square(waves)


def best(laws: Family, losses: Array) -> HolderEstimate:
    """The most likely exponent from `losses` `[G]` = `powers @ weights` on an `exponent_grid`.

    A parabola through the best grid point and its neighbours, in the angle of the grid.
    """
    count = laws.exponents.size
    centre = jnp.clip(jnp.argmin(losses), 1, count - 2)
    below, here, above = (jnp.log(losses[centre + k]) for k in (-1, 0, 1))
    curvature = below - 2.0 * here + above
    # Where the best point is an end, the three are monotone and the parabola points beyond.
    offset = jnp.where(curvature > 0.0, 0.5 * (below - above) / curvature, jnp.sign(below - above))
    offset = jnp.clip(offset, -1.0, 1.0)
    angle = (centre + 1.0 + offset) * (np.pi / (count + 1))
    exponent = 0.5 * (1.0 - jnp.cos(angle))
    return HolderEstimate(exponent, standard_error_at(laws, exponent))


def standard_error_at(laws: Family, exponent: Array) -> Array:
    """Standard error of the estimate where the true exponent is `exponent`."""
    count = laws.exponents.size
    angle = jnp.arccos(jnp.clip(1.0 - 2.0 * exponent, -1.0, 1.0))
    place = jnp.clip(angle * ((count + 1) / np.pi) - 1.0, 0.0, count - 1.0)
    left = jnp.minimum(jnp.floor(place).astype(int), count - 2)
    table = jnp.asarray(laws.standard_errors)
    return table[left] + (place - left) * (table[left + 1] - table[left])


def estimate(path: Array) -> HolderEstimate:
    """Hölder exponent of a path of any length from 8 points on, and its standard error.

    Maximum likelihood over fractional Brownian motion with unknown unit; ½ for Brownian
    motion, near 0 for a stationary series without memory, near 1 for a smooth curve. Batch
    over paths with `jax.vmap`.

    **Arguments:** `path` `[N]`, float64, values in order, either direction, any unit.

    **Returns:** the estimate; NaN where the path does not move or is not finite.

    **Failure:** `ValueError` for fewer than 8 points.

    **Cost:** for N = 128 about 1.5 µs a path in a batch of 32 on one core; O(N √N) for the
    table, which is made once per length.
    """
    if path.shape[0] < SHORTEST_PATH:
        raise ValueError(f"path has {path.shape[0]} points, {SHORTEST_PATH} are needed")
    increments = unit_increments(path)
    moves = jnp.any(increments != 0.0)
    laws = fractional_brownian_motion(increments.shape[0])
    losses = sine_powers(jnp.where(moves, increments, 1.0)) @ jnp.asarray(laws.weights)
    found = best(laws, losses)
    blank = jnp.where(moves, 0.0, jnp.nan) * jnp.sum(increments)
    return HolderEstimate(found.exponent + blank, found.standard_error + blank)


def unit_increments(path: Array) -> Array:
    """Increments `[N - 1]` over the largest of them; zeros where there is none."""
    increments = jnp.diff(path)
    largest = jnp.max(jnp.abs(increments))
    return increments / jnp.where(largest == 0.0, 1.0, largest)


@functools.lru_cache(maxsize=8)
def fractional_brownian_motion(increments: int) -> Family:
    """The laws of `increments` steps of fractional Brownian motion."""
    return family(fractional_noise_covariance, exponent_grid(increments), increments)


def _slope(function: Callable[[float], Host], at: float) -> Host:
    """Central difference, with steps that stay inside (0, 1)."""
    step = 1e-4 * min(1.0, 10.0 * at, 10.0 * (1.0 - at))
    slope: Host = (function(at + step) - function(at - step)) / (2.0 * step)
    return slope


def _wave_order(length: int) -> Host:
    """Odd wave numbers, symmetric about the middle, before the even ones."""
    return np.concatenate([np.arange(0, length, 2), np.arange(1, length, 2)])


@functools.lru_cache(maxsize=8)
def _sine_matrices(length: int) -> tuple[Host, Host]:
    """Rows of the sine transform for folded increments: odd waves, even waves."""
    half = length // 2
    waves = np.arange(1, length + 1)
    place = np.arange(1, length - half + 1)
    rows = np.sqrt(2.0 / (length + 1)) * np.sin(np.pi * np.outer(waves, place) / (length + 1))
    symmetric, antisymmetric = rows[0::2].copy(), rows[1::2, :half]
    if length % 2:
        symmetric[:, -1] *= 0.5
    return symmetric, np.ascontiguousarray(antisymmetric)
