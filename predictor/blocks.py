"""Blocks of ticks that go into a tile, and the tables of results that come out.

A table is one array to carry and to move, instead of one per field. Integers and flags are exact
in float64: counts stay far below 2⁵³.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from predictor.config import ROUNDS
from predictor.types import Array, LaneTick, PredictionResult


def empty_block(tile: int) -> LaneTick:
    """A block of absent ticks `[ROUNDS, tile]` on the host."""
    types = (np.float64, np.int64, np.int64, np.float64, np.float64, np.bool_)
    return LaneTick._make(np.zeros((ROUNDS, tile), each) for each in types)


class Column(NamedTuple):
    """Place `start:stop`, type and trailing shape of a result field in a row of the table."""

    start: int
    stop: int
    dtype: np.dtype
    shape: tuple[int, ...]

    def of(self, table: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The field `[..., *shape]` of a table `[..., width]` on the host; real numbers as a
        view."""
        values = table[..., self.start : self.stop].reshape(*table.shape[:-1], *self.shape)
        return values if self.dtype == values.dtype else values.astype(self.dtype)


Columns = dict[str, Column]


def columns_of(results: PredictionResult) -> Columns:
    """The places of results with one leading axis; arrays or shape structs both serve."""
    columns: Columns = {}
    start = 0
    for name, leaf in zip(PredictionResult._fields, results, strict=True):
        shape = leaf.shape[1:]
        stop = start + int(np.prod(shape, dtype=int))
        columns[name] = Column(start, stop, np.dtype(leaf.dtype), shape)
        start = stop
    return columns


def width_of(columns: Columns) -> int:
    """Numbers in a row of the table."""
    return max(column.stop for column in columns.values())


def flatten(results: PredictionResult) -> Array:
    """The table `[n, width]` of results `[n, ...]`, float64."""
    fields = [leaf.reshape(leaf.shape[0], -1).astype(jnp.float64) for leaf in results]
    return jnp.concatenate(fields, axis=1)
