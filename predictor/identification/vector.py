"""All of system identification for one series, gathered."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from predictor.holder import estimate
from predictor.identification import malliavin
from predictor.identification.fractional import FractionalOrder, fractional_order
from predictor.identification.koopman import KoopmanSpectrum, koopman_spectrum
from predictor.identification.semimartingale import Semimartingale, semimartingale
from predictor.identification.series import Host, as_series
from predictor.identification.stationarity import Stationarity, stationarity
from predictor.identification.transfer_entropy import TransferEntropy, transfer_entropy
from predictor.identification.variation import Variation, variation
from predictor.identification.wiener_hopf import Filter, PaleyWiener, paley_wiener, wiener_hopf
from predictor.identification.wtmm import Spectrum, spectrum

SHORTEST = 64
ORDER = 5


class Identification(NamedTuple):
    """The identification vector of a series.

    - `stationarity`: both tests and what they say together.
    - `fractional`: order d of integration.
    - `holder_exponent`, `holder_standard_error`: of the series as a path.
    - `singularities`: spectrum by wavelet maxima.
    - `koopman`: what persists, by modulus.
    - `transfer_entropy`: from the driver; `None` without one.
    - `variation`: quadratic and bipower, and the jump statistic.
    - `semimartingale`: Doob's decomposition.
    - `linear`: the best linear forecast from five values.
    - `paley_wiener`: whether there are innovations.
    - `sensitivity`: derivative of the forecast with respect to the series, newest value last;
      of the linear forecast where none is given.
    """

    stationarity: Stationarity
    fractional: FractionalOrder
    holder_exponent: float
    holder_standard_error: float
    singularities: Spectrum
    koopman: KoopmanSpectrum
    transfer_entropy: TransferEntropy | None
    variation: Variation
    semimartingale: Semimartingale
    linear: Filter
    paley_wiener: PaleyWiener
    sensitivity: Host


def identify(
    values: Host, driver: Host | None = None, forecast: malliavin.Functional | None = None
) -> Identification:
    """Identify a series `[T]`, T ≥ 64, values in order and in any unit.

    **Arguments:** `driver` `[T]`: a series that may inform this one, tick by tick; `forecast`:
    from the series `[T]` to a number, differentiable by jax.

    **Failure:** `ValueError` where the series is too short, not finite or does not vary, or is
    a line, which has no singularities.

    **Cost:** O(T log T) and the links of the maxima; 10 ms for 128 values after compilation.
    """
    series = as_series(values, SHORTEST)
    linear = wiener_hopf(series, ORDER)
    if forecast is None:
        sensitivity = np.concatenate([np.zeros(series.size - ORDER), linear.coefficients[::-1]])
    else:
        sensitivity = malliavin.derivative(forecast, series)
    with jax.enable_x64(True):
        holder = estimate(jnp.asarray(series))
    return Identification(
        stationarity=stationarity(series),
        fractional=fractional_order(series),
        holder_exponent=float(holder.exponent),
        holder_standard_error=float(holder.standard_error),
        singularities=spectrum(series),
        koopman=koopman_spectrum(series),
        transfer_entropy=None if driver is None else transfer_entropy(driver, series),
        variation=variation(series),
        semimartingale=semimartingale(series),
        linear=linear,
        paley_wiener=paley_wiener(series),
        sensitivity=sensitivity,
    )
