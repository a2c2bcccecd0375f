r"""Weights of the kernels: a Jordan–Kinderlehrer–Otto step towards an evidence-based target.

Each kernel's forecast is first shrunk towards persistence by Bernstein online aggregation,
so that persistence is within reach of the mixture. The target ρ̂ is the evidence-weighted
mean of a softmax of discounted squared errors and of a second aggregation; then
ρ ← ρ + τ (ρ̂ − ρ), with τ from the volatility over its long-run level. The entropic
transport between the two weightings is solved for its free energy.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from predictor import aggregation, evidence, transport
from predictor.config import WARM_UP_TICKS, PredictorConfig
from predictor.types import KERNELS, Array, Scalar

ERROR_LIMIT = 50.0
"""Bound on an error, in typical increments."""

EARLY_STEPS = 10.0
"""Ticks after which half of the way to the target is gone at once; less later, down to the rule."""

SHRINKAGE_PRIOR = (0.7, 0.3)
"""Shares of a kernel and of persistence without a record: a kernel contains persistence already."""

RESET_SHARE = 0.0125
ENTROPY_WINDOW_LIMITS = (10.0, 500.0)
DOMAIN_LENGTH_SQUARED = 20.0

EPSILON_LIMIT = 1.0
"""Most regularisation, in standardised cost."""


class FusionState(NamedTuple):
    """`weights` ρ `[4]`; per kernel the aggregation against persistence; the evidence about
    the shrunk kernels, in typical increments; their aggregation; the evidence about the two
    targets; the potential of the transport; the ticks learned."""

    weights: Array
    shrinkage: aggregation.Aggregation
    kernels: evidence.Evidence
    experts: aggregation.Aggregation
    targets: evidence.Evidence
    potential: Array
    learned: Array


class Forecasts(NamedTuple):
    """What was said about the next value, kept until it arrives.

    `mean` is the published forecast, `kernels` the shrunk kernels `[4]`, `raw` the kernels
    before shrinkage `[4]`, `persistence` the value at that tick, `unit` the typical increment.
    """

    mean: Array
    kernels: Array
    raw: Array
    persistence: Array
    unit: Array


class FusionInfo(NamedTuple):
    """What the fusion did at one tick; NaN before it is warm."""

    step_size: Array
    window: Array
    epsilon: Array
    result: transport.TransportResult
    cost: Array


def init() -> FusionState:
    """Uniform weights, no evidence."""
    return FusionState(
        weights=jnp.full(KERNELS, 1.0 / KERNELS),
        shrinkage=jax.vmap(lambda _: aggregation.init(2))(jnp.arange(KERNELS)),
        kernels=evidence.init(KERNELS),
        experts=aggregation.init(KERNELS),
        targets=evidence.init(2),
        potential=jnp.zeros(KERNELS),
        learned=jnp.zeros((), jnp.int64),
    )


def no_forecasts() -> Forecasts:
    """Before the first tick."""
    zero = jnp.zeros(())
    return Forecasts(zero, jnp.zeros(KERNELS), jnp.zeros(KERNELS), zero, zero)


def shrink(state: FusionState, raw: Array, persistence: Array) -> Array:
    """Kernel forecasts `[4]` moved towards persistence by their record against it."""
    shares = jax.vmap(lambda record: aggregation.weights(record, SHRINKAGE_PRIOR))(state.shrinkage)
    return persistence + shares[:, 0] * (raw - persistence)


def _targets(state: FusionState) -> Array:
    """What evidence and aggregation say the weights should be, `[2, 4]`."""
    return jnp.stack([state.kernels.weights, aggregation.weights(state.experts)])


def score(
    config: PredictorConfig, state: FusionState, said: Forecasts, target: Array
) -> FusionState:
    """Fold in what the stored forecasts should have been."""
    # Without a unit every kernel said the same, and there is nothing to tell them apart by.
    moves = said.unit > 0.0
    unit = jnp.where(moves, said.unit, 1.0)
    limit = jnp.where(moves, ERROR_LIMIT, 0.0)

    def errors_of(forecasts: Array) -> Array:
        return jnp.clip((target - forecasts) / unit, -limit, limit)

    errors, raw = errors_of(said.kernels), errors_of(said.raw)
    persistence = jnp.full(KERNELS, errors_of(said.persistence))
    # Regrets are counted in errors of the best kernel, since increments can be far larger; at
    # first in increments, because a handful of errors is no unit for the whole record.
    settled = jnp.minimum(state.kernels.scored / WARM_UP_TICKS, 1.0)
    scale = jnp.exp(-settled * jnp.log(evidence.unit_of(state.kernels)))
    pairs = jnp.stack([raw, persistence], axis=1)
    blended = jnp.sum(_targets(state) * errors[None, :], axis=1)
    rate = config.fusion.kernel_learning_rate
    return state._replace(
        shrinkage=jax.vmap(aggregation.learn)(state.shrinkage, scale * pairs, scale * errors),
        kernels=evidence.learn(state.kernels, errors, rate),
        experts=aggregation.learn(state.experts, scale * errors, scale * blended[1]),
        targets=evidence.learn(state.targets, blended, rate),
        learned=state.learned + 1,
    )


def follow(state: FusionState, gain: Array) -> FusionState:
    """The same evidence where the typical increment has become `1 / gain` as large."""
    return state._replace(
        kernels=evidence.rescaled(state.kernels, gain),
        targets=evidence.rescaled(state.targets, gain),
    )


def relative_variance(variance: Array, long_variance: Array) -> Array:
    """Recent over long-run error variance, one while unknown."""
    known = long_variance > 0.0
    return jnp.where(known, variance / jnp.where(known, long_variance, 1.0), 1.0)


def entropy_window(ratio: Array) -> Array:
    """Ticks over which an entropy counts as one level: the time to diffuse through the domain, for
    a relative variance `ratio`. A loss of entropy is a collapse when it lasts for a part of it."""
    return jnp.clip(5.0 * DOMAIN_LENGTH_SQUARED / jnp.maximum(ratio, 1e-6), *ENTROPY_WINDOW_LIMITS)


def _epsilon(config: PredictorConfig, ratio: Scalar) -> Array:
    """Regularisation of the transport at this relative variance."""
    rules = config.fusion
    return jnp.clip(
        rules.sinkhorn_epsilon_0 * (1.0 + rules.sinkhorn_alpha * jnp.sqrt(ratio)),
        rules.sinkhorn_epsilon_min,
        EPSILON_LIMIT,
    )


def tempered(target: Array, temperature: Array) -> Array:
    """The target `[k]` on the simplex at a temperature above its own: in turmoil the evidence
    counts for less, and where the regularisation grows without limit all kernels weigh the same."""
    hotter = target ** (1.0 / jnp.maximum(temperature, 1.0))
    return hotter / jnp.sum(hotter)


def move(
    config: PredictorConfig,
    state: FusionState,
    said: Forecasts,
    variance: Array,
    long_variance: Array,
    robust: Array,
) -> tuple[FusionState, FusionInfo]:
    """One JKO step of the weights and the transport between old and new ones.

    **Arguments:** `variance` and `long_variance` are the EWMA error variances (unit of y
    squared); `robust` selects the Huber cost.
    """
    rules = config.fusion
    ratio = relative_variance(variance, long_variance)
    step_size = jnp.clip(
        rules.learning_rate_volatility * ratio,
        rules.learning_rate_minimum,
        rules.learning_rate_maximum,
    )
    step_size = jnp.maximum(step_size, EARLY_STEPS / (state.learned + EARLY_STEPS))
    epsilon = _epsilon(config, ratio)
    target = jnp.sum(_targets(state) * state.targets.weights[:, None], axis=0)
    target = tempered(target, epsilon / _epsilon(config, 1.0))
    moved = jnp.maximum(state.weights + step_size * (target - state.weights), 0.0)
    moved = moved / jnp.sum(moved)
    cost = transport.kernel_cost(said.kernels, jnp.sqrt(variance), robust, rules.huber_delta)
    result = transport.sinkhorn(
        cost, state.weights, moved, epsilon, state.potential, rules.sinkhorn_iterations
    )
    info = FusionInfo(step_size, entropy_window(ratio), epsilon, result, cost)
    return state._replace(weights=moved, potential=result.potential), info


def reset(config: PredictorConfig, state: FusionState) -> FusionState:
    """What a regime alarm does to the weights."""
    uniform = jnp.full(KERNELS, 1.0 / KERNELS)
    if config.fusion.entropy_reset == "uniform":
        return state._replace(weights=uniform)
    softened = (1.0 - RESET_SHARE * KERNELS) * state.weights + RESET_SHARE
    # Part of the evidence goes, so that what holds now outweighs what held before the shift.
    return state._replace(
        weights=softened,
        kernels=evidence.softened(state.kernels, RESET_SHARE * KERNELS),
        targets=evidence.softened(state.targets, RESET_SHARE * KERNELS),
    )


def weights_in_use(weights: Array, masked: Array, forced: Array) -> Array:
    """The weights of this tick's forecast: the signature alone in an emergency of regularity,
    unless it is masked; else the stored ones without the kernels that are `masked` `[4]` (the
    signature on a frozen signal, markov while its modes have collapsed)."""
    left = jnp.where(masked, 0.0, weights)
    total = jnp.sum(left)
    others = jnp.where(masked, 0.0, 1.0)
    others = others / jnp.maximum(jnp.sum(others), 1.0)
    shared = jnp.where(total > 0.0, left / jnp.where(total > 0.0, total, 1.0), others)
    alone = jnp.asarray([0.0, 0.0, 0.0, 1.0])
    left_out = jnp.where(jnp.any(masked), shared, weights)
    return jnp.where(forced & ~masked[3], alone, left_out)


def kernel_sigma(state: FusionState, unit: Array) -> Array:
    """Predictive standard deviation of each kernel `[4]`, unit of y."""
    return unit * jnp.sqrt(state.kernels.variances)


def is_warm(accepted: Array) -> Array:
    """Whether weights are moved yet."""
    return accepted >= WARM_UP_TICKS
