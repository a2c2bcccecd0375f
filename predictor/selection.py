"""Choosing between two trees lane by lane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from predictor.types import Array

Tree = TypeVar("Tree")


def choose(condition: Array, when_true: Tree, when_false: Tree) -> Tree:
    """`when_true` where the scalar `condition` holds, else `when_false`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), when_true, when_false)


def only_where(needed: Array, change: Callable[..., Tree], tree: Tree, *given: Any) -> Tree:
    """`change(tree, *given)` where `needed`, else `tree`.

    For what is rarely needed: a conditional computes both sides once it is batched; this loop of
    at most one turn computes nothing at all while no lane of the tile needs it. Values of the
    tick that `change` computes with are `given`: the compiler moves what follows from others
    alone out of the loop, to be computed at every tick.
    """

    def turn(carry: tuple[Array, Tree]) -> tuple[Array, Tree]:
        wanted, known = carry
        bound = jax.tree.map(lambda leaf: jnp.where(wanted, leaf, jnp.zeros_like(leaf)), given)
        return jnp.zeros_like(needed), change(known, *bound)

    return jax.lax.while_loop(lambda carry: carry[0], turn, (needed, tree))[1]
