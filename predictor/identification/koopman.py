r"""Point spectrum of the Koopman operator, K g = g ∘ θ, on the delay embedding of a series.

Extended dynamic mode decomposition: the least-squares matrix that moves observables of the
embedded state one tick ahead. Its eigenvalues λ describe what persists: |λ| = 1 a conserved
quantity or a wave of frequency arg λ / 2π, |λ| < 1 what is forgotten within −1/ln |λ| ticks. The
eigenvalue 1 of the constant always belongs to it; a second one says that the series is not
ergodic, or has a level of its own.

**Source:** Williams, Kevrekidis, Rowley (2015), *A data-driven approximation of the Koopman
operator*, Journal of Nonlinear Science 25, 1307-1346; Arbabi and Mezić (2017), *Ergodic theory,
dynamic mode decomposition, and computation of spectral properties of the Koopman operator*, SIAM
Journal on Applied Dynamical Systems 16, 2096-2126.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from predictor.identification.series import Host, as_series

SHORTEST = 32
DELAYS = 8
CUTOFF = 1e-10
"""Singular values below this share of the largest are directions that the data never took."""


class KoopmanSpectrum(NamedTuple):
    """`eigenvalues` `[k]`, complex, by falling modulus; `frequencies` `[k]` in cycles per tick
    and `lifetimes` `[k]` in ticks, infinite on and beyond the unit circle."""

    eigenvalues: Host
    frequencies: Host
    lifetimes: Host


def linear_observables(states: Host) -> Host:
    """The constant and the delays themselves, `[n, 1 + delays]`."""
    return np.column_stack([np.ones(states.shape[0]), states])


def koopman_spectrum(
    values: Host,
    delays: int = DELAYS,
    observables: Callable[[Host], Host] = linear_observables,
) -> KoopmanSpectrum:
    """Eigenvalues of the Koopman operator on the span of `observables`.

    **Arguments:** `values` `[T]`, standardised before use; `delays`: length of the embedding;
    `observables`: from states `[n, delays]`, newest first, to `[n, k]`.

    **Failure:** `ValueError` where the series is too short for its delays.
    """
    series = as_series(values, max(SHORTEST, 4 * delays))
    spread = series.std()
    if not spread > 0.0:
        raise ValueError("series does not vary")
    standard = (series - series.mean()) / spread
    states = np.lib.stride_tricks.sliding_window_view(standard, delays)[:, ::-1]
    lifted = observables(states)
    before, after = lifted[:-1], lifted[1:]
    matrix = np.linalg.pinv(before, rcond=CUTOFF) @ after
    eigenvalues = np.linalg.eigvals(matrix)
    eigenvalues = eigenvalues[np.argsort(-np.abs(eigenvalues), kind="stable")]
    moduli = np.abs(eigenvalues)
    decay = -np.log(np.clip(moduli, np.finfo(float).tiny, 1.0))
    lifetimes = np.divide(1.0, decay, out=np.full(decay.size, np.inf), where=decay > 0.0)
    return KoopmanSpectrum(eigenvalues, np.angle(eigenvalues) / (2.0 * np.pi), lifetimes)
