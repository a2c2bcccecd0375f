"""What goes into a step and what comes out of it."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import NamedTuple

import jax
from jax.typing import ArrayLike

Array = jax.Array

Scalar = jax.Array | float
"""A tunable: traced inside the compiled step, a plain number outside of it."""

KERNEL_NAMES = ("hilbert", "markov", "levy", "signature")
"""Order of the kernels in every array with a kernel axis."""

KERNELS = len(KERNEL_NAMES)


class OperatingMode(IntEnum):
    """Health of a forecast; the symbols of the Avro enum are the lower-case names."""

    INFERENCE = 0
    """Normal."""
    CALIBRATION = 1
    """Warming up or degraded; fusion weights are held."""
    DIAGNOSTIC = 2
    """Emergency: a rejected tick, or a significant loss of regularity."""


class Mode(IntEnum):
    """Which loss drives the fusion."""

    STANDARD = 0
    ROBUST = 1
    EMERGENCY = 2


class Events(IntFlag):
    """What one tick caused, as bits; each set bit becomes one record on the events topic."""

    OUTLIER_REJECTED = 1
    REBASED = 2
    FROZEN_SIGNAL = 4
    FROZEN_SIGNAL_RECOVERED = 8
    STALENESS = 16
    FREQUENCY_WARNING = 32
    OUT_OF_ORDER = 64
    REGIME_CHANGED = 128
    MODE_COLLAPSE = 256
    EMERGENCY = 512
    NORMAL_OPERATION_RESTORED = 1024
    WARMED_UP = 2048
    ARCHITECTURE_SCALED = 4096


class LaneTick(NamedTuple):
    """One lane's tick with nothing absent: NaN stands for a missing optional value."""

    magnitude: Array
    timestamp_ns: Array
    now_ns: Array
    dispersion_proxy: Array
    reference: Array
    present: Array


class Observation(NamedTuple):
    """Ticks of one row, one per lane; every array has the shape `[n]`.

    - `magnitude`: y_t in the unit of the series, float64.
    - `timestamp_ns`: event time, int64 nanoseconds since the Unix epoch.
    - `now_ns`: the clock of the gates; `None` means the timestamp.
    - `dispersion_proxy`, `reference`: optional, float64, NaN where absent.
    - `present`: False where this lane has no tick in this row: its state does not move
      and its results are NaN. `None` means all present.
    """

    magnitude: ArrayLike
    timestamp_ns: ArrayLike
    now_ns: ArrayLike | None = None
    dispersion_proxy: ArrayLike | None = None
    reference: ArrayLike | None = None
    present: ArrayLike | None = None


class PredictionResult(NamedTuple):
    """One forecast per lane, under the names of the Avro record.

    NaN in `holder_exponent`, `kurtosis`, `dgm_entropy`, `free_energy` and
    `sinkhorn_epsilon` means "not computed" and is null on the wire; where
    `sinkhorn_epsilon` is NaN, `sinkhorn_converged` has no meaning and is null too.
    `answered` is False where the lane had no tick or the order gate refused it; the other
    fields are then NaN, zero or False.
    """

    answered: Array
    sequence: Array
    answered_ticks: Array
    reference_prediction: Array
    confidence_lower: Array
    confidence_upper: Array
    location: Array
    scale: Array
    operating_mode: Array
    mode: Array
    weights: Array
    kernel_predictions: Array
    holder_exponent: Array
    kurtosis: Array
    dgm_entropy: Array
    cusum_drift: Array
    adaptive_threshold: Array
    distance_to_collapse: Array
    free_energy: Array
    sinkhorn_converged: Array
    sinkhorn_epsilon: Array
    degraded_inference_mode: Array
    emergency_mode: Array
    regime_change_detected: Array
    mode_collapse_warning: Array
    outlier_rejected: Array
    signature_depth: Array
    cusum_alarm: Array
    shift_alarm: Array
    events: Array
    holder_standard_error: Array
    kernel_sigma: Array
    volatility: Array
    jko_step_size: Array
    entropy_window: Array
    sinkhorn_iterations: Array
    sinkhorn_marginal_error: Array
    transport_cost: Array
    explicit_frequency: Array
    mixed_frequency: Array
    implicit_frequency: Array
    stiffness_maximum: Array
    newton_iterations_mean: Array
    implicit_residual_maximum: Array
    stiffness_low: Array
    stiffness_high: Array
    entropy_ratio: Array
    architecture_width: Array
    architecture_depth: Array
