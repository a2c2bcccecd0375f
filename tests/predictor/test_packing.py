"""States as rows of words: every bit survives, and the layout names what it holds."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from predictor import PredictorConfig
from predictor.config import Signature
from predictor.packing import layout_of, pack, unpack
from predictor.state import init_lane, init_lanes

LANE = {
    "real": jax.ShapeDtypeStruct((3,), np.float64),
    "count": jax.ShapeDtypeStruct((), np.int64),
    "narrow": jax.ShapeDtypeStruct((5,), np.float32),
    "identity": jax.ShapeDtypeStruct((2,), np.uint32),
    "mode": jax.ShapeDtypeStruct((1,), np.int32),
    "flags": jax.ShapeDtypeStruct((2, 2), np.bool_),
    "matrix": jax.ShapeDtypeStruct((2, 2), np.float64),
}
LAYOUT = layout_of(LANE)
ROWS = 3

to_rows = jax.jit(functools.partial(pack, LAYOUT))
from_rows = jax.jit(functools.partial(unpack, LAYOUT))


def any_bits(dtype: np.dtype, shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    if dtype == np.bool_:
        return arrays.arrays(np.bool_, shape)
    integer = np.dtype(f"uint{8 * dtype.itemsize}")
    return arrays.arrays(integer, shape).map(lambda array: array.view(dtype))


@given(
    st.fixed_dictionaries(
        {name: any_bits(np.dtype(leaf.dtype), (ROWS, *leaf.shape)) for name, leaf in LANE.items()}
    )
)
def test_every_bit_pattern_survives(states):
    back = from_rows(to_rows(states))

    for name, leaf in states.items():
        assert np.asarray(back[name]).tobytes() == leaf.tobytes(), name
        assert back[name].dtype == leaf.dtype


@pytest.mark.parametrize(
    "special",
    [
        np.uint64(0x7FF8_0000_DEAD_BEEF),
        np.uint64(0x7FF0_0000_0000_0001),
        np.uint64(1 << 63),
        np.uint64(1),
        np.uint64(0xFFF0_0000_0000_0000),
    ],
    ids=["NaN with payload", "signalling NaN", "minus zero", "denormal", "minus infinity"],
)
def test_special_reals_keep_their_bits(special):
    states = {name: np.zeros((1, *leaf.shape), leaf.dtype) for name, leaf in LANE.items()}
    states["real"] = np.full((1, 3), special).view(np.float64)

    back = from_rows(to_rows(states))

    assert np.all(np.asarray(back["real"]).view(np.uint64) == special)


def test_extreme_integers_survive():
    states = {name: np.zeros((2, *leaf.shape), leaf.dtype) for name, leaf in LANE.items()}
    states["count"] = np.array([np.iinfo(np.int64).min, np.iinfo(np.int64).max])

    assert np.array_equal(from_rows(to_rows(states))["count"], states["count"])


def test_width_counts_odd_32_bit_leaves_in_full_words():
    # real 3, count 1, narrow ⌈5/2⌉, identity 1, mode 1, flags 4, matrix 4
    assert LAYOUT.width == 3 + 1 + 3 + 1 + 1 + 4 + 4


def test_state_of_a_lane_survives_with_its_identity():
    config = PredictorConfig()
    layout = layout_of(jax.eval_shape(lambda: init_lane(config)))
    states = init_lanes(config, 2, ["a", "b"])

    back = jax.jit(functools.partial(unpack, layout))(
        jax.jit(functools.partial(pack, layout))(states)
    )

    for before, after in zip(jax.tree.leaves(states), jax.tree.leaves(back), strict=True):
        assert np.asarray(before).tobytes() == np.asarray(after).tobytes()
    assert not np.array_equal(back.identity[0], back.identity[1])


def test_state_fits_in_sixty_four_kibibytes():
    layout = layout_of(jax.eval_shape(lambda: init_lane(PredictorConfig())))

    assert 8 * layout.width <= 64 * 1024


def test_fingerprint_follows_the_structure():
    def fingerprint(config: PredictorConfig) -> str:
        return layout_of(jax.eval_shape(lambda: init_lane(config))).fingerprint

    shallow = PredictorConfig(signature=Signature(signature_depth=2))
    assert fingerprint(PredictorConfig()) == fingerprint(PredictorConfig(seed=7))
    assert fingerprint(PredictorConfig()) != fingerprint(shallow)


def test_leaf_of_another_width_is_refused_by_name():
    with pytest.raises(TypeError, match=r"half.*float16"):
        layout_of({"half": jnp.zeros(2, jnp.float16)})
