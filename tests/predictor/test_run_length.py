"""The run-length filter against the exact posterior of its model."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from predictor import anchors
from predictor.config import WINDOW
from predictor.kernels.levy import run_length
from predictor.kernels.levy.run_length import HAZARD, HYPOTHESES, LEVEL_VARIANCE
from tests.predictor.streams import (
    KernelTick,
    asked,
    kernel_tick,
    kernel_ticks,
    root_mean_square,
    told,
)

MEMBER = run_length.run_length_member("run_length")


def with_fixed_noise(ticks: KernelTick) -> KernelTick:
    """The noise variance is not learned before a few accepted ticks."""
    return ticks._replace(accepted=np.full_like(ticks.accepted, 2), learn=np.ones_like(ticks.learn))


def log_density(block: np.ndarray, noise: float) -> float:
    """log N(block; 0, noise I + LEVEL_VARIANCE 11ᵀ): one level of unknown height under noise."""
    total = noise + block.size * LEVEL_VARIANCE
    form = (np.sum(block**2) - LEVEL_VARIANCE * np.sum(block) ** 2 / total) / noise
    determinant = (block.size - 1) * np.log(noise) + np.log(total)
    return -0.5 * (block.size * np.log(2.0 * np.pi) + determinant + form)


def test_density_of_a_block_is_that_of_the_joint_normal_law():
    block = np.random.default_rng(8).normal(size=5)
    law = stats.multivariate_normal(np.zeros(5), 0.5 * np.eye(5) + LEVEL_VARIANCE)

    assert log_density(block, 0.5) == pytest.approx(law.logpdf(block))


def exact_level(values: np.ndarray, noise: float) -> float:
    """E[level of the next value], by summing over the time of every jump."""
    rows = values.size
    log_joint = np.full((rows + 1, rows + 1), -np.inf)
    for first in range(rows):
        for last in range(first + 1, rows + 1):
            log_joint[first, last] = log_density(values[first:last], noise)
    # log p(values[:n], a jump right before value n), by the sum over the jump before that one.
    renewed = np.full(rows + 1, -np.inf)
    renewed[0] = 0.0
    for last in range(1, rows + 1):
        steps = np.arange(last)
        stay = (last - 1 - steps) * np.log1p(-HAZARD)
        renewed[last] = np.logaddexp.reduce(renewed[:last] + log_joint[:last, last] + stay)
        renewed[last] += np.log(HAZARD)
    first = np.arange(rows + 1)
    survived = np.where(first < rows, (rows - first) * np.log1p(-HAZARD), 0.0)
    inside = np.where(first < rows, log_joint[:, rows], 0.0)
    log_weights = renewed + inside + survived
    weights = np.exp(log_weights - np.max(log_weights))
    means = [
        values[at:].sum() / noise / (1.0 / LEVEL_VARIANCE + (rows - at) / noise) for at in first
    ]
    return float(np.sum(weights * means) / weights.sum())


@pytest.mark.parametrize("seed", range(3))
def test_forecast_is_the_exact_posterior_mean_while_every_jump_is_a_hypothesis(seed):
    random = np.random.default_rng(seed)
    rows = HYPOTHESES - 1
    values = 0.7 * random.normal(size=rows) + np.repeat([1.5, -2.0], [15, rows - 15])

    _, increments = told(MEMBER, with_fixed_noise(kernel_ticks(values)))

    for row in (0, 1, 14, 15, 16, rows - 1):
        expected = exact_level(values[: row + 1], noise=0.5) - values[row]
        assert increments[row] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_forgotten_hypotheses_leave_the_forecast_close_to_the_exact_one():
    values = 0.7 * np.random.default_rng(4).normal(size=120) + np.repeat([1.5, -2.0, 1.0], 40)

    _, increments = told(MEMBER, with_fixed_noise(kernel_ticks(values)))

    for row in (60, 90, 119):
        assert increments[row] == pytest.approx(
            exact_level(values[: row + 1], noise=0.5) - values[row], abs=1e-3
        )


def test_noise_variance_is_learned_without_what_the_unknown_level_adds():
    random = np.random.default_rng(5)
    values = 0.3 * random.normal(size=4000) + np.repeat(1.5 * random.normal(size=160), 25)

    state, _ = told(MEMBER, kernel_ticks(values))

    # An average over 1/.002 ticks scatters by a twentieth; the means of young levels would add
    # two thirds.
    assert float(state.noise) == pytest.approx(0.09, rel=0.25)


def test_new_level_is_believed_within_three_ticks_of_a_clear_jump():
    values = 0.3 * np.random.default_rng(6).normal(size=400)
    values[300:] += 3.0

    _, increments = told(MEMBER, kernel_ticks(values))

    said = values + increments
    assert abs(said[299]) < 0.2
    assert np.all(np.abs(said[302:] - 3.0) < 0.4)
    assert root_mean_square(said[340:] - 3.0) < 0.1


def test_filter_is_the_same_in_other_coordinates():
    values = 0.5 * np.random.default_rng(7).normal(size=80) + np.repeat([0.0, 2.0], 40)
    state, _ = told(MEMBER, kernel_ticks(values))
    stretch, shift = 0.8, -0.6
    change = anchors.Change(stretch, shift, gain=1.0, early=False, restart=False)
    levels = np.full(WINDOW, values[-1])
    there = kernel_tick(stretch * levels + shift, learn=False, change=change)

    _, plain = asked(MEMBER, state, kernel_tick(levels, learn=False))
    _, moved = asked(MEMBER, state, there)

    # The prior of a level stays about the centre, and weighs a tick in some hundreds.
    assert moved / stretch == pytest.approx(plain, abs=0.02)
