"""The deep Galerkin solution tick by tick: entropy, collapse and the size of the network.

One grid point of the value function is evaluated per tick and replaces the oldest of a ring;
the entropy of the ring is compared with its own trailing level. This reads the coefficients of
the kernel's regression and changes nothing in it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from predictor.config import Markov
from predictor.fusion import entropy_window
from predictor.kernels.markov import entropy
from predictor.kernels.markov.ladder import CAPACITIES, certainty_equivalent, member_index
from predictor.selection import choose
from predictor.types import Array, Scalar

ENTROPY_ERROR = 0.1
"""What the shape entropy of a network may differ from that of the exact solution, in nats: a
loss below this is none."""


BASELINE_MEMORY = 0.005
"""Rate at which the trailing entropies follow, per tick."""


class GalerkinState(NamedTuple):
    """`ring` `[32]` of certainty equivalents (float32), by grid point; `learned` ticks;
    `followed` ticks of the trailing levels `power` (H₀) and `shape` (h₀); `collapsed` ticks in a
    row; the `member` in use."""

    ring: Array
    learned: Array
    followed: Array
    power: Array
    shape: Array
    collapsed: Array
    member: Array


class GalerkinReading(NamedTuple):
    """What one tick says.

    `value` V(0, x) and `certainty_equivalent` A(0, x) at the present state: E[tanh z'] and the
    sure z' worth as much. `entropy` H in nats of z-units, NaN until the ring is full.
    `collapse_warning`: the kernel should carry no weight. `scaled`: the member changed at this
    tick. `member`: its place in the ladder. `ratio`: κ, one until the ring is full.
    """

    value: Array
    certainty_equivalent: Array
    entropy: Array
    collapse_warning: Array
    scaled: Array
    member: Array
    ratio: Array


def baseline_member(rules: Markov) -> int:
    """Place of the configured network in the ladder."""
    width, depth = rules.dgm_network.split("x")
    return member_index(int(width), int(depth))


def init(rules: Markov) -> GalerkinState:
    """Nothing seen; the configured network."""
    zero, count = jnp.zeros(()), jnp.zeros((), jnp.int64)
    ring = jnp.zeros(entropy.POINTS, jnp.float32)
    member = jnp.asarray(baseline_member(rules), jnp.int32)
    return GalerkinState(ring, count, count, zero, zero, count, member)


def required_capacity(rules: Markov, ratio: Array) -> Array:
    """Width × depth that κ asks for: that of the baseline × κ^β, bounded by its multiple.

    **Source:** seed 000, capacity criterion log W D ≥ log W₀ D₀ + β log κ. The baseline is the
    configured network, never the one in use, so that repeated triggers do not compound.
    """
    baseline = CAPACITIES[baseline_member(rules)]
    growth = jnp.minimum(ratio**rules.dgm_entropy_coupling_beta, rules.dgm_max_capacity_factor)
    return baseline * jnp.maximum(growth, 1.0)


def _smallest_sufficient(rules: Markov, required: Array) -> Array:
    """The smallest member with this capacity, among those within the bound; the largest of
    these where none suffices."""
    baseline = CAPACITIES[baseline_member(rules)]
    allowed = (baseline <= CAPACITIES) & (rules.dgm_max_capacity_factor * baseline >= CAPACITIES)
    sufficient = allowed & (required <= CAPACITIES)
    smallest = jnp.argmin(jnp.where(sufficient, CAPACITIES, jnp.inf))
    largest = jnp.argmax(jnp.where(allowed, CAPACITIES, -jnp.inf))
    return jnp.where(jnp.any(sufficient), smallest, largest).astype(jnp.int32)


def choose_member(rules: Markov, member: Array, ratio: Array) -> Array:
    """The member for κ: a larger one beyond the trigger, the configured one again once κ has
    fallen below the trigger's square root, the present one between."""
    needed = _smallest_sufficient(rules, required_capacity(rules, ratio))
    capacities = jnp.asarray(CAPACITIES)
    grows = (ratio > rules.entropy_scaling_trigger) & (capacities[needed] > capacities[member])
    relaxes = ratio * ratio < rules.entropy_scaling_trigger
    baseline = jnp.asarray(baseline_member(rules), jnp.int32)
    return jnp.where(grows, needed, jnp.where(relaxes, baseline, member))


def retained_share(rules: Markov, volatility: Array) -> Array:
    """γ for `volatility`, the recent over the long-run standard deviation of the errors."""
    low, high = rules.entropy_volatility_low_threshold, rules.entropy_volatility_high_threshold
    scaled = volatility * jnp.sqrt(low * high)
    calm, wild = scaled < low, scaled > high
    ordinary = jnp.where(calm, rules.entropy_gamma_max, rules.entropy_gamma_default)
    return jnp.where(wild, rules.entropy_gamma_min, ordinary)


def _follow_entropy(
    rules: Markov, state: GalerkinState, volatility: Array, regime: Array
) -> tuple[GalerkinState, Array, Array]:
    """Compare the full ring with the trailing levels, then let them follow: state, H, κ."""
    values = state.ring.astype(jnp.float64)
    power = entropy.spacing_entropy(values)
    shape = entropy.shape_entropy(values, power)
    anew = regime | (state.followed == 0)
    trailing_power = jnp.where(anew, power, state.power)
    trailing_shape = jnp.where(anew, shape, state.shape)
    ratio = jnp.clip(
        jnp.exp(power - trailing_power), rules.entropy_ratio_min, rules.entropy_ratio_max
    )
    kept = jnp.exp(shape - trailing_shape + ENTROPY_ERROR)
    low = (state.followed >= entropy.POINTS) & (kept < retained_share(rules, volatility))
    rate = jnp.maximum(BASELINE_MEMORY, 1.0 / (state.followed + 1.0))
    after = state._replace(
        followed=state.followed + 1,
        power=trailing_power + rate * (power - trailing_power),
        shape=trailing_shape + rate * (shape - trailing_shape),
        collapsed=jnp.where(low, state.collapsed + 1, 0),
        member=choose_member(rules, state.member, ratio),
    )
    return after, power, ratio


def is_collapsed(rules: Markov, state: GalerkinState, volatility: Scalar) -> Array:
    """Whether the entropy has been too low for long enough to warn."""
    window = entropy_window(jnp.square(jnp.asarray(volatility, float)))
    by_window = jnp.floor(rules.mode_collapse_window_ratio * window)
    return state.collapsed >= jnp.maximum(rules.mode_collapse_min_threshold, by_window)


def follow(
    rules: Markov,
    state: GalerkinState,
    coefficients: Array,
    position: Array,
    *,
    learn: Array,
    embeddable: Array,
    volatility: Array,
    regime: Array,
) -> tuple[GalerkinState, GalerkinReading]:
    """One tick of one lane.

    **Arguments:** `coefficients` `[7]` in the training range (`embed`); `position`, the present
    state z; `learn`, False where a gate holds learning: then only the value is read;
    `embeddable`, False where no diffusion moves like the series: then the entropy is that of the
    nearest one, and no warning is given of its collapse;
    `volatility`, recent over long-run standard deviation of the errors; `regime`, an alarm at
    this tick: the trailing levels start from the present ones.
    """
    points = np.arange(entropy.POINTS)
    due = points == state.learned % entropy.POINTS
    positions = jnp.stack([position, jnp.sum(jnp.where(due, entropy.GRID, 0.0))])
    at_both = jax.vmap(certainty_equivalent, (None, None, 0, None))
    here, there = at_both(state.member, jnp.zeros(()), positions, coefficients)
    learn = learn & jnp.isfinite(there)
    read = state._replace(
        ring=jnp.where(learn & due, there.astype(jnp.float32), state.ring),
        learned=state.learned + jnp.where(learn, 1, 0),
    )
    full = read.learned >= entropy.POINTS
    judged, power, ratio = _follow_entropy(rules, read, volatility, regime)
    after = choose(full & learn, judged, read)
    after = after._replace(collapsed=jnp.where(embeddable, after.collapsed, 0))
    reading = GalerkinReading(
        value=jnp.tanh(here),
        certainty_equivalent=here,
        entropy=jnp.where(full, power, jnp.nan),
        collapse_warning=is_collapsed(rules, after, volatility),
        scaled=after.member != state.member,
        member=after.member,
        ratio=jnp.where(full, ratio, 1.0),
    )
    return after, reading
