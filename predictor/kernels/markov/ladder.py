"""The trained networks inside the compiled step: all members at once, chosen lane by lane.

Weights are constants of the program. Every member is evaluated for every lane, and the lane's
own is selected: under `vmap` a branch would be evaluated anyway, and a change of member
compiles nothing.
"""

from __future__ import annotations

from importlib.resources import files

import jax.numpy as jnp
import numpy as np

from predictor.kernels.markov import weights
from predictor.kernels.markov.ansatz import ansatz
from predictor.kernels.markov.coefficients import DOMAIN
from predictor.types import Array

MEMBERS = weights.read(files("predictor.kernels.markov"))
"""Smallest first. Reading raises `IntegrityError` where the files are damaged."""

SHAPES = tuple((member.training.width, member.training.depth) for member in MEMBERS)
CAPACITIES = np.array([width * depth for width, depth in SHAPES], dtype=float)

_LAYERS = tuple(
    tuple((kernel.astype(np.float64), bias.astype(np.float64)) for kernel, bias in member.layers)
    for member in MEMBERS
)


def member_index(width: int, depth: int) -> int:
    """Place of the member in the ladder.

    **Raises:** `ValueError` where no such member was trained.
    """
    if (width, depth) not in SHAPES:
        known = ", ".join(f"{w} x {d}" for w, d in SHAPES)
        raise ValueError(f"no network of width {width} and depth {depth} was trained: {known}")
    return SHAPES.index((width, depth))


def certainty_equivalents(time: Array, position: Array, coefficients: Array) -> Array:
    """A(t, x; c) of every member: `[members]`, in z-units; the value V is tanh of it.

    **Arguments:** scalars `time` in [0, 1] and `position`, which is clipped to the domain;
    `coefficients` `[7]` in the training range.
    """
    known = ansatz(time, jnp.clip(position, -DOMAIN, DOMAIN), coefficients)
    corrections = []
    for layers in _LAYERS:
        hidden = known.features
        for kernel, bias in layers[:-1]:
            hidden = jnp.tanh(hidden @ kernel + bias)
        kernel, bias = layers[-1]
        corrections.append((hidden @ kernel + bias)[0])
    return known.certainty_equivalent(jnp.stack(corrections))


def certainty_equivalent(member: Array, time: Array, position: Array, coefficients: Array) -> Array:
    """A(t, x; c) of the member with this index."""
    every = certainty_equivalents(time, position, coefficients)
    return jnp.sum(jnp.where(jnp.arange(len(MEMBERS)) == member, every, 0.0))
