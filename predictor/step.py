"""One step of one lane, in causal order.

Gates judge the tick; the stored forecasts are scored against it; monitors, weights and
intervals learn; then the kernels see the new value, and their mixture with its interval is
what is published and stored for the next tick. Nothing here reads a neighbour, a clock or a
random number, so the batch is `vmap` of this function and equals it to the last bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from predictor import anchors, fusion, gates, interval, monitors, regularity, shift
from predictor import recursive_least_squares as rls
from predictor.config import PredictorConfig
from predictor.kernels import KERNEL_MODULES, levy, markov
from predictor.kernels.base import KernelTick
from predictor.selection import choose, only_where
from predictor.state import LaneState
from predictor.types import (
    KERNEL_NAMES,
    Array,
    Events,
    LaneTick,
    Mode,
    OperatingMode,
    PredictionResult,
)

INCREMENT_LIMIT = 20.0
"""Bound on a kernel's forecast increment, in typical increments."""

LEVEL_LIMIT = 50.0

MAGNITUDE_LIMIT = 1e140
"""Larger values have no square in float64: the domain gate treats them as not finite, and a
reference beyond it as absent."""

FIRST_INCREMENTS = 20
"""Increments that the forecast before the kernels are ready is made of."""

FIRST_PRECISION = 3.0
"""Typical increments by which its coefficient is shrunk towards persistence."""


def _advance_window(state: LaneState, value: Array, verdict: gates.Verdict) -> LaneState:
    """Push `value`; on a re-based level the past and the coordinates move with it, so that the
    jump is no increment. A rejected value that turned out to be one of the series' takes the
    place that its forecast held."""
    jump = jnp.where(verdict.rebase, value - state.window[0], 0.0)
    recalled = verdict.readmitted & ~verdict.rebase
    newest = jnp.where(recalled, state.gates.rejected_value, state.window[0])
    window = jnp.concatenate([newest[None], state.window[1:]])
    past = jnp.where(state.accepted == 0, value, window + jump)
    anchor = state.anchor._replace(centre=state.anchor.centre + jump)
    return state._replace(
        window=jnp.concatenate([value[None], past[:-1]]),
        position=state.position + 1,
        anchor=anchor,
    )


def _divide(values: Array, unit: Array, limit: float) -> Array:
    """`values / unit`, bounded, and zero where there is no unit yet."""
    known = unit > 0.0
    return jnp.where(known, jnp.clip(values / jnp.where(known, unit, 1.0), -limit, limit), 0.0)


class Surroundings(NamedTuple):
    """What monitors know and kernels may use; see `KernelTick`."""

    holder_exponent: Array
    volatility: Array
    regime: Array


def _forecast_kernels(
    config: PredictorConfig,
    state: LaneState,
    target: Array,
    surroundings: Surroundings,
    learn: Array,
    held: Array,
) -> tuple[LaneState, Array, Array, Array]:
    """Let every kernel learn the realised value and forecast the next: raw means `[4]`, their
    own standard deviations `[4]` (NaN where a kernel has none), and the factor by which the
    unit of increments shrank."""
    followed, change = anchors.follow(state.anchor, state.window, state.accepted)
    still = anchors.unchanged()
    anchor, change = choose(held, (state.anchor, still), (followed, change))
    # Where other values than the series' own are taught, the window does not hold them.
    change = change._replace(early=change.early & (target == state.window[0]))
    unit = anchor.unit
    measured = (unit > 0.0) & (state.said.unit > 0.0)
    over_present = state.window - state.window[0]
    tick = KernelTick(
        levels=_divide(state.window - anchor.centre, anchor.spread, LEVEL_LIMIT),
        increments=_divide(state.window[:-1] - state.window[1:], unit, LEVEL_LIMIT),
        target=_divide(target - state.said.persistence, state.said.unit, LEVEL_LIMIT),
        change=change,
        ratio=jnp.where(unit > 0.0, anchor.spread / jnp.where(unit > 0.0, unit, 1.0), 1.0),
        lowest=_divide(jnp.min(over_present), unit, LEVEL_LIMIT),
        highest=_divide(jnp.max(over_present), unit, LEVEL_LIMIT),
        holder_exponent=surroundings.holder_exponent,
        volatility=surroundings.volatility,
        regime=surroundings.regime,
        # Nothing can be learned in units of an increment that never happened.
        learn=learn & measured,
        accepted=state.accepted,
        position=state.position,
    )
    first = _first_increment(tick.increments)
    states, means, deviations = [], [], []
    for kernel, kernel_state in zip(KERNEL_MODULES, state.kernels, strict=True):
        after, forecast = kernel.step(config, kernel_state, tick)
        states.append(after)
        sound = jnp.isfinite(forecast.increment)
        increment = jnp.clip(forecast.increment, -INCREMENT_LIMIT, INCREMENT_LIMIT)
        usable = sound & forecast.ready
        unready = jnp.where(forecast.ready, 0.0, first)
        means.append(state.window[0] + unit * jnp.where(usable, increment, unready))
        deviations.append(jnp.where(usable, unit * jnp.sqrt(forecast.variance), jnp.nan))
    state = state._replace(kernels=tuple(states), anchor=anchor)
    return state, jnp.stack(means), jnp.stack(deviations), change.gain


def _first_increment(increments: Array) -> Array:
    """The next increment by an autoregression of order one in differences, shrunk to persistence;
    `increments` `[n]`, newest first, zeros where the series has none yet."""
    past = increments[:FIRST_INCREMENTS]
    energy = jnp.sum(jnp.square(past[1:]))
    typical = jnp.sum(jnp.square(past)) / jnp.maximum(jnp.sum(past != 0.0), 1)
    covariance = jnp.sum(past[1:] * past[:-1])
    total = energy + FIRST_PRECISION * typical
    slope = jnp.where(total > 0.0, covariance / jnp.where(total > 0.0, total, 1.0), 0.0)
    return jnp.clip(slope, -1.0, 1.0) * past[0]


def _mixture(weights: Array, kernels: Array) -> Array:
    """Σ weights × kernels with every product rounded, so that a reader of the record gets the
    same bits from plain arithmetic.

    The compiler multiplies and adds in one rounding where it can. A barrier between operations
    does not last until then; a choice between the product and something else does.
    """
    products = jnp.where(weights >= 0.0, weights * kernels, jnp.nan)
    total = products[0]
    for product in products[1:]:
        total = total + product
    return total


def _is_regression(node: Any) -> bool:
    return isinstance(node, rls.Regression)


def _rest(state: LaneState) -> list[Array]:
    """All leaves that are no part of a regression."""
    nodes = jax.tree.leaves(state, is_leaf=_is_regression)
    return [node for node in nodes if not _is_regression(node)]


def _with_regressions_of(state: LaneState, rest: list[Array]) -> LaneState:
    """The state of which `_rest` is `rest` and whose regressions are those of `state`."""
    nodes, tree = jax.tree.flatten(state, is_leaf=_is_regression)
    others = iter(rest)
    joined: LaneState = jax.tree.unflatten(
        tree, [node if _is_regression(node) else next(others) for node in nodes]
    )
    return joined


def _as_bits(**flags: Array) -> Array:
    total = jnp.zeros((), jnp.int32)
    for name, flag in flags.items():
        total = total | jnp.where(flag, jnp.int32(Events[name.upper()]), jnp.int32(0))
    return total


def step_lane(
    config: PredictorConfig, state: LaneState, tick: LaneTick
) -> tuple[LaneState, PredictionResult]:
    """Fold one tick into one lane.

    **Arguments:** `config` with traced tunables (`predictor.config.bind`); `state` after all
    earlier ticks; `tick`, whose `present` is False where the lane has none.

    **Returns:** the state after the tick and the forecast of the next one. Where the lane has
    no tick or the order gate refuses it, the state is returned unchanged and the result is
    not `answered`.
    """
    magnitude = jnp.where(jnp.abs(tick.magnitude) > MAGNITUDE_LIMIT, jnp.inf, tick.magnitude)
    gate_state, verdict = gates.apply(
        config,
        state.gates,
        state.accepted,
        state.answered,
        magnitude,
        tick.timestamp_ns,
        tick.now_ns,
    )
    answered = tick.present & ~verdict.refused
    first = state.accepted == 0
    unborn = verdict.rejected & first
    value = jnp.where(verdict.rejected, state.said.mean, magnitude)
    usable = jnp.abs(tick.reference) <= MAGNITUDE_LIMIT  # False for NaN
    reference_given = usable & ~verdict.rejected
    target = jnp.where(reference_given, tick.reference, value)
    learn = answered & ~first & ~verdict.rejected & ~verdict.readmitted & ~verdict.frozen
    accepted = state.accepted + jnp.where(answered & ~verdict.rejected, 1, 0)
    warm = fusion.is_warm(accepted)

    error = target - state.said.mean
    scored_monitors, reading = monitors.score(config, state.monitors, error)
    monitored = choose(learn, scored_monitors, state.monitors)
    cusum_alarm = learn & reading.cusum_alarm
    scored_fusion = fusion.score(config, state.fusion, state.said, target)
    fused = choose(learn & warm, scored_fusion, state.fusion)
    scored_interval = interval.score(config, state.interval, error)
    intervals = choose(learn, scored_interval, state.interval)
    intervals = interval.pass_by(intervals, error, state.position + 1, learn)

    held = ~answered | verdict.rejected | verdict.frozen
    moved = _advance_window(state, value, verdict)._replace(accepted=accepted)

    shift_after, shifted = shift.detect(config, state.shift, moved.window)
    shift_state = choose(held, state.shift, shift_after)
    # Where the kernels know the series far better than the detector's autoregression, what
    # surprises that one is no news.
    informed = shift.is_informed(shift_after, monitored.long_variance)
    shift_alarm = learn & shifted & informed & (state.monitors.grace == 0) & warm
    regime = cusum_alarm | shift_alarm
    grace = jnp.where(
        regime, jnp.asarray(config.monitoring.grace_period_steps, jnp.int64), monitored.grace
    )
    monitored = monitored._replace(
        grace=grace,
        upward=jnp.where(regime, 0.0, monitored.upward),
        downward=jnp.where(regime, 0.0, monitored.downward),
    )

    rough = regularity.follow(
        config,
        state.regularity,
        moved.window,
        accepted,
        verdict.rejected | verdict.frozen | verdict.under_sampled,
    )

    stepped_fusion, fusion_info = fusion.move(
        config, fused, state.said, monitored.variance, monitored.long_variance, rough.robust
    )
    adapts = learn & warm & ~verdict.degraded
    fused = choose(adapts, stepped_fusion, fused)
    fused = choose(regime, fusion.reset(config, fused), fused)

    ratio = fusion.relative_variance(monitored.variance, monitored.long_variance)
    surroundings = Surroundings(rough.exponent, jnp.sqrt(ratio), regime)
    moved, raw, deviations, gain = _forecast_kernels(
        config, moved, target, surroundings, learn, held
    )
    fused = fusion.follow(fused, gain)
    shrunk = fusion.shrink(fused, raw, value)
    kernels = jnp.where(jnp.isfinite(shrunk), shrunk, value)
    solution = markov.value_reading(moved.kernels[KERNEL_NAMES.index("markov")])
    previous = markov.value_reading(state.kernels[KERNEL_NAMES.index("markov")])
    no = jnp.asarray(False)
    masked = jnp.stack([no, solution.warning, no, verdict.frozen])
    weights = fusion.weights_in_use(fused.weights, masked, rough.emergency)
    mean = _mixture(weights, kernels)
    proxies = jnp.concatenate([tick.dispersion_proxy[None], deviations])
    intervals, lower, upper = interval.bounds(config, intervals, mean, proxies, moved.position + 1)
    said = fusion.Forecasts(mean, kernels, raw, value, moved.anchor.unit)

    emergency = verdict.rejected | rough.emergency
    troubled = verdict.degraded | emergency
    after = moved._replace(
        answered=state.answered + 1,
        gates=gate_state,
        fusion=fused,
        monitors=monitored,
        shift=shift_state,
        interval=intervals,
        regularity=rough,
        said=said,
        troubled=troubled,
    )
    # A first tick that is no number is answered and leaves only this behind.
    nothing_believed = state._replace(
        answered=state.answered + jnp.where(answered, 1, 0),
        gates=choose(answered, gate_state, state.gates),
        troubled=state.troubled | answered,
    )
    # Nothing moves a regression of a lane that neither learns nor changes its coordinates. They are
    # most of the state, and would have to be copied at every tick to be put back here.
    after = _with_regressions_of(
        after, only_where(~answered | unborn, lambda _: _rest(nothing_believed), _rest(after))
    )

    blank = jnp.where(answered & ~unborn, 0.0, jnp.nan)
    computed = jnp.where(adapts & answered, 0.0, jnp.nan)
    events = _as_bits(
        outlier_rejected=verdict.rejected,
        rebased=verdict.readmitted,
        frozen_signal=verdict.entered_frozen,
        frozen_signal_recovered=verdict.left_frozen,
        staleness=verdict.entered_stale,
        frequency_warning=verdict.entered_under_sampled,
        regime_changed=regime,
        emergency=rough.emergency & ~state.regularity.emergency,
        normal_operation_restored=state.troubled & ~troubled,
        mode_collapse=solution.warning & ~previous.warning,
        architecture_scaled=solution.scaled & learn,
        warmed_up=warm & ~fusion.is_warm(state.accepted),
    )
    refused = jnp.int32(Events.OUT_OF_ORDER)
    events = jnp.where(tick.present, jnp.where(verdict.refused, refused, events), jnp.int32(0))
    solver = levy.solver_reading(moved.kernels[KERNEL_NAMES.index("levy")])
    result = PredictionResult(
        answered=answered,
        sequence=after.accepted,
        answered_ticks=after.answered,
        reference_prediction=mean + blank,
        confidence_lower=lower + blank,
        confidence_upper=upper + blank,
        location=gate_state.location + blank,
        scale=jnp.sqrt(gate_state.variance) + blank,
        operating_mode=jnp.where(
            emergency,
            jnp.int32(OperatingMode.DIAGNOSTIC),
            jnp.where(
                verdict.degraded | ~warm,
                jnp.int32(OperatingMode.CALIBRATION),
                jnp.int32(OperatingMode.INFERENCE),
            ),
        ),
        mode=jnp.where(
            emergency,
            jnp.int32(Mode.EMERGENCY),
            jnp.where(rough.robust, jnp.int32(Mode.ROBUST), jnp.int32(Mode.STANDARD)),
        ),
        weights=jnp.where(answered, weights, jnp.nan),
        kernel_predictions=kernels + blank,
        holder_exponent=rough.exponent + blank,
        kurtosis=jnp.where(learn, reading.kurtosis, jnp.nan) + blank,
        dgm_entropy=solution.entropy + blank,
        cusum_drift=jnp.where(learn, reading.drift, 0.0) + blank,
        adaptive_threshold=jnp.where(learn, reading.threshold, 0.0) + blank,
        distance_to_collapse=jnp.where(learn, reading.threshold - reading.drift, 0.0) + blank,
        free_energy=fusion_info.result.free_energy + computed,
        sinkhorn_converged=fusion_info.result.converged,
        sinkhorn_epsilon=fusion_info.epsilon + computed,
        degraded_inference_mode=answered & verdict.degraded,
        emergency_mode=answered & emergency,
        regime_change_detected=answered & regime,
        mode_collapse_warning=answered & solution.warning,
        outlier_rejected=answered & verdict.rejected,
        signature_depth=jnp.asarray(config.signature.signature_depth, jnp.int32),
        cusum_alarm=answered & cusum_alarm,
        shift_alarm=answered & shift_alarm,
        events=events,
        holder_standard_error=rough.standard_error + blank,
        kernel_sigma=fusion.kernel_sigma(fused, said.unit) + blank,
        volatility=jnp.sqrt(monitored.variance) + blank,
        jko_step_size=fusion_info.step_size + computed,
        entropy_window=fusion_info.window + computed,
        sinkhorn_iterations=fusion_info.result.iterations,
        sinkhorn_marginal_error=fusion_info.result.marginal_error + computed,
        transport_cost=fusion_info.cost + computed,
        explicit_frequency=solver.frequencies[0] + blank,
        mixed_frequency=solver.frequencies[1] + blank,
        implicit_frequency=solver.frequencies[2] + blank,
        stiffness_maximum=solver.stiffness + blank,
        newton_iterations_mean=solver.iterations + blank,
        implicit_residual_maximum=solver.residual + blank,
        stiffness_low=solver.low + blank,
        stiffness_high=solver.high + blank,
        entropy_ratio=solution.ratio + blank,
        architecture_width=solution.width,
        architecture_depth=solution.depth,
    )
    return after, result
