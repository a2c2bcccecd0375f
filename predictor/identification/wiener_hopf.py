r"""The best linear forecast of a stationary series, and whether it is purely random.

The discrete Wiener–Hopf equations Σ_s a_s γ(τ − s) = γ(h + τ) are solved by the recursion of
Levinson and Durbin in O(p²). The integral of Paley and Wiener and the theorem of Kolmogorov and
Szegő say whether such a series has innovations at all.

**Source:** Levinson (1947), *The Wiener RMS error criterion in filter design and prediction*,
Journal of Mathematics and Physics 25, 261; Durbin (1960), *The fitting of time-series models*,
Review of the International Statistical Institute 28, 233; Paley and Wiener (1934), *Fourier
Transforms in the Complex Domain*, theorem XII.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from predictor.identification.series import Host, as_series, lagged, periodogram

SHORTEST = 32
LARGEST_INTEGRAL = 100.0
FLOOR = 1e-10
EULER = float(np.euler_gamma)


class Filter(NamedTuple):
    """A linear forecast from the past.

    `coefficients` `[p]` of x_t, x_{t−1}, …; `reflections` `[p]`, the partial autocorrelations;
    `errors` `[p + 1]`: variance of the one-step forecast error at orders 0 to p.
    """

    coefficients: Host
    reflections: Host
    errors: Host


class PaleyWiener(NamedTuple):
    """`integral` ∫|ln f|/(1 + ω²) dω of the standardised series, whether it is `regular` (at
    most 100), and its `innovation_variance` by Kolmogorov's formula, in squared units."""

    integral: float
    regular: bool
    innovation_variance: float


def autocovariance(values: Host, lags: int) -> Host:
    """γ(0 … `lags`) with the divisor T, which keeps the sequence positive definite."""
    series = as_series(values, max(SHORTEST, lags + 1))
    centred = series - series.mean()
    return (
        np.array([centred[lag:] @ centred[: series.size - lag] for lag in range(lags + 1)])
        / series.size
    )


def levinson_durbin(covariance: Host, right: Host | None = None) -> Filter:
    """Solve Σ_s a_s γ(|τ − s|) = `right`(τ) for τ = 0 … p − 1.

    **Arguments:** `covariance` `[p + 1]`, γ(0 … p); `right` `[p]`, by default γ(1 … p), the
    equations of the one-step forecast.

    **Failure:** `ValueError` where the sequence is not positive definite.
    """
    gamma = np.asarray(covariance, np.float64)
    order = gamma.size - 1
    target = gamma[1:] if right is None else np.asarray(right, np.float64)
    ahead, solution = np.zeros(0), np.zeros(0)
    errors, reflections = [gamma[0]], []
    for step in range(order):
        if not errors[-1] > 0.0:
            raise ValueError("covariances are not positive definite")
        # `ahead` solves the one-step equations of this order; reversed, those of the last row.
        missing = (target[step] - gamma[step:0:-1] @ solution) / errors[-1]
        solution = np.append(solution - missing * ahead[::-1], missing)
        reflection = (gamma[step + 1] - gamma[step:0:-1] @ ahead) / errors[-1]
        ahead = np.append(ahead - reflection * ahead[::-1], reflection)
        reflections.append(reflection)
        errors.append(errors[-1] * (1.0 - reflection**2))
    return Filter(solution, np.array(reflections), np.array(errors))


def wiener_hopf(values: Host, order: int, horizon: int = 1) -> Filter:
    """Coefficients of the forecast of x_{t + `horizon`} − mean from `order` centred values."""
    gamma = autocovariance(values, order + horizon - 1)
    if not gamma[0] > 0.0:
        raise ValueError("series does not vary")
    return levinson_durbin(gamma[: order + 1], gamma[horizon : horizon + order])


def residuals(values: Host, filter_: Filter) -> Host:
    """One-step errors `[T − p]` of a filter on a series."""
    series = as_series(values, filter_.coefficients.size + 1)
    centred = series - series.mean()
    order = filter_.coefficients.size
    return centred[order:] - lagged(centred, order) @ filter_.coefficients


def paley_wiener(values: Host, smoothing: int = 5) -> PaleyWiener:
    """Paley–Wiener integral over [−π, π] from a periodogram smoothed over `smoothing` ordinates.

    A large integral says that the spectrum vanishes somewhere: the past determines the series.
    The density is that of the standardised series over 1/2π, so that white noise has ln f = 0,
    and is floored at 1e-10.
    """
    series = as_series(values, SHORTEST)
    variance = series.var()
    if not variance > 0.0:
        raise ValueError("series does not vary")
    frequencies, ordinates = periodogram(series / np.sqrt(variance))
    smooth = np.convolve(ordinates, np.ones(smoothing) / smoothing, mode="valid")
    trimmed = (smoothing - 1) // 2
    omega = frequencies[trimmed : trimmed + smooth.size]
    density = np.maximum(2.0 * np.pi * smooth, FLOOR)
    width = 2.0 * np.pi / series.size
    integral = float(2.0 * width * np.sum(np.abs(np.log(density)) / (1.0 + np.square(omega))))
    # E ln of a periodogram ordinate is Euler's constant below the log of the density.
    logarithm = np.mean(np.log(np.maximum(2.0 * np.pi * ordinates, FLOOR))) + EULER
    return PaleyWiener(integral, integral <= LARGEST_INTEGRAL, float(variance * np.exp(logarithm)))
