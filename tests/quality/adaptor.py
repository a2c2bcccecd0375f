"""`run(Y)` for a judge of forecasts: a scan of the library over series on a grid of one second."""

from __future__ import annotations

import numpy as np

from predictor import FunctionalPredictor, Observation, PredictorConfig

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def run(series: np.ndarray) -> tuple[np.ndarray, ...]:
    """Forecast each column of `series` `[T, n]` one step ahead.

    Returns mean, lower and upper bound, regime flag, each `[T, n]` (row t is about row
    t + 1), and the kernels' forecasts `[T, n, 4]`.
    """
    rows, lanes = series.shape
    predictor = FunctionalPredictor(PredictorConfig())
    timestamps = START + SECOND * np.broadcast_to(np.arange(rows)[:, None], (rows, lanes))
    _, result = predictor.scan_batch(predictor.init_states(lanes), Observation(series, timestamps))
    return (
        result.reference_prediction,
        result.confidence_lower,
        result.confidence_upper,
        result.regime_change_detected,
        result.kernel_predictions,
    )
