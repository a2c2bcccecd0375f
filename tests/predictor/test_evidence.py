"""Tracking the best expert: its recursion, its bound on the regret, and its units."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from predictor import evidence
from tests.predictor.streams import fold

RATE = 0.2


def learn_step(state, errors):
    after = evidence.learn(state, errors, RATE)
    return after, after


def learned(errors: np.ndarray) -> evidence.Evidence:
    """States `[T, ...]` after each tick of errors `[T, k]`."""
    return fold(learn_step, evidence.init(errors.shape[1]), errors)[1]


def errors_of_experts(seed: int, rows: int, spread: list[float]) -> np.ndarray:
    random = np.random.default_rng(seed)
    own = random.normal(size=(rows, len(spread))) * np.array(spread)
    return random.normal(size=(rows, 1)) + own


def losses_of(errors: np.ndarray, states: evidence.Evidence) -> np.ndarray:
    """Losses `[T, k]`: squared errors in units of the best expert's mean square until then."""
    variances = np.asarray(states.variances)
    unit = np.sqrt(variances[:-1].min(axis=1, keepdims=True))
    limit = evidence.ERROR_LIMIT
    rates = np.asarray(evidence.rate_at(RATE, np.arange(1.0, errors.shape[0])))
    losses = rates[:, None] * np.square(np.clip(errors[1:] / unit, -limit, limit))
    return np.concatenate([np.zeros((1, errors.shape[1])), losses])


def test_weights_equal_the_fixed_share_of_herbster_and_warmuth():
    errors = errors_of_experts(1, 300, [0.1, 1.0, 2.0])

    states = learned(errors)

    weights = np.full(3, 1.0 / 3.0)
    for row, loss in enumerate(losses_of(errors, states)):
        posterior = weights * np.exp(-loss)
        posterior /= posterior.sum()
        pool = float(evidence.share_at(row)) * posterior
        # Each expert gives its share away, and all of it is spread evenly.
        weights = posterior - pool + pool.sum() / 3.0
        np.testing.assert_allclose(states.weights[row], weights, rtol=1e-9)


def test_weights_under_constant_errors_rest_at_the_fixed_point_of_loss_and_share():
    states = learned(np.tile([1.0, 2.0], (1000, 1)))

    # Odds of the worse expert fall by exp(−rate · 3) a tick, until the share gives as much back.
    worse, factor = 0.5, np.exp(-3.0 * RATE)
    for _ in range(400):
        worse = worse * factor / (worse * factor + 1.0 - worse)
        worse = (1.0 - evidence.SHARE) * worse + 0.5 * evidence.SHARE

    assert float(states.weights[-1, 1]) == pytest.approx(worse, rel=1e-9)
    assert worse > 0.5 * evidence.SHARE


@pytest.mark.parametrize("seed", range(5))
def test_regret_to_experts_that_take_turns_keeps_the_bound_of_the_theorem(seed):
    first = errors_of_experts(seed, 400, [0.1, 2.0, 2.0])
    second = errors_of_experts(seed + 50, 400, [2.0, 2.0, 0.1])
    errors = np.concatenate([first, second])

    states = learned(errors)

    losses = losses_of(errors, states)
    before = np.concatenate([np.full((1, 3), 1.0 / 3.0), np.asarray(states.weights)[:-1]])
    mixed = -np.log(np.sum(before * np.exp(-losses), axis=1)).sum()
    comparator = losses[:400, 0].sum() + losses[400:, 2].sum()
    shares = np.asarray(evidence.share_at(np.arange(800.0)))
    # The theorem counts one share; here each tick's own, and that of the tick of the change.
    bound = np.log(3.0) + np.log(3.0 / shares[399]) - np.sum(np.log(1.0 - shares))
    assert mixed - comparator <= bound


def test_rate_and_share_fall_with_the_age_of_the_record_to_those_of_a_long_one():
    ages = np.arange(1000.0)

    rates, shares = (np.asarray(f) for f in (evidence.rate_at(RATE, ages), evidence.share_at(ages)))

    assert np.all(np.diff(rates) <= 0.0)
    assert np.all(np.diff(shares) <= 0.0)
    assert (rates[0], rates[-1]) == (evidence.BELIEVED, RATE)
    assert (shares[0], shares[-1]) == (pytest.approx(0.03), evidence.SHARE)
    assert float(evidence.rate_at(0.8, 0.0)) == 0.8


def test_variances_are_moving_averages_that_start_as_means():
    errors = errors_of_experts(3, 120, [0.5, 0.2])

    states = learned(errors)

    early = round(1.0 / evidence.VARIANCE_MEMORY)
    np.testing.assert_allclose(
        states.variances[early - 1], np.mean(np.square(errors[:early]), axis=0), rtol=1e-9
    )
    expected = np.asarray(states.variances[early - 1])
    for row in range(early, 120):
        expected = expected + evidence.VARIANCE_MEMORY * (errors[row] ** 2 - expected)
    np.testing.assert_allclose(states.variances[-1], expected, rtol=1e-9)


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_weights_do_not_depend_on_the_unit_nor_on_the_tick_at_which_it_changes(unit):
    errors = errors_of_experts(4, 200, [0.1, 0.6])

    plain = learned(errors)
    half, _ = fold(learn_step, evidence.init(2), errors[:100])
    carried, _ = fold(learn_step, evidence.rescaled(half, jnp.asarray(unit)), unit * errors[100:])

    np.testing.assert_allclose(learned(unit * errors).weights, plain.weights, rtol=1e-9)
    np.testing.assert_allclose(carried.weights, plain.weights[-1], rtol=1e-9)


def test_one_error_moves_the_odds_by_no_more_than_the_limit_allows():
    states = learned(errors_of_experts(5, 250, [0.1, 0.1]))
    state = evidence.Evidence(*(leaf[-1] for leaf in states))

    after = evidence.learn(state, jnp.asarray([0.0, 1e9]), RATE)

    odds = np.log(float(state.weights[0] / state.weights[1]))
    moved = np.log(float(after.weights[0] / after.weights[1])) - odds
    assert 0.0 < moved <= RATE * evidence.ERROR_LIMIT**2
    limit = evidence.ERROR_LIMIT**2 * evidence.VARIANCE_MEMORY + 1.0
    assert float(after.variances[1]) <= limit * float(state.variances[1])


def test_softening_gives_every_expert_its_part_of_the_share():
    state = evidence.init(4)._replace(weights=jnp.asarray([1.0, 0.0, 0.0, 0.0]))

    np.testing.assert_allclose(evidence.softened(state, 0.2).weights, [0.85, 0.05, 0.05, 0.05])


@given(arrays.arrays(np.float64, (40, 3), elements=st.floats(-1e150, 1e150)))
def test_weights_are_on_the_simplex_and_none_is_lost_whatever_the_errors(errors):
    weights = np.asarray(learned(errors).weights)

    np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-10)
    assert np.all(weights >= evidence.SHARE / 3.0 - 1e-15)
