"""The training: its guard against wild gradients, that it learns, and what it writes."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from predictor.kernels.markov import train, weights
from predictor.kernels.markov.coefficients import DOMAIN, normalise
from predictor.kernels.markov.train import Plan, clip_and_halve

sample = jax.jit(train.sample, static_argnums=(1, 2))

LIMIT, PATIENCE = train.GRADIENT_LIMIT, train.PATIENCE


def updates_of(norms):
    """Updates of plain descent at rate 1 for gradients of these norms, and the last state."""
    guard = clip_and_halve(optax.sgd(1.0), LIMIT, PATIENCE)
    state = guard.init({"w": jnp.zeros(2)})
    sizes = []
    for norm in norms:
        gradient = {"w": norm * jnp.array([0.6, 0.8])}
        update, state = guard.update(gradient, state)
        sizes.append(float(jnp.linalg.norm(update["w"])))
    return np.array(sizes), state


def test_gradient_is_clipped_at_its_global_norm_and_smaller_ones_pass():
    sizes, state = updates_of([3.0, LIMIT, 4.0 * LIMIT, 1e6])

    np.testing.assert_allclose(sizes, [3.0, LIMIT, LIMIT, LIMIT])
    assert int(state.consecutive) == 2
    assert float(state.rate) == 1.0


def test_more_than_five_clips_in_a_row_halve_the_rate_and_start_the_count_anew():
    sizes, state = updates_of([100.0] * 13 + [1.0])

    np.testing.assert_allclose(sizes[:5], LIMIT)
    np.testing.assert_allclose(sizes[5:11], LIMIT / 2.0)
    np.testing.assert_allclose(sizes[11:13], LIMIT / 4.0)
    assert sizes[13] == 0.25
    assert int(state.consecutive) == 0


def test_one_gradient_within_the_limit_interrupts_the_row():
    _, state = updates_of(([100.0] * PATIENCE + [1.0]) * 4)

    assert float(state.rate) == 1.0


def test_clipping_keeps_the_direction():
    guard = clip_and_halve(optax.sgd(1.0), LIMIT, PATIENCE)
    gradient = {"w": jnp.array([30.0, -40.0]), "b": jnp.array([120.0])}

    update, _ = guard.update(gradient, guard.init(gradient))

    for name, leaf in gradient.items():
        np.testing.assert_allclose(update[name], -leaf * LIMIT / 130.0)


def test_points_fill_the_training_range():
    points = sample(jax.random.key(1), 4000, train.FAST_EMPHASIS)
    coordinates = np.asarray(jax.jit(jax.vmap(normalise))(points.coefficients))

    assert np.all(np.abs(coordinates) <= 1.0 + 1e-6)
    assert np.all(np.abs(points.position) <= DOMAIN)
    np.testing.assert_allclose(np.mean(coordinates[:, 1:], axis=0), 0.0, atol=0.05)
    # Density rising linearly from the slow end: mean at two thirds of the way.
    assert np.mean(coordinates[:, 0]) == pytest.approx(1.0 / 3.0, abs=0.05)
    assert np.mean(points.time) == pytest.approx(0.5, abs=0.02)


def residual_of(plan: Plan, parameters) -> float:
    points = sample(jax.random.key(77), 2000)
    of_value, _ = jax.jit(lambda tree: train.residuals(plan.network, tree, points))(parameters)
    return float(jnp.mean(jnp.square(of_value)))


def test_a_short_training_lowers_the_residual_below_a_quarter(monkeypatch):
    monkeypatch.setattr(train, "BATCH", 256)
    plan = Plan(16, 2, 500)
    losses: list[float] = []
    start = jax.tree.map(lambda leaf: leaf[0], sample(jax.random.key(0), 1))
    untrained = plan.network.init(jax.random.key(0), *start)

    trained = train.train(plan, lambda steps, loss: losses.append(loss))

    assert residual_of(plan, trained) < 0.25 * residual_of(plan, untrained)
    assert len(losses) == 1
    assert np.isfinite(losses[0])


def test_command_trains_the_named_members_keeps_the_others_and_repeats_to_the_last_bit(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(train, "LADDER", (Plan(4, 1, 20), Plan(8, 1, 20)))
    monkeypatch.setattr(train, "HELD_OUT_POINTS", 1000)

    monkeypatch.setattr(sys, "argv", ["train", "--output", str(tmp_path), "8x1"])
    train.main()
    alone = weights.read(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", "--output", str(tmp_path), "4x1"])
    train.main()
    both = weights.read(tmp_path)
    before = (tmp_path / weights.ARRAYS).read_bytes()
    monkeypatch.setattr(sys, "argv", ["train", "--output", str(tmp_path), "8x1"])
    train.main()

    assert [member.training.width for member in alone] == [8]
    assert [member.training.width for member in both] == [4, 8]
    assert both[0].training.steps == 20
    assert (tmp_path / weights.ARRAYS).read_bytes() == before
    assert "4x1 after 20 steps" in capsys.readouterr().out


def test_command_refuses_a_member_that_is_not_planned(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", "31x2"])

    with pytest.raises(SystemExit):
        train.main()

    assert "31x2" in capsys.readouterr().err
