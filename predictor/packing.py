"""State trees as rows of 64-bit words: what a pool stores and a snapshot carries.

The layout follows from the tree alone, so a kernel with a richer state changes no storage
code. Every leaf keeps its bits: 64-bit leaves are reinterpreted, 32-bit ones paired, and
booleans widened.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from predictor.types import Array


class _Leaf(NamedTuple):
    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int
    words: int


class Layout(NamedTuple):
    """Where each leaf of one lane lies in its row of `width` unsigned 64-bit words."""

    leaves: tuple[_Leaf, ...]
    tree: Any
    width: int

    @property
    def fingerprint(self) -> str:
        """SHA-256 of names, shapes and types: equal fingerprints mean readable rows."""
        text = ";".join(f"{leaf.path}:{leaf.dtype}:{leaf.shape}" for leaf in self.leaves)
        return hashlib.sha256(text.encode()).hexdigest()


def layout_of(lane: Any) -> Layout:
    """The layout of a tree without lane axis; arrays or shape structs both serve."""
    flat, tree = jax.tree_util.tree_flatten_with_path(lane)
    leaves, start = [], 0
    for path, leaf in flat:
        size = int(np.prod(leaf.shape, dtype=int))
        dtype = np.dtype(leaf.dtype)
        if dtype.itemsize == 8 or dtype == np.bool_:
            words = size
        elif dtype.itemsize == 4:
            words = -(-size // 2)
        else:
            raise TypeError(
                f"state leaf {jax.tree_util.keystr(path)} has type {dtype}: "
                "use bool, or a type of 32 or 64 bits"
            )
        leaves.append(_Leaf(jax.tree_util.keystr(path), leaf.shape, dtype, start, words))
        start += words
    return Layout(tuple(leaves), tree, start)


def pack(layout: Layout, states: Any) -> Array:
    """Rows `[n, width]` (uint64) of states with leading axis n."""
    columns = []
    for leaf, values in zip(layout.leaves, jax.tree.leaves(states), strict=True):
        flat = values.reshape(values.shape[0], -1)
        if leaf.dtype == np.bool_:
            columns.append(flat.astype(jnp.uint64))
        elif leaf.dtype.itemsize == 8:
            columns.append(jax.lax.bitcast_convert_type(flat, jnp.uint64))
        else:
            flat = jnp.pad(flat, ((0, 0), (0, 2 * leaf.words - flat.shape[1])))
            pairs = flat.reshape(flat.shape[0], leaf.words, 2)
            columns.append(jax.lax.bitcast_convert_type(pairs, jnp.uint64))
    return jnp.concatenate(columns, axis=1)


def unpack(layout: Layout, rows: Array) -> Any:
    """States with leading axis n from rows `[n, width]`."""
    leaves = []
    for leaf in layout.leaves:
        words = rows[:, leaf.start : leaf.start + leaf.words]
        if leaf.dtype == np.bool_:
            flat = words.astype(jnp.bool_)
        elif leaf.dtype.itemsize == 8:
            flat = jax.lax.bitcast_convert_type(words, leaf.dtype)
        else:
            size = int(np.prod(leaf.shape, dtype=int))
            pairs = jax.lax.bitcast_convert_type(words, leaf.dtype)
            flat = pairs.reshape(rows.shape[0], -1)[:, :size]
        leaves.append(flat.reshape(rows.shape[0], *leaf.shape))
    return jax.tree.unflatten(layout.tree, leaves)
