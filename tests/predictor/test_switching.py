"""Two switching regimes: Hamilton's filter by hand, and the processes that it finds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from predictor import anchors
from predictor.config import WINDOW, PredictorConfig
from predictor.kernels.markov import switching
from tests.predictor.streams import asked, kernel_tick, kernel_ticks, told

MEMBER = switching.switching_member("switching")


def two_regimes(seed: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """A calm slow reversion and a wild fast one, each lasting fifty ticks on average."""
    random = np.random.default_rng(seed)
    regime = np.zeros(rows, int)
    values = np.zeros(rows)
    for row in range(1, rows):
        regime[row] = regime[row - 1] ^ (random.random() < 0.02)
        slope, noise = ((0.95, 0.1), (0.1, 1.0))[regime[row]]
        values[row] = slope * values[row - 1] + noise * random.normal()
    return values, regime


def filtered_by_hand(values: np.ndarray, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities `[T, 2]` and forecasts `[T]` by information matrices and normal densities."""
    chance, counted = np.full(2, 0.5), switching.PRIOR_TRANSITIONS.copy()
    information = [np.eye(2), np.eye(2)]
    right = [np.zeros(2), np.zeros(2)]
    variances = np.ones(2)
    probabilities, said = np.tile(chance, (values.size, 1)), np.zeros(values.size)
    for row in range(values.size):
        ticks = row + 1
        x = np.array([1.0, values[row - 1]])
        if ticks == switching.FIRST_LEARNED:
            # The second regime begins as a return to the mean within a tick.
            right[1] = information[1] @ np.array([0.0, -ratio])
        if ticks > switching.FIRST_LEARNED:
            target = ratio * (values[row] - values[row - 1])
            transitions = counted / counted.sum(axis=1, keepdims=True)
            means = np.array([np.linalg.solve(information[k], right[k]) @ x for k in range(2)])
            joint = chance[:, None] * transitions
            joint = joint * stats.norm.pdf(target, means, np.sqrt(variances))[None, :]
            joint = joint / joint.sum()
            chance = joint.sum(axis=0)
            counted = switching.TRANSITION_MEMORY * counted + joint
            counted = counted + (1 - switching.TRANSITION_MEMORY) * switching.PRIOR_TRANSITIONS
            for k in range(2):
                memory = 1.0 - (1.0 - switching.MEMORY) * chance[k]
                information[k] = memory * (information[k] + chance[k] * np.outer(x, x))
                right[k] = memory * (right[k] + chance[k] * target * x)
            rate = 2.0 * chance * max(2.0 * (1.0 - switching.MEMORY), 1.0 / (ticks + 1.0))
            squared = np.minimum((target - means) ** 2, 16.0 * variances)
            rate = np.minimum(rate, switching.LARGEST_RATE)
            variances = variances + rate * (squared - variances)
        probabilities[row] = chance
        if ticks > switching.FIRST_LEARNED + 8:
            ahead = chance @ (counted / counted.sum(axis=1, keepdims=True))
            x = np.array([1.0, values[row]])
            said[row] = sum(
                ahead[k] * np.linalg.solve(information[k], right[k]) @ x for k in (0, 1)
            )
    return probabilities, said


def test_filter_is_hamiltons_with_weighted_regressions():
    values, _ = two_regimes(1, 400)

    state, increments = told(MEMBER, kernel_ticks(values, ratio=1.5))

    probabilities, expected = filtered_by_hand(values, ratio=1.5)
    np.testing.assert_allclose(increments, expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(state.probabilities, probabilities[-1], rtol=1e-6, atol=1e-9)


def test_regimes_their_noise_and_their_persistence_are_found():
    values, _ = two_regimes(2, 8000)

    state, _ = told(MEMBER, kernel_ticks(values))

    calm, wild = np.argsort(state.variances)
    slopes = np.asarray(state.coefficients)[:, 1]
    assert slopes[calm] == pytest.approx(-0.05, abs=0.05)
    assert slopes[wild] == pytest.approx(-0.9, abs=0.1)
    assert float(state.variances[calm]) == pytest.approx(0.01, rel=0.5)
    assert float(state.variances[wild]) == pytest.approx(1.0, rel=0.25)
    stay = np.diag(np.asarray(switching._transition_probabilities(state)))
    np.testing.assert_allclose(stay, 0.98, atol=0.02)


def test_present_regime_is_recognised():
    values, regime = two_regimes(3, 4000)

    def step(state, tick):
        after, _ = MEMBER.step(PredictorConfig(), state, tick)
        return after, (after.probabilities, after.variances)

    ticks = kernel_ticks(values)
    _, (probabilities, variances) = jax.jit(lambda start: jax.lax.scan(step, start, ticks))(
        MEMBER.init(PredictorConfig())
    )

    wild = np.argmax(np.asarray(variances)[-1])
    believed = np.asarray(probabilities)[1000:, wild] > 0.5
    assert np.mean(believed == (regime[1000:] == 1)) > 0.9


def test_variance_is_that_of_the_mixture_of_both_regimes():
    values, _ = two_regimes(4, 500)
    state, increments = told(MEMBER, kernel_ticks(values))

    chances = np.asarray(switching._predicted(state))
    means = np.asarray(switching._means(state, state.level))
    second_moment = np.sum(chances * (np.asarray(state.variances) + means**2))

    assert float(chances.sum()) == pytest.approx(1.0)
    assert float(MEMBER.variance(state)) == pytest.approx(second_moment - increments[-1] ** 2)


def test_regressions_are_carried_exactly_into_other_coordinates():
    values, _ = two_regimes(5, 500)
    state, _ = told(MEMBER, kernel_ticks(values))
    stretch, shift, gain = 0.5, 1.5, 4.0
    change = anchors.Change(stretch, shift, gain, early=False, restart=False)
    levels = np.full(WINDOW, 0.8)
    moved_levels = stretch * levels + shift

    after, plain = asked(MEMBER, state, kernel_tick(levels, learn=False))
    moved, other = asked(MEMBER, state, kernel_tick(moved_levels, learn=False, change=change))

    assert other == pytest.approx(gain * plain)
    # What is learned next is the same too, so the information was carried along.
    after, plain = asked(MEMBER, after, kernel_tick(levels, target=0.7))
    moved, other = asked(MEMBER, moved, kernel_tick(moved_levels, target=gain * 0.7))
    assert other == pytest.approx(gain * plain, rel=1e-6)
    np.testing.assert_allclose(moved.variances, gain**2 * np.asarray(after.variances), rtol=1e-6)


def test_no_regime_is_believed_for_good():
    state = MEMBER.init(PredictorConfig())
    state = state._replace(
        probabilities=jnp.asarray([1.0 - 1e-12, 1e-12]), variances=jnp.asarray([1e-4, 1.0])
    )

    after, _ = asked(MEMBER, state, kernel_tick(np.full(WINDOW, 0.1), target=2.0))

    assert float(after.probabilities[1]) > 0.5
