"""Drift of a scalar Markov process on a binary tree of cells: Kramers–Moyal by context trees.

The first Kramers–Moyal moment E[Δy | y = x] is a local regression: each cell of a dyadic
partition of the level holds the moments of the increments that started in it, and a line
through them, shrunk towards the line of its parent. How fine the partition is at each place
is decided by evidence: at every cell on the path of the present value, its own line competes
with what its children say. So a threshold is resolved where it lies, and nothing is paid for
resolution elsewhere.

**Source:** Friedrich et al. (2011), *Approaching complexity by stochastic methods*, Physics
Reports 506, for the moments; Willems, Shtarkov, Tjalkens (1995), *The context-tree weighting
method*, and Vovk (1998) for mixing over prunings.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from predictor.config import PredictorConfig
from predictor.kernels.bank import Member
from predictor.kernels.base import KernelTick
from predictor.selection import only_where
from predictor.types import Array

DEPTH = 7
LAYERS = DEPTH + 1
HALF_WIDTH = 3.5
"""The tree covers levels from −HALF_WIDTH to HALF_WIDTH spreads."""

OFFSETS = np.array([2**layer - 1 for layer in range(LAYERS)])
CELLS = 2**LAYERS - 1
HALF_WIDTHS = HALF_WIDTH / 2.0 ** np.arange(LAYERS)
CENTRES = np.concatenate(
    [-HALF_WIDTH + 2.0 * HALF_WIDTHS[k] * (np.arange(2**k) + 0.5) for k in range(LAYERS)]
)

CONSTANT_PRECISION = 1.0
SLOPE_PRECISION = 2.0
"""How many ticks the parent's line weighs, in its value and in its slope over the cell."""

VARIANCE_LAYERS = 6
VARIANCE_PRECISION = 20.0
"""How deep the variance is resolved, and how many ticks the parent's weighs: a variance takes
more ticks to know than a mean."""

TARGET_LIMIT = 8.0
ERROR_MEMORY = 0.01
FIRST_LEARNED = 20


class TreeState(NamedTuple):
    """Of each cell, and of what was said last.

    `moments` `[CELLS, 6]`: discounted Σ1, Σu, Σu², Σd, Σud of increments d that started at u, the
    position in the cell from −1 to 1, and Σe² of the tree's errors there. `losses` `[CELLS, 2]`:
    squared errors of the cell's line and of its children, in units of `error`. `path` `[LAYERS]`
    and `position` of the level forecast from; `lines` and `mixtures` `[LAYERS]`, what was said
    there; `error`, mean square of the tree's own errors.
    """

    moments: Array
    losses: Array
    path: Array
    position: Array
    lines: Array
    mixtures: Array
    error: Array


def _init(config: PredictorConfig) -> TreeState:
    del config
    return TreeState(
        moments=jnp.zeros((CELLS, 6), jnp.float32),
        losses=jnp.zeros((CELLS, 2), jnp.float32),
        path=jnp.asarray(OFFSETS, jnp.int32),
        position=jnp.zeros(()),
        lines=jnp.zeros(LAYERS),
        mixtures=jnp.zeros(LAYERS),
        error=jnp.ones(()),
    )


def _path(position: Array) -> Array:
    share = jnp.clip((position + HALF_WIDTH) / (2.0 * HALF_WIDTH), 0.0, 1.0 - 1e-9)
    offsets = jnp.asarray(OFFSETS)
    return (offsets + jnp.floor(share * 2.0 ** np.arange(LAYERS))).astype(jnp.int32)


def _learn(config: PredictorConfig, state: TreeState, target: Array, learns: Array) -> TreeState:
    memory = config.markov.markov_memory
    target = jnp.clip(target, -TARGET_LIMIT, TARGET_LIMIT)
    place = (state.position - jnp.asarray(CENTRES)[state.path]) / HALF_WIDTHS
    one = jnp.ones(LAYERS)
    squared = jnp.square(target - state.mixtures[0])
    gained = jnp.stack(
        [one, place, place * place, target * one, target * place, squared * one], axis=1
    )
    moments_before, losses_before = state.moments[state.path], state.losses[state.path]
    moments = (memory * moments_before + gained).astype(jnp.float32)
    error = state.error + ERROR_MEMORY * (squared - state.error)
    children = jnp.concatenate([state.mixtures[1:], state.mixtures[-1:]])
    losses = jnp.stack([jnp.square(target - state.lines), jnp.square(target - children)], axis=1)
    losses = (memory * losses_before + losses / jnp.maximum(error, 1e-12)).astype(jnp.float32)
    # What is written is chosen cell by cell: choosing between whole trees would copy them.
    moments = jnp.where(learns, moments, moments_before)
    losses = jnp.where(learns, losses, losses_before)
    return state._replace(
        moments=state.moments.at[state.path].set(moments),
        losses=state.losses.at[state.path].set(losses),
        error=jnp.where(learns, error, state.error),
    )


def _forecast(state: TreeState, level: Array) -> TreeState:
    """Lines and mixtures along the path of `level`, from the root down and back up."""
    position = jnp.clip(level, -HALF_WIDTH, HALF_WIDTH)
    path = _path(position)
    moments = state.moments[path].astype(jnp.float64)
    centres = jnp.asarray(CENTRES)[path]
    places = (position - centres) / HALF_WIDTHS
    value, slope, centre = jnp.zeros(()), jnp.zeros(()), jnp.zeros(())
    lines = []
    for layer in range(LAYERS):
        count, first, second, increments, crossed, _ = moments[layer]
        width = HALF_WIDTHS[layer]
        inherited = value + slope * (centres[layer] - centre)
        a = count + CONSTANT_PRECISION
        c = second + SLOPE_PRECISION
        p = increments + CONSTANT_PRECISION * inherited
        q = crossed + SLOPE_PRECISION * slope * width
        determinant = a * c - first * first
        value = (c * p - first * q) / determinant
        tilt = (a * q - first * p) / determinant
        slope, centre = tilt / width, centres[layer]
        lines.append(value + tilt * places[layer])
    advantage = (state.losses[path, 0] - state.losses[path, 1]).astype(jnp.float64)
    descend = 1.0 / (1.0 + jnp.exp(jnp.clip(-0.5 * advantage, -30.0, 30.0)))
    mixture = lines[-1]
    mixtures = [mixture]
    for layer in reversed(range(LAYERS - 1)):
        mixture = lines[layer] + descend[layer] * (mixture - lines[layer])
        mixtures.append(mixture)
    return state._replace(
        path=path,
        position=position,
        lines=jnp.stack(lines),
        mixtures=jnp.stack(mixtures[::-1]),
    )


def _step(config: PredictorConfig, state: TreeState, tick: KernelTick) -> tuple[TreeState, Array]:
    learns = tick.learn & (tick.accepted > FIRST_LEARNED)
    state = _learn(config, state, tick.target, learns)
    state = only_where(tick.change.restart, lambda _: _init(config), state)
    state = _forecast(state, tick.levels[0])
    return state, state.mixtures[0]


def _variance(state: TreeState) -> Array:
    """Second Kramers–Moyal moment at the present level, each cell shrunk to its parent."""
    moments = state.moments[state.path].astype(jnp.float64)
    variance = state.error
    for layer in range(VARIANCE_LAYERS):
        weight = moments[layer, 0] + VARIANCE_PRECISION
        variance = (moments[layer, 5] + VARIANCE_PRECISION * variance) / weight
    return variance


def context_tree_member(name: str) -> Member:
    """The conditional mean of the increment given the level, at the resolution it needs."""
    return Member(name, _init, _step, _variance)
