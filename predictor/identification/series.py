"""What every identification function takes: a finite series that is long enough."""

from __future__ import annotations

from typing import Any

import numpy as np

Host = np.ndarray[Any, Any]


def as_series(values: Any, shortest: int) -> Host:
    """`values` as float64 `[T]`.

    **Failure:** `ValueError` for another shape, fewer than `shortest` values, or values that
    are not finite.
    """
    series = np.asarray(values, np.float64)
    if series.ndim != 1:
        raise ValueError(f"series has the shape {series.shape}, one axis is needed")
    if series.size < shortest:
        raise ValueError(f"series has {series.size} values, {shortest} are needed")
    if not np.all(np.isfinite(series)):
        raise ValueError("series has values that are not finite")
    return series


def periodogram(series: Host) -> tuple[Host, Host]:
    """Frequencies 2πj/T and ordinates |Σ x e^{−iωt}|²/(2πT), j = 1 … ⌊(T − 1)/2⌋."""
    count = (series.size - 1) // 2
    waves = np.fft.rfft(series - series.mean())[1 : count + 1]
    frequencies = 2.0 * np.pi * np.arange(1, count + 1) / series.size
    return frequencies, np.square(np.abs(waves)) / (2.0 * np.pi * series.size)


def lagged(series: Host, lags: int) -> Host:
    """Past of each value, `[T − lags, lags]`: row t holds x_{t−1}, …, x_{t−lags}."""
    windows = np.lib.stride_tricks.sliding_window_view(series[:-1], lags)
    return windows[:, ::-1]
