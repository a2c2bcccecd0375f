"""Everything that can change a forecast, as one frozen tree; each field is declared once.

Lengths are in ticks, thresholds in units of the scale named in the description, times in
nanoseconds. The defaults come from the accuracy measurements in `docs/`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import msgspec

from predictor.settings import (
    Kind,
    Section,
    declared_fields,
    locked,
    replace_at,
    structural,
    tunable,
    value_at,
)

WARM_UP_TICKS = 20
"""Accepted ticks before kernels, gates on spread and monitors are trusted."""

WINDOW = 128
"""Length of the ring of past values that kernels and the Hölder exponent read."""

ROUNDS = 16
"""Ticks of one lane in one call; lanes with fewer are absent in the later rounds."""


class Ingestion(Section, frozen=True):
    """Which ticks are believed."""

    clock: Annotated[
        Literal["record", "wall"],
        locked("what `now` is: the Kafka timestamp of the tick's record, or the host's clock"),
    ] = "record"
    time_gates: Annotated[
        Literal["relative", "absolute", "off"],
        structural("limits on gaps: multiples of the learned interval, fixed times, or none"),
    ] = "relative"
    sigma_bound: Annotated[
        float,
        tunable(
            "distance from the location beyond which a tick is an outlier",
            "scale",
            ge=3.0,
            le=1000.0,
        ),
    ] = 20.0
    outlier_readmit_steps: Annotated[
        int,
        tunable(
            "rejected ticks after which an agreeing tick re-bases the location",
            "ticks",
            ge=1,
            le=100,
        ),
    ] = 1
    location_memory: Annotated[
        float, tunable("EWMA rate of location and scale", "per tick", gt=0.0, le=0.5)
    ] = 0.005
    frozen_signal_min_steps: Annotated[
        int,
        tunable("identical values before a signal can be called frozen", "ticks", ge=5, le=1000),
    ] = 5
    frozen_signal_probability: Annotated[
        float, tunable("a run less probable than this is frozen", "probability", gt=0.0, lt=1.0)
    ] = 1e-4
    frozen_signal_recovery_ratio: Annotated[
        float,
        tunable(
            "squared change over its average that counts as movement", "ratio", gt=0.0, le=10.0
        ),
    ] = 0.1
    frozen_signal_recovery_steps: Annotated[
        int, tunable("moving ticks that release a frozen signal", "ticks", ge=1, le=100)
    ] = 2
    staleness_intervals: Annotated[
        float,
        tunable(
            "gap that makes a series stale (relative gates)", "median intervals", gt=1.0, le=1e6
        ),
    ] = 10.0
    nyquist_intervals: Annotated[
        float,
        tunable(
            "gap that suspends the Hölder estimate (relative gates)",
            "median intervals",
            gt=1.0,
            le=1e6,
        ),
    ] = 8.0
    staleness_ttl_ns: Annotated[
        int, locked("age or gap that makes a series stale (absolute gates)", "ns", gt=0)
    ] = 500_000_000
    besov_nyquist_interval_ns: Annotated[
        int, locked("gap that suspends the Hölder estimate (absolute gates)", "ns", gt=0)
    ] = 100_000_000
    inference_recovery_hysteresis: Annotated[
        float,
        tunable(
            "fraction of the staleness limit below which a series recovers", "ratio", gt=0.0, le=1.0
        ),
    ] = 0.8
    degraded_recovery_min_steps: Annotated[
        int, tunable("clean ticks before degraded mode ends", "ticks", ge=1, le=1000)
    ] = 2


class Monitoring(Section, frozen=True):
    """Statistics of the one-step errors, and the alarms on them."""

    volatility_alpha: Annotated[
        float, tunable("EWMA rate of the error variance", "per tick", (0.05, 0.3), gt=0.0, le=1.0)
    ] = 0.1
    cusum_k: Annotated[
        float, tunable("slack of the CUSUM", "standard deviations", (0.1, 1.0), ge=0.0, le=5.0)
    ] = 0.5
    cusum_h: Annotated[
        float,
        tunable("threshold of the CUSUM", "standard deviations", (2.0, 10.0), gt=0.0, le=50.0),
    ] = 8.0
    grace_period_steps: Annotated[
        int, tunable("ticks after an alarm during which none is raised", "ticks", ge=0, le=1000)
    ] = 20
    residual_window_size: Annotated[
        int, structural("errors behind the kurtosis", "ticks", ge=32, le=1024)
    ] = 252
    shift_threshold: Annotated[
        float,
        tunable(
            "threshold of the likelihood ratio for a shift of the mean",
            "twice the log-likelihood ratio",
            gt=0.0,
            le=1000.0,
        ),
    ] = 14.0
    shift_window: Annotated[
        int, structural("longest run after a shift that is searched", "ticks", ge=8, le=128)
    ] = 60
    holder_threshold: Annotated[
        float,
        tunable(
            "Hölder exponent below which the signal is rough",
            "exponent",
            (0.2, 0.65),
            gt=0.0,
            lt=1.0,
        ),
    ] = 0.4
    holder_hysteresis: Annotated[
        float, tunable("rise above the threshold that ends robust mode", "exponent", ge=0.0, lt=1.0)
    ] = 0.05


class Fusion(Section, frozen=True):
    """Weights of the four kernels."""

    learning_rate_minimum: Annotated[
        float, tunable("smallest JKO step", "fraction of the way to the target", gt=0.0, le=1.0)
    ] = 0.05
    learning_rate_maximum: Annotated[
        float, tunable("largest JKO step", "fraction of the way to the target", gt=0.0, le=1.0)
    ] = 0.2
    learning_rate_volatility: Annotated[
        float,
        tunable("JKO step at calm volatility", "fraction of the way to the target", gt=0.0, le=1.0),
    ] = 0.1
    member_learning_rate: Annotated[
        float,
        tunable(
            "learning rate of the weights of a kernel's members",
            "per squared standard deviation",
            gt=0.0,
            le=1.0,
        ),
    ] = 0.1
    kernel_learning_rate: Annotated[
        float,
        tunable(
            "learning rate of the evidence about the kernels",
            "per squared standard deviation",
            gt=0.0,
            le=1.0,
        ),
    ] = 0.2
    sinkhorn_epsilon_min: Annotated[
        float,
        tunable(
            "smallest entropic regularisation", "standardised cost", (0.001, 0.1), ge=1e-4, le=1.0
        ),
    ] = 0.01
    sinkhorn_epsilon_0: Annotated[
        float,
        tunable(
            "entropic regularisation at zero volatility",
            "standardised cost",
            (0.05, 0.5),
            ge=1e-4,
            le=1.0,
        ),
    ] = 0.1
    sinkhorn_alpha: Annotated[
        float,
        tunable(
            "growth of the regularisation with volatility", "per unit", (0.1, 1.0), gt=0.0, le=10.0
        ),
    ] = 0.5
    sinkhorn_iterations: Annotated[
        int, structural("Sinkhorn iterations per tick, warm-started", "iterations", ge=1, le=200)
    ] = 20
    huber_delta: Annotated[
        float,
        tunable(
            "Huber threshold of the transport cost in robust mode",
            "standard deviations",
            gt=0.0,
            le=100.0,
        ),
    ] = 1.0
    entropy_reset: Annotated[
        Literal["soft", "uniform"],
        structural("weights at a regime alarm: a small share each, or a quarter each"),
    ] = "soft"


class Interval(Section, frozen=True):
    """The prediction interval."""

    coverage: Annotated[
        float,
        tunable("probability that the next value falls inside", "probability", ge=0.5, le=0.999),
    ] = 0.95
    quantile_step: Annotated[
        float,
        tunable(
            "step of the online quantile tracker", "standard deviations per tick", gt=0.0, le=1.0
        ),
    ] = 0.03


class Hilbert(Section, frozen=True):
    """Regression in a reproducing-kernel Hilbert space of polynomials of the delay embedding."""

    hilbert_memory: Annotated[
        float, tunable("forgetting factor of the regression", "per tick", gt=0.9, le=1.0)
    ] = 0.9998


class Markov(Section, frozen=True):
    """Drift and diffusion of a scalar diffusion, by Kramers–Moyal regression, and the deep
    Galerkin solution of its backward equation.

    An entropy below its share γ of the trailing one is a mode collapse, and γ is smaller in
    volatile times. An entropy that has grown by κ = exp(H − H₀) beyond the trigger asks for a
    network of κ^β times the capacity (width × depth) of the configured one.
    """

    markov_memory: Annotated[
        float, tunable("forgetting factor of the regression", "per tick", gt=0.9, le=1.0)
    ] = 0.9995
    dgm_network: Annotated[
        Literal["32x2", "64x2", "64x3", "64x4"],
        structural("width x depth of the trained network that an asset begins with"),
    ] = "32x2"
    dgm_entropy_coupling_beta: Annotated[
        float,
        structural("exponent of κ in the capacity that it asks for", "exponent", gt=0.0, le=1.0),
    ] = 0.7
    dgm_max_capacity_factor: Annotated[
        float,
        structural("largest capacity, in that of `dgm_network`", "ratio", ge=1.0, le=100.0),
    ] = 4.0
    entropy_scaling_trigger: Annotated[
        float, structural("κ from which a larger network takes over", "ratio", gt=1.0, le=100.0)
    ] = 2.0
    entropy_ratio_min: Annotated[
        float, structural("smallest κ that is told apart", "ratio", gt=0.0, le=1.0)
    ] = 0.1
    entropy_ratio_max: Annotated[
        float, structural("largest κ that is told apart", "ratio", ge=1.0, le=1000.0)
    ] = 10.0
    entropy_gamma_min: Annotated[
        float,
        structural(
            "share of the trailing entropy to keep in volatile times", "ratio", ge=0.0, le=1.0
        ),
    ] = 0.5
    entropy_gamma_default: Annotated[
        float,
        structural(
            "share of the trailing entropy to keep in ordinary times", "ratio", ge=0.0, le=1.0
        ),
    ] = 0.8
    entropy_gamma_max: Annotated[
        float,
        structural("share of the trailing entropy to keep in calm times", "ratio", ge=0.0, le=1.0),
    ] = 1.0
    entropy_volatility_low_threshold: Annotated[
        float,
        structural(
            "volatility below which times are calm; the geometric mean of both thresholds stands "
            "for the long run, so that only their ratio matters",
            "ratio",
            gt=0.0,
            le=100.0,
        ),
    ] = 0.05
    entropy_volatility_high_threshold: Annotated[
        float, structural("volatility above which times are volatile", "ratio", gt=0.0, le=100.0)
    ] = 0.2
    mode_collapse_min_threshold: Annotated[
        int, structural("ticks of low entropy in a row that are a collapse", "ticks", ge=1, le=1000)
    ] = 10
    mode_collapse_window_ratio: Annotated[
        float,
        structural(
            "ticks that are a collapse, where more, over the window of the entropy",
            "ratio",
            gt=0.0,
            le=1.0,
        ),
    ] = 0.1


class Levy(Section, frozen=True):
    """Itô–Lévy decomposition: drift, diffusion and jumps."""

    diffusion_memory: Annotated[
        float, tunable("forgetting factor of the fitted drift", "per tick", gt=0.9, le=1.0)
    ] = 0.9995
    stiffness_low: Annotated[
        float,
        tunable(
            "stiffness below which the drift is integrated explicitly",
            "1000 × step × drift slope",
            (50.0, 500.0),
            gt=0.0,
            le=1e6,
        ),
    ] = 100.0
    stiffness_high: Annotated[
        float,
        tunable(
            "stiffness from which the drift is integrated implicitly",
            "1000 × step × drift slope",
            (500.0, 5000.0),
            gt=0.0,
            le=1e6,
        ),
    ] = 1000.0
    levy_memory: Annotated[
        float, tunable("discount of the errors that weigh the filters", "per tick", gt=0.5, lt=1.0)
    ] = 0.995


class Signature(Section, frozen=True):
    """Regression on the log-signature of the time-augmented path over dyadic windows."""

    signature_depth: Annotated[Literal[2, 3, 4, 5], structural("highest level of the words")] = 3
    signature_memory: Annotated[
        float, tunable("forgetting factor of the regression", "per tick", gt=0.9, le=1.0)
    ] = 0.9995


class PredictorConfig(Section, frozen=True):
    """All that the numerical core depends on.

    Two configurations with the same structural fields share one compiled step; tunable
    fields enter it as traced scalars.
    """

    tile: Annotated[
        int,
        structural(
            "lanes of the compiled step; part of the definition of the bits",
            "assets",
            ge=1,
            le=4096,
        ),
    ] = 32
    seed: Annotated[int, locked("seed of diagnostics that sample", ge=0)] = 42
    ingestion: Ingestion = Ingestion()
    monitoring: Monitoring = Monitoring()
    fusion: Fusion = Fusion()
    interval: Interval = Interval()
    hilbert: Hilbert = Hilbert()
    markov: Markov = Markov()
    levy: Levy = Levy()
    signature: Signature = Signature()


_TUNABLE_PATHS = tuple(
    field.path for field in declared_fields(PredictorConfig) if field.kind is Kind.TUNABLE
)

Tunables = dict[str, jax.Array]
"""Tunable values by dotted path, each a float64 scalar."""


def tunables(config: PredictorConfig) -> Tunables:
    """The tunable fields as traced leaves of the compiled step."""
    return {
        ".".join(path): jnp.asarray(value_at(config, path), jnp.float64) for path in _TUNABLE_PATHS
    }


def structure(config: PredictorConfig) -> PredictorConfig:
    """`config` with its tunables at their defaults: what identifies a compilation."""
    default = PredictorConfig()
    for path in _TUNABLE_PATHS:
        config = replace_at(config, path, value_at(default, path))
    return config


def bind(config: PredictorConfig, values: Tunables) -> PredictorConfig:
    """`config` with traced values in the tunable fields, for use inside the compiled step."""
    for path in _TUNABLE_PATHS:
        config = replace_at(config, path, values[".".join(path)])
    return config


def canonical_json(config: PredictorConfig) -> str:
    """Sorted, separator-free JSON of the whole tree: equal text means equal forecasts."""
    plain: Any = msgspec.to_builtins(config)
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def config_hash(config: PredictorConfig) -> str:
    """SHA-256 of the canonical JSON, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()
