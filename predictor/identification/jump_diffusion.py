r"""An Itô–Lévy model of a series: linear drift, constant diffusion and Merton's jumps.

One-step errors of the linear projection on the last value are scaled by their bipower variation,
which jumps hardly enter. Errors beyond a threshold that the largest of as many Gaussian ones seldom
reaches are jumps; the projection is fitted again without them. Intensity, mean and deviation of the
jumps are the moments of those errors, less the diffusion's part of each, and intensity counts what
is left of the threshold's missing middle. With φ the slope of the projection and θ = −ln φ the
drift is that of the Ornstein–Uhlenbeck process which is projected so; a series that does not
revert has a constant drift.

What `predictor.kernels.levy.rollout.ensemble` draws from the model is a sample of the law of the
next value.

**Source:** Mancini (2009), *Non-parametric threshold estimation for models with stochastic
diffusion coefficient and jumps*, Scandinavian Journal of Statistics 36, 270-296;
Barndorff-Nielsen and Shephard (2004), *Power and bipower variation with stochastic volatility and
jumps*, Journal of Financial Econometrics 2, 1-37; Lee and Mykland (2008), *Jumps in financial
markets*, Review of Financial Studies 21, 2535-2563, for the threshold.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from predictor.identification.series import Host, as_series
from predictor.kernels.levy.rollout import ItoLevyModel

SHORTEST = 64

FALSE_JUMPS = 0.05
"""Probability that a series without jumps shows one."""

ROUNDS = 10
"""Fits, each without the jumps of the one before."""

REVERTING = 2.0
"""Standard errors by which the slope has to be below one for the series to revert."""

SMALLEST_SLOPE = 0.02
"""Least φ: no diffusion oscillates, and one that forgets all within a tick is as good as noise
about a level."""


def jump_diffusion(values: Host) -> ItoLevyModel:
    """Fit the model to a series `[T]`, T ≥ 64, at equal distances; coefficients per tick.

    **Failure:** `ValueError` where the series is too short, not finite or does not move.
    """
    series = as_series(values, SHORTEST)
    before, after = series[:-1], series[1:]
    calm = np.ones(before.size, bool)
    constant, slope, error = 0.0, 1.0, 0.0
    for _ in range(ROUNDS):
        constant, slope, error = _projection(before[calm], after[calm])
        if slope > 1.0 - REVERTING * error:
            constant, slope = float(np.mean((after - before)[calm])), 1.0
        errors = after - constant - slope * before
        deviation = _bipower_deviation(errors, calm)
        now = np.abs(errors) <= _threshold(errors.size) * deviation
        if np.array_equal(now, calm):
            break
        calm = now
    variance = float(np.mean(np.square(errors[calm])))
    rate, mean, scale = _jumps(errors[~calm], errors.size, variance)
    return _embedded(constant, slope, variance)._replace(
        jump_rate=rate, jump_mean=mean, jump_scale=scale
    )


def _projection(before: Host, after: Host) -> tuple[float, float, float]:
    """Constant and slope of the next value on the last, and the standard error of the slope."""
    centred = before - before.mean()
    energy = float(centred @ centred)
    if not energy > 0.0:
        raise ValueError("series does not move")
    slope = float(centred @ after) / energy
    constant = float(after.mean() - slope * before.mean())
    errors = after - constant - slope * before
    return constant, slope, math.sqrt(float(errors @ errors) / (after.size - 2) / energy)


def _bipower_deviation(errors: Host, calm: Host) -> float:
    """Of the diffusion, from neighbours that are both `calm`: frequent jumps would enter it."""
    size, pairs = np.abs(errors), calm[1:] & calm[:-1]
    products = (size[1:] * size[:-1])[pairs]
    deviation = math.sqrt(0.5 * math.pi * float(np.mean(products))) if products.size else 0.0
    if not deviation > 0.0:
        raise ValueError("series has no two neighbouring errors that differ from zero")
    return deviation


def _threshold(count: int) -> float:
    """Standard deviations that the largest of `count` Gaussian errors exceeds seldom, by the law of
    extremes of Gumbel."""
    root = math.sqrt(2.0 * math.log(count))
    centre = root - (math.log(math.pi) + math.log(math.log(count))) / (2.0 * root)
    return centre - math.log(-math.log1p(-FALSE_JUMPS)) / root


def _jumps(sizes: Host, count: int, variance: float) -> tuple[float, float, float]:
    """Intensity per tick, mean and standard deviation of the jumps of these `sizes`."""
    if sizes.size == 0:
        return 0.0, 0.0, 0.0
    share = sizes.size / count
    spread = max(float(np.var(sizes)) - variance, 0.0)
    # A tick has a jump with probability 1 − exp(−λ).
    return -math.log1p(-min(share, 0.5)), float(np.mean(sizes)), math.sqrt(spread)


def _embedded(constant: float, slope: float, variance: float) -> ItoLevyModel:
    """The diffusion that is projected with this constant, slope and variance over a tick."""
    if slope >= 1.0:
        drift, rate = np.array([constant, 0.0, 0.0, 0.0]), variance
    else:
        bounded = max(slope, SMALLEST_SLOPE)
        speed = -math.log(bounded)
        level = constant / (1.0 - slope)
        drift = np.array([speed * level, -speed, 0.0, 0.0])
        rate = variance * 2.0 * speed / (1.0 - bounded**2)
    return ItoLevyModel(
        drift=jnp.asarray(drift), log_variance=jnp.asarray([math.log(rate), 0.0, 0.0])
    )
