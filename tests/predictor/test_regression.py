"""Members that are one regression, against the ridge regression on the same ticks at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from predictor import anchors
from predictor.kernels.base import KernelTick
from predictor.kernels.regression import LAST_EARLY, linear_member, nonlinear_member
from tests.predictor.streams import autoregression, fold, kernel_ticks, rows_where, told

MEMORY = 0.99
INCREMENTS = 4


def linear(tick: KernelTick):
    return jnp.concatenate([jnp.ones(1), tick.levels[:1], tick.increments[:INCREMENTS]])


def curved(tick: KernelTick):
    return jnp.stack([jnp.ones(()), tick.levels[0], jnp.square(tick.levels[0])])


FEATURES = {"linear": (linear, 2 + INCREMENTS), "curved": (curved, 3)}
MEMBERS = {
    "linear": linear_member("linear", linear, np.ones(2 + INCREMENTS), lambda config: MEMORY),
    "curved": nonlinear_member("curved", curved, np.ones(3), lambda config: MEMORY),
}


def follow(anchor, tick):
    after, change = anchors.follow(anchor, *tick)
    return after, (after, change)


def anchored(values: np.ndarray) -> tuple[KernelTick, anchors.Anchor]:
    """What a kernel is told of a series `[T]` in the coordinates that it is given, and these."""
    plain = kernel_ticks(values)
    _, (anchor, change) = fold(follow, anchors.init(), (plain.levels, plain.accepted))
    known = anchor.unit > 0.0
    unit = np.where(known, anchor.unit, 1.0)[:, None]
    spread = np.where(known, anchor.spread, 1.0)[:, None]
    levels = np.where(known[:, None], (plain.levels - anchor.centre[:, None]) / spread, 0.0)
    increments = np.where(known[:, None], plain.increments / unit, 0.0)
    before = np.concatenate([[0.0], anchor.unit[:-1]])
    measured = before > 0.0
    ticks = plain._replace(
        levels=levels,
        increments=increments,
        target=np.where(measured, plain.target / np.where(measured, before, 1.0), 0.0),
        change=change,
        lowest=plain.lowest / unit[:, 0],
        highest=plain.highest / unit[:, 0],
        ratio=(spread / unit)[:, 0],
        learn=measured,
    )
    return ticks, anchor


def ridge(name: str, values: np.ndarray, anchor: anchors.Anchor, row: int) -> float:
    """Forecast of the increment at `row`, in coordinates of then, by least squares under a prior
    of one tick for each coefficient, on all increments before it."""
    features, size = FEATURES[name]
    unit, centre, spread = (
        float(leaf[row]) for leaf in (anchor.unit, anchor.centre, anchor.spread)
    )
    plain = kernel_ticks(values[: row + 1])
    scaled = plain._replace(
        levels=(plain.levels - centre) / spread, increments=plain.increments / unit
    )
    rows = np.asarray(jax.vmap(features)(scaled))
    targets = np.diff(values[: row + 1]) / unit
    discounts = MEMORY ** np.arange(row - 1, -1, -1.0)
    weighed = rows[:row].T * discounts
    prior = MEMORY**row * np.eye(size)
    coefficients = np.linalg.solve(weighed @ rows[:row] + prior, weighed @ targets)
    return float(rows[row] @ coefficients)


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("first", [1e-4, 1e-2, 1.0])
def test_the_size_of_the_first_increments_leaves_no_trace_in_what_is_learned(name, first):
    values = autoregression(np.random.default_rng(3), [0.9, -0.5], LAST_EARLY + 1, 1)[:, 0]
    values[:3] = values[3] + first * (values[:3] - values[3])
    ticks, anchor = anchored(values)

    _, increments = told(MEMBERS[name], ticks)

    assert rows_where(ticks.change.early) == [row - 1 for row in anchors.EARLY_TICKS]
    for row in (9, 19, LAST_EARLY - 1, LAST_EARLY):
        expected = ridge(name, values, anchor, row)
        if name == "curved":
            expected = np.clip(expected, ticks.lowest[row] - 1.0, ticks.highest[row] + 1.0)
        assert increments[row] == pytest.approx(expected, abs=1e-4)


def test_later_changes_carry_a_linear_regression_over_and_begin_a_curved_one_again():
    random = np.random.default_rng(4)
    values = autoregression(random, [0.5], 200, 1)[:, 0]
    values[150:] += 40.0
    ticks, _ = anchored(values)
    late = [row for row in rows_where(ticks.change.restart) if row >= LAST_EARLY]

    linear_state, _ = told(MEMBERS["linear"], ticks)
    curved_state, _ = told(MEMBERS["curved"], ticks)

    assert late
    assert not any(row in rows_where(ticks.change.early) for row in late)
    assert float(linear_state.regression.learned) == values.size - 1
    assert float(curved_state.regression.learned) == values.size - 1 - late[-1]
