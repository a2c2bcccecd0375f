"""Choosing between two trees lane by lane."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp

from predictor.types import Array

Tree = TypeVar("Tree")


def choose(condition: Array, when_true: Tree, when_false: Tree) -> Tree:
    """`when_true` where the scalar `condition` holds, else `when_false`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), when_true, when_false)
