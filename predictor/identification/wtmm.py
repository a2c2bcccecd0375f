r"""Singularity spectrum by the wavelet-transform modulus maxima.

The series is analysed with the second derivative of a Gaussian, which does not see lines, at
scales from 2 samples up. The maxima of the modulus are linked from coarse to fine scales into
lines; with the largest modulus at scales ≤ a on each line ℓ,

$$ Z(q, a) = \sum_\ell \Big( \sup_{a' \le a} |W(a', b_\ell(a'))| \Big)^q \sim a^{\tau(q)}, \qquad
   D(h) = \min_q \left( q h - \tau(q) \right). $$

Measured over 200 fractional Brownian paths (`python -m tests.benchmarks.bench_wtmm`), mean ±
standard deviation of `dominant` for H = .3, .5, .7:

- 128 points: .31 ± .10, .51 ± .15, .69 ± .15, where `smallest` is .11 to .14 below H
- 1024 points: .30 ± .03, .50 ± .04, .70 ± .05, `smallest` .04 to .05 below
- 8192 points: .30 ± .01, .50 ± .01, .71 ± .01, `smallest` .01 to .03 below

A supremum over finer scales cannot fall, so exponents below 0 read as 0: take the running sum
of noise first. The spectrum says how many exponents there are and how rough the roughest is; the
exponent itself comes from `predictor.holder`, which scatters half as much.

**Source:** Muzy, Bacry, Arnéodo (1993), *Multifractal formalism for fractal signals*, Physical
Review E 47, 875; Mallat and Hwang (1992), *Singularity detection and processing with wavelets*,
IEEE Transactions on Information Theory 38, 617.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from predictor.identification.series import Host, as_series

VOICES = 8
"""Scales per octave."""

FINEST = 1.0
"""Scale in samples to which lines are followed; below it the wavelet is not resolved."""

FITTED_FROM = 2.0
"""Smallest scale of the fits. A supremum over finer scales needs an octave of them: without,
the exponents of fractional Brownian motion come out .1 to .2 too high."""

CONE = 1.5
"""A line moves by at most this many scales between neighbouring scales."""

INFLUENCE = 2.0
"""Positions closer than this many scales to an end see the padding and are left out."""

MOMENTS = np.linspace(-2.0, 4.0, 25)
EXPONENTS = np.linspace(-1.0, 2.0, 301)
SHORTEST = 64


class Line(NamedTuple):
    """A line of maxima, from its coarsest scale to the finest: indices of the scales,
    positions in samples and moduli, `[k]` each."""

    scale: Host
    position: Host
    modulus: Host


class Spectrum(NamedTuple):
    """What the maxima say.

    - `moments` `[Q]`, `tau` `[Q]`: the exponents τ(q) of the partition function.
    - `exponents` `[G]`, `dimensions` `[G]`: h and D(h) = min_q (q h − τ(q)).
    - `dominant`: the h at which D is largest.
    - `smallest`: τ′ at the largest moment, the strongest singularity.
    - `width`: τ′ at the smallest moment minus `smallest`; 0 for one exponent everywhere.
    """

    moments: Host
    tau: Host
    exponents: Host
    dimensions: Host
    dominant: float
    smallest: float
    width: float


def scales_for(points: int) -> Host:
    """Scales in samples, `VOICES` per octave, from `FINEST` to an eighth of the series."""
    octaves = np.log2(points / 8.0 / FINEST)
    return FINEST * 2.0 ** (np.arange(int(np.floor(octaves * VOICES)) + 1) / VOICES)


def transform(series: Host, scales: Host) -> Host:
    r"""Wavelet coefficients `[S, T]`, NaN within the cone of influence of the ends.

    Normalised as (1/a) ∫ ψ((t − b)/a) f(t) dt with ψ(t) = (t² − 1) e^{−t²/2}, so that a
    singularity of exponent h grows as a^h; by Fourier transform of the series
    without its chord, continued by point reflection at its ends.
    """
    points = series.size
    # Lines are not seen, so the chord may go; what is left continues oddly into a period.
    level = series - np.linspace(series[0], series[-1], points)
    period = np.concatenate([level, -level[-2:0:-1]])
    frequency = 2.0 * np.pi * np.fft.rfftfreq(period.size)
    stretched = np.square(np.outer(scales, frequency))
    wavelets = -np.sqrt(2.0 * np.pi) * stretched * np.exp(-0.5 * stretched)
    coefficients = np.fft.irfft(np.fft.rfft(period) * wavelets, period.size)[:, :points]
    place = np.arange(points)
    from_end = np.minimum(place, points - 1 - place)
    inside = from_end >= INFLUENCE * scales[:, None]
    result: Host = np.where(inside, coefficients, np.nan)
    return result


def maxima(moduli: Host) -> Host:
    """Positions of the local maxima of one scale; the first of equal neighbours."""
    known = np.nan_to_num(moduli, nan=-1.0)
    middle = known[1:-1]
    peaks = (middle > known[:-2]) & (middle >= known[2:]) & (middle > 0.0)
    # A neighbour in the cone of influence makes the end of the known part no maximum.
    peaks &= (known[:-2] >= 0.0) & (known[2:] >= 0.0)
    found: Host = np.flatnonzero(peaks) + 1
    return found


def lines_of(moduli: Host, scales: Host) -> list[Line]:
    """Lines that reach the finest scale, each maximum on at most one.

    From coarse to fine, a line goes on to the nearest free maximum within `CONE` scales, lines
    of larger modulus first; a maximum that no line claims starts a line.
    """
    open_lines: list[list[tuple[int, int]]] = []
    for level in range(scales.size - 1, -1, -1):
        free = maxima(moduli[level])
        going_on: list[list[tuple[int, int]]] = []
        strength = [-moduli[track[-1][0], track[-1][1]] for track in open_lines]
        for which in np.argsort(strength, kind="stable"):
            track = open_lines[which]
            if free.size == 0:
                break
            nearest = int(np.argmin(np.abs(free - track[-1][1])))
            if abs(free[nearest] - track[-1][1]) <= CONE * scales[level]:
                track.append((level, int(free[nearest])))
                free = np.delete(free, nearest)
                going_on.append(track)
        open_lines = going_on + [[(level, int(position))] for position in free]
    return [_as_line(track, moduli) for track in open_lines]


def _as_line(track: list[tuple[int, int]], moduli: Host) -> Line:
    level, position = np.array(track).T
    return Line(level, position, moduli[level, position])


def suprema(lines: list[Line], levels: int) -> Host:
    """Largest modulus at scales ≤ a, `[lines, levels]`; NaN above the start of a line."""
    table = np.full((len(lines), levels), np.nan)
    for row, line in enumerate(lines):
        table[row, line.scale[::-1]] = np.maximum.accumulate(line.modulus[::-1])
    return table


def spectrum(series: Host) -> Spectrum:
    """Singularity spectrum of a series of at least 64 points.

    **Arguments:** `series` `[T]`, values in order, any unit.

    **Failure:** `ValueError` where it is too short, not finite, or has no line of maxima over
    an octave (a constant or a line).

    **Cost:** O(S T log T) for S = 8 log₂(T/8) scales, and the links; 5 ms for 128 points.
    """
    values = as_series(series, SHORTEST)
    spread = values.std()
    scales = scales_for(values.size)
    moduli = np.abs(transform(values / (spread if spread > 0.0 else 1.0), scales))
    # Below the rounding of the transform nothing is a maximum.
    moduli = np.where(moduli > 1e-10, moduli, np.where(np.isnan(moduli), np.nan, 0.0))
    table = suprema(lines_of(moduli, scales), scales.size)
    counts = np.sum(~np.isnan(table), axis=0)
    usable = (counts >= 2) & (scales >= FITTED_FROM)
    if np.sum(usable) < VOICES:
        raise ValueError("series has no lines of wavelet maxima over an octave of scales")
    logarithms = np.log(table[:, usable])
    tau = np.array([_scaling(q, logarithms, np.log(scales[usable])) for q in MOMENTS])
    return legendre(MOMENTS, tau)


def of_window(window: Host) -> Spectrum:
    """Spectrum of a state's window, which holds the newest value first."""
    return spectrum(np.asarray(window)[::-1])


def _scaling(moment: float, logarithms: Host, log_scales: Host) -> float:
    """Slope of ln Z(q, a) on ln a, scales weighted by their number of lines."""
    exponents = moment * logarithms
    top = np.nanmax(exponents, axis=0)
    partition = top + np.log(np.nansum(np.exp(exponents - top), axis=0))
    weights = np.sqrt(np.sum(~np.isnan(logarithms), axis=0))
    return float(np.polyfit(log_scales, partition, 1, w=weights)[0])


def legendre(moments: Host, tau: Host) -> Spectrum:
    """The spectrum that belongs to τ(q): a minimum over q, since τ is concave."""
    dimensions = np.min(np.outer(EXPONENTS, moments) - tau, axis=1)
    slopes = np.gradient(tau, moments)
    return Spectrum(
        moments=moments,
        tau=tau,
        exponents=EXPONENTS,
        dimensions=dimensions,
        dominant=float(EXPONENTS[np.argmax(dimensions)]),
        smallest=float(slopes[-1]),
        width=float(slopes[0] - slopes[-1]),
    )
