"""The tree of cells against a plain implementation, and the drifts that it finds."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor import anchors
from predictor.config import WINDOW, PredictorConfig
from predictor.kernels.markov import context_tree
from predictor.kernels.markov.context_tree import (
    CENTRES,
    CONSTANT_PRECISION,
    ERROR_MEMORY,
    FIRST_LEARNED,
    HALF_WIDTH,
    HALF_WIDTHS,
    LAYERS,
    SLOPE_PRECISION,
)
from tests.predictor.streams import asked, autoregression, bistable, kernel_tick, kernel_ticks, told

MEMBER = context_tree.context_tree_member("kramers_moyal")
MEMORY = PredictorConfig().markov.markov_memory


class PlainTree:
    """The same forecasts by dictionaries of cells and a linear solve in each."""

    def __init__(self) -> None:
        self.normal: dict[tuple[int, int], np.ndarray] = {}
        self.right: dict[tuple[int, int], np.ndarray] = {}
        self.advantage: dict[tuple[int, int], float] = {}
        self.error = 1.0
        self.said: tuple[list, list, list] | None = None

    def cells(self, level: float) -> list[tuple[int, int, float, float]]:
        """Layer, place, centre and half width of the cells that hold `level`."""
        found = []
        for layer in range(LAYERS):
            half = HALF_WIDTH / 2**layer
            place = min(max(int((level + HALF_WIDTH) // (2 * half)), 0), 2**layer - 1)
            found.append((layer, place, -HALF_WIDTH + (2 * place + 1) * half, half))
        return found

    def learn(self, target: float) -> None:
        features, lines, mixtures = self.said
        square = (target - mixtures[0]) ** 2
        self.error += ERROR_MEMORY * (square - self.error)
        for layer, (cell, x) in enumerate(features):
            self.normal[cell] = MEMORY * self.normal.get(cell, 0.0) + np.outer(x, x)
            self.right[cell] = MEMORY * self.right.get(cell, 0.0) + target * x
            deeper = mixtures[min(layer + 1, LAYERS - 1)]
            gained = (target - lines[layer]) ** 2 - (target - deeper) ** 2
            self.advantage[cell] = MEMORY * self.advantage.get(cell, 0.0) + gained / self.error

    def forecast(self, level: float) -> float:
        level = min(max(level, -HALF_WIDTH), HALF_WIDTH)
        value, slope, origin = 0.0, 0.0, 0.0
        features, lines = [], []
        for layer, place, centre, half in self.cells(level):
            prior = np.array([value + slope * (centre - origin), slope * half])
            precision = np.diag([CONSTANT_PRECISION, SLOPE_PRECISION])
            x = np.array([1.0, (level - centre) / half])
            normal = self.normal.get((layer, place), np.zeros((2, 2))) + precision
            right = self.right.get((layer, place), np.zeros(2)) + precision @ prior
            value, tilt = np.linalg.solve(normal, right)
            slope, origin = tilt / half, centre
            features.append(((layer, place), x))
            lines.append(value + tilt * x[1])
        mixtures = lines[:]
        for layer in reversed(range(LAYERS - 1)):
            odds = np.exp(0.5 * self.advantage.get(features[layer][0], 0.0))
            finer = odds / (1.0 + odds)
            mixtures[layer] = (1.0 - finer) * lines[layer] + finer * mixtures[layer + 1]
        self.said = (features, lines, mixtures)
        return mixtures[0]


def test_forecasts_are_those_of_a_plain_implementation():
    values = 1.2 * bistable(np.random.default_rng(1), 600, 1)[:, 0]

    _, increments = told(MEMBER, kernel_ticks(values, ratio=2.0))

    tree, expected = PlainTree(), []
    for row, level in enumerate(values):
        if row + 1 > FIRST_LEARNED:
            tree.learn(2.0 * (level - values[row - 1]))
        expected.append(tree.forecast(level))
    # Moments are kept in 32 bits.
    np.testing.assert_allclose(increments, expected, atol=2e-4)
    assert np.max(np.abs(increments)) > 0.3


@given(st.floats(-HALF_WIDTH, HALF_WIDTH))
def test_path_is_the_cells_that_hold_the_level_each_within_the_one_before(level):
    path = np.asarray(context_tree._path(jnp.asarray(level)))

    assert np.all(np.abs(level - CENTRES[path]) <= HALF_WIDTHS * (1.0 + 1e-9))
    np.testing.assert_array_equal(path[:-1], (path[1:] - 1) // 2)
    assert path[0] == 0


def ahead(state, level: float) -> tuple[float, float]:
    """Forecast and variance at a level, from a state that learns no more."""
    after, increment = asked(MEMBER, state, kernel_tick(np.full(WINDOW, level), learn=False))
    return increment, float(MEMBER.variance(after))


def test_line_is_learned_by_the_whole_tree_as_well_as_by_a_regression():
    values = 0.8 * autoregression(np.random.default_rng(2), [0.6], 3000, 1)[:, 0]

    state, _ = told(MEMBER, kernel_ticks(values))

    for level in (-1.5, -0.5, 0.0, 0.5, 1.5):
        assert ahead(state, level)[0] == pytest.approx(-0.4 * level, abs=0.12)


def test_threshold_is_resolved_where_it_lies():
    random = np.random.default_rng(3)
    values = np.zeros(6000)
    for row in range(1, values.size):
        last = values[row - 1]
        values[row] = last + (0.6 if last < 0.3 else -0.9) + 0.5 * random.normal()

    state, _ = told(MEMBER, kernel_ticks(values))

    for level, drift in ((-0.4, 0.6), (0.1, 0.6), (0.5, -0.9), (0.9, -0.9)):
        assert ahead(state, level)[0] == pytest.approx(drift, abs=0.15)


def test_variance_follows_the_noise_from_place_to_place():
    random = np.random.default_rng(4)
    values = np.zeros(6000)
    for row in range(1, values.size):
        last = values[row - 1]
        values[row] = 0.3 * last + (0.4 if last < 0.0 else 1.2) * random.normal()

    state, _ = told(MEMBER, kernel_ticks(values))

    # A cell is shrunk towards its parents, which hold both sides.
    assert ahead(state, -0.6)[1] == pytest.approx(0.16, rel=0.3)
    assert ahead(state, 0.9)[1] == pytest.approx(1.44, rel=0.2)


def test_other_coordinates_begin_with_an_empty_tree():
    values = autoregression(np.random.default_rng(5), [0.5], 300, 1)[:, 0]
    state, _ = told(MEMBER, kernel_ticks(values))
    change = anchors.Change(stretch=1.0, shift=0.0, gain=1.0, early=False, restart=True)

    after, increment = asked(MEMBER, state, kernel_tick(np.full(WINDOW, 1.0), change=change))

    assert increment == 0.0
    assert not np.any(after.moments)
    assert not np.any(after.losses)
