"""Choosing between trees: what is rarely needed costs nothing while no lane needs it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from predictor.selection import choose, only_where

TREE = (jnp.arange(4.0), jnp.arange(12).reshape(4, 3))


def changed(tree):
    return jax.tree.map(lambda leaf: 2 * leaf + 1, tree)


def test_only_the_lanes_that_need_it_are_changed():
    needed = jnp.array([True, False, False, True])

    chosen = jax.vmap(lambda n, tree: choose(n, changed(tree), tree))(needed, TREE)
    looped = jax.jit(jax.vmap(lambda n, tree: only_where(n, changed, tree)))(needed, TREE)

    for expected, got in zip(chosen, looped, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_nothing_is_computed_while_no_lane_needs_it():
    computed = []

    def noted(tree):
        jax.debug.callback(lambda: computed.append(1))
        return changed(tree)

    run = jax.jit(jax.vmap(lambda n, tree: only_where(n, noted, tree)))
    jax.block_until_ready(run(jnp.zeros(4, bool), TREE))
    jax.effects_barrier()
    nobody = len(computed)
    jax.block_until_ready(run(jnp.array([False, True, False, False]), TREE))
    jax.effects_barrier()

    assert nobody == 0
    assert len(computed) > 0


def test_what_is_given_is_worked_on_inside_the_loop():
    # The compiler moves what does not change in a loop out of it, to be computed in any case.
    def ranked(tree, values):
        return jax.tree.map(lambda leaf: leaf + jnp.sort(values)[0].astype(leaf.dtype), tree)

    values = jnp.arange(12.0).reshape(4, 3)
    run = jax.jit(jax.vmap(lambda n, tree, given: only_where(n, ranked, tree, given)))
    program = run.lower(jnp.zeros(4, bool), TREE, values).compile().as_text()

    before_and_after_the_loop = program[program.index("\nENTRY") :]
    assert " sort(" in program
    assert " sort(" not in before_and_after_the_loop
