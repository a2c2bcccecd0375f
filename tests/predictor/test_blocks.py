"""Tables of results give back what was put into them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from predictor import PredictorConfig
from predictor.blocks import columns_of, empty_block, flatten, width_of
from predictor.config import ROUNDS
from predictor.tile import tile_of
from predictor.types import PredictionResult

CONFIG = PredictorConfig(tile=3)


def test_every_field_of_a_table_has_its_type_shape_and_bits():
    columns = tile_of(CONFIG).columns
    rng = np.random.default_rng(1)
    results = PredictionResult._make(
        rng.integers(0, 2, (3, *column.shape)).astype(column.dtype)
        if column.dtype != np.float64
        else rng.standard_normal((3, *column.shape))
        for column in columns.values()
    )

    table = np.asarray(flatten(jax.tree.map(jnp.asarray, results)))

    assert columns_of(results) == columns
    assert table.shape == (3, width_of(columns))
    for name, leaf in zip(PredictionResult._fields, results, strict=True):
        told = columns[name].of(table)
        assert told.dtype == leaf.dtype
        np.testing.assert_array_equal(told, leaf)


def test_an_empty_block_holds_no_tick():
    block = empty_block(3)

    assert block.present.shape == (ROUNDS, 3)
    assert not block.present.any()
