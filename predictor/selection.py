"""Choosing between two trees lane by lane."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from predictor.types import Array

Tree = TypeVar("Tree")


def choose(condition: Array, when_true: Tree, when_false: Tree) -> Tree:
    """`when_true` where the scalar `condition` holds, else `when_false`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), when_true, when_false)


def only_where(needed: Array, change: Callable[[Tree], Tree], tree: Tree) -> Tree:
    """`change(tree)` where `needed`, else `tree`.

    For what is rarely needed: a conditional computes both sides once it is batched; this loop of
    at most one turn computes nothing at all while no lane of the tile needs it.
    """

    def turn(carry: tuple[Array, Tree]) -> tuple[Array, Tree]:
        return jnp.zeros_like(needed), change(carry[1])

    return jax.lax.while_loop(lambda carry: carry[0], turn, (needed, tree))[1]
