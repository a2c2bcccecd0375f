"""The state of one asset: everything the next step needs, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from predictor import anchors, fusion, gates, interval, monitors, regularity, shift
from predictor.config import WINDOW, PredictorConfig
from predictor.identity import identity_of
from predictor.kernels import KERNEL_MODULES
from predictor.types import Array

STATE_VERSION = 5
"""Version of the meaning of the state; a snapshot of another version is refused."""


class LaneState(NamedTuple):
    """State of one lane; a batch has the same tree with a leading lane axis.

    `identity`: first 8 bytes of the SHA-256 of the asset id, as two uint32, most significant
    first. `accepted`: ticks believed (the published sequence). `answered`: ticks forecast,
    rejected ones too. `window`: last values, newest first; `position`: how many there have been.
    `anchor`: the coordinates in which the kernels see them.
    `troubled`: degraded or in emergency at the last tick.
    """

    identity: Array
    accepted: Array
    answered: Array
    gates: gates.GateState
    window: Array
    position: Array
    anchor: anchors.Anchor
    kernels: tuple[Any, ...]
    fusion: fusion.FusionState
    monitors: monitors.MonitorState
    shift: shift.ShiftState
    interval: interval.IntervalState
    regularity: regularity.RegularityState
    said: fusion.Forecasts
    troubled: Array


def init_lane(config: PredictorConfig) -> LaneState:
    """State of a lane that has seen no tick and belongs to no asset."""
    count = jnp.zeros((), jnp.int64)
    lane = LaneState(
        identity=jnp.zeros(2, jnp.uint32),
        accepted=count,
        answered=count,
        gates=gates.init(),
        window=jnp.zeros(WINDOW),
        position=count,
        anchor=anchors.init(),
        kernels=tuple(kernel.init(config) for kernel in KERNEL_MODULES),
        fusion=fusion.init(),
        monitors=monitors.init(config),
        shift=shift.init(config),
        interval=interval.init(),
        regularity=regularity.init(),
        said=fusion.no_forecasts(),
        troubled=jnp.asarray(False),
    )
    # A leaf made from a Python number is weakly typed, which the step's results are not: the
    # second call would compile a second program.
    strong: LaneState = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), lane)
    return strong


def init_lanes(
    config: PredictorConfig, lanes: int, asset_ids: Sequence[str] | None = None
) -> LaneState:
    """Fresh states with leading axis `lanes`, named after `asset_ids` where given."""
    if asset_ids is not None and len(asset_ids) != lanes:
        raise ValueError(f"asset_ids has {len(asset_ids)} entries for {lanes} lanes")
    lane = init_lane(config)
    batch = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (lanes, *leaf.shape)), lane)
    if asset_ids is None:
        return batch
    identity = np.array([identity_of(asset) for asset in asset_ids], np.uint32).reshape(lanes, 2)
    return batch._replace(identity=jnp.asarray(identity))
