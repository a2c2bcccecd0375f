"""Coordinates of the kernels: when they are set, to what, and how they are carried over."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor import anchors
from predictor.config import WINDOW
from tests.predictor.streams import fold

follow = jax.jit(anchors.follow)


def windows_of(values: np.ndarray) -> np.ndarray:
    """Windows `[T, WINDOW]`, newest first, padded with the first value."""
    rows = np.arange(values.size)
    return values[np.maximum(rows[:, None] - np.arange(WINDOW)[None, :], 0)]


def follow_step(anchor, tick):
    window, ticks = tick
    after, change = anchors.follow(anchor, window, ticks)
    return after, (after, change)


def followed(values) -> tuple[anchors.Anchor, anchors.Change]:
    """Coordinates and changes `[T]` along a series."""
    values = np.asarray(values, np.float64)
    ticks = (windows_of(values), np.arange(1, values.size + 1))
    return jax.tree.map(np.asarray, fold(follow_step, anchors.init(), ticks)[1])


def noise(rows: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=rows)


def rows_of_changes(anchor: anchors.Anchor) -> list[int]:
    """Counts of ticks at which coordinates were set."""
    centres = np.concatenate([[0.0], anchor.centre])
    return (np.flatnonzero(np.diff(centres)) + 1).tolist()


def test_coordinates_of_a_series_that_stays_are_set_at_the_early_ticks_alone():
    anchor, change = followed(5.0 + noise(600))

    assert rows_of_changes(anchor) == list(anchors.EARLY_TICKS)
    assert np.flatnonzero(change.restart).tolist() == [anchors.EARLY_TICKS[-1] - 1]


def test_coordinates_are_mean_deviation_and_typical_increment_of_the_past():
    values = np.cumsum(noise(40)) - 7.0

    anchor, _ = followed(values)

    for ticks in anchors.EARLY_TICKS:
        past = values[:ticks]
        unit = np.sqrt(np.mean(np.square(np.diff(past))))
        assert anchor.centre[ticks - 1] == pytest.approx(past.mean())
        assert anchor.unit[ticks - 1] == pytest.approx(unit)
        assert anchor.spread[ticks - 1] == pytest.approx(max(past.std(), 0.5 * unit))


def test_change_carries_levels_and_increments_from_the_old_coordinates_to_the_new():
    values = np.cumsum(noise(400, 2))

    anchor, change = followed(values)

    moved = [row - 1 for row in rows_of_changes(anchor)[1:]]
    assert len(moved) >= len(anchors.EARLY_TICKS)
    for row in moved:
        old, new = (anchors.Anchor(*(leaf[at] for leaf in anchor)) for at in (row - 1, row))
        level = (values - old.centre) / old.spread
        expected = (values - new.centre) / new.spread
        np.testing.assert_allclose(
            change.stretch[row] * level + change.shift[row], expected, rtol=1e-9, atol=1e-9
        )
        assert change.gain[row] / old.unit == pytest.approx(1.0 / new.unit)


def test_first_setting_and_ticks_without_one_change_nothing_that_was_said_before():
    anchor, change = followed(np.cumsum(noise(300, 3)))
    first, *moved = (row - 1 for row in rows_of_changes(anchor))
    still = np.setdiff1d(np.arange(300), moved)

    assert first in still
    for leaf, expected in zip(change[:3], (1.0, 0.0, 1.0), strict=True):
        assert np.all(leaf[still] == expected)


def test_constant_series_has_no_coordinates_until_it_moves():
    anchor, change = followed(np.concatenate([np.full(60, 3.0), 3.0 + noise(20)]))

    assert np.all(anchor.unit[:60] == 0.0)
    assert np.all(anchor.unit[60:] > 0.0)
    # There were no coordinates to come from.
    assert (change.stretch[60], change.shift[60], change.gain[60]) == (1.0, 0.0, 1.0)


SETTLED = anchors.Anchor(centre=2.0, spread=0.5, unit=0.4)


@pytest.mark.parametrize(
    ("level", "scale", "due"),
    [
        (2.0, 1.0, False),
        (2.0 + 0.5 * 2.8, 1.0, False),
        (2.0 + 0.5 * 3.2, 1.0, True),
        (2.0 - 0.5 * 3.2, 1.0, True),
        (2.0, 2.8, False),
        (2.0, 3.2, True),
        (2.0, 1.0 / 7.8, False),
        (2.0, 1.0 / 8.2, True),
    ],
)
def test_coordinates_are_left_when_the_level_or_the_spread_has_left_them(level, scale, due):
    wave = np.tile([1.0, -1.0], WINDOW // 2)

    anchor, change = follow(SETTLED, jnp.asarray(level + 0.5 * scale * wave), jnp.asarray(500))

    expected = (level, 0.5 * scale) if due else (2.0, 0.5)
    assert (float(anchor.centre), float(anchor.spread)) == pytest.approx(expected)
    assert bool(change.restart) is due


def test_coordinates_outlast_a_long_freeze():
    values = 5.0 + noise(600)
    values[200:400] = values[200]

    anchor, change = followed(values)

    assert rows_of_changes(anchor) == list(anchors.EARLY_TICKS)
    assert np.flatnonzero(change.restart).tolist() == [anchors.EARLY_TICKS[-1] - 1]


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.integers(0, 100))
def test_coordinates_follow_an_affine_change_of_the_unit(offset, unit, seed):
    values = np.cumsum(noise(80, seed))

    plain, change = followed(values)
    moved, same = followed(offset + unit * values)

    set_already = plain.unit > 0.0
    centre = offset + unit * plain.centre[set_already]
    np.testing.assert_allclose(
        moved.centre[set_already], centre, rtol=1e-9, atol=1e-9 * (unit + abs(offset))
    )
    np.testing.assert_allclose(moved.spread, unit * plain.spread, rtol=1e-6)
    np.testing.assert_allclose(moved.unit, unit * plain.unit, rtol=1e-6)
    np.testing.assert_allclose(same.stretch, change.stretch, rtol=1e-6)
    np.testing.assert_allclose(same.gain, change.gain, rtol=1e-6)


def test_a_large_level_costs_no_digit_of_the_spread():
    # Multiples of 1/256 are exact beside 2⁴⁰, and so are their differences.
    values = np.round(256.0 * noise(40, 5)) / 256.0

    plain, _ = followed(values)
    lifted, _ = followed(2.0**40 + values)

    assert np.array_equal(plain.spread, lifted.spread)
    assert np.array_equal(plain.unit, lifted.unit)
