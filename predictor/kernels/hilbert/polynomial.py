"""Polynomials of the delay embedding.

The inhomogeneous polynomial kernel k(u, v) = (1 + ⟨u, v⟩)^p has a finite feature map, the
monomials up to degree p, so kernel ridge regression in its reproducing-kernel Hilbert space
is exact recursive least squares on them, in constant time per tick.

The delay vector is whitened first, with the covariance of the window at the tick on which the
coordinates were set: neighbouring values of a smooth series are nearly the same, and products
of nearly equal numbers are nearly dependent features.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import combinations_with_replacement
from math import factorial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from predictor import recursive_least_squares as rls
from predictor.config import WINDOW, PredictorConfig
from predictor.kernels.bank import Member
from predictor.kernels.base import KernelTick, where_it_has_been
from predictor.kernels.regression import LAST_EARLY, learned_again
from predictor.selection import choose, only_where
from predictor.types import Array

INPUT_LIMIT = 12.0
"""Whitened coordinates beyond this enter products as this much."""

SMALLEST_VARIANCE = 1e-6
"""Ridge on the covariance of the delay vector, in squared spreads."""


class PolynomialState(NamedTuple):
    """`centre` `[k]` and `whitening` `[k, k]`, lower triangular, of the delay vector; the
    regression with the features behind its last forecast."""

    centre: Array
    whitening: Array
    regression: rls.Regression
    features: Array


def whitening_of(vectors: Array, inside: Array) -> tuple[Array, Array]:
    """Mean `[k]` and inverse Cholesky factor `[k, k]` of the rows `vectors` `[n, k]` that are
    `inside` `[n]`: unrolled, for a handful of columns."""
    size = vectors.shape[1]
    count = jnp.maximum(jnp.sum(inside), 1.0)
    centre = jnp.sum(jnp.where(inside[:, None], vectors, 0.0), axis=0) / count
    deviations = jnp.where(inside[:, None], vectors - centre, 0.0)
    covariance = jnp.sum(deviations[:, :, None] * deviations[:, None, :], axis=0) / count
    factor = [[jnp.zeros(())] * size for _ in range(size)]
    inverse = [[jnp.zeros(())] * size for _ in range(size)]
    for i in range(size):
        for j in range(i + 1):
            rest = covariance[i, j] - sum(
                (factor[i][m] * factor[j][m] for m in range(j)), start=jnp.zeros(())
            )
            if i == j:
                factor[i][i] = jnp.sqrt(jnp.maximum(rest, 0.0) + SMALLEST_VARIANCE)
            else:
                factor[i][j] = rest / factor[j][j]
        inverse[i][i] = 1.0 / factor[i][i]
        for j in range(i):
            total = sum((factor[i][m] * inverse[m][j] for m in range(j, i)), start=jnp.zeros(()))
            inverse[i][j] = -total / factor[i][i]
    return centre, jnp.stack([jnp.stack(row) for row in inverse])


def _gaussian_size(indices: tuple[int, ...]) -> float:
    """Root mean square of a monomial of independent standard normal coordinates."""
    powers = [indices.count(index) for index in set(indices)]
    moments = [factorial(2 * p) / (2**p * factorial(p)) for p in powers]
    return float(np.sqrt(np.prod(moments)))


def polynomial_member(name: str, delays: Sequence[int], degree: int, precision: float) -> Member:
    """All monomials up to `degree` of the whitened levels at `delays`."""
    variables = len(delays)
    products = [
        indices
        for order in range(2, degree + 1)
        for indices in combinations_with_replacement(range(variables), order)
    ]
    precisions = np.full(1 + variables + len(products), precision)
    vectors = np.arange(WINDOW - max(delays))[:, None] + np.array(delays)[None, :]

    def init(config: PredictorConfig) -> PolynomialState:
        del config
        nothing = jnp.zeros(precisions.size)
        return PolynomialState(
            jnp.zeros(variables), jnp.eye(variables), rls.init(precisions), nothing
        )

    def features(state: PolynomialState, tick: KernelTick) -> Array:
        levels = tick.levels[np.array(delays)] - state.centre
        coordinates = jnp.sum(state.whitening * levels[None, :], axis=1)
        bounded = jnp.clip(coordinates, -INPUT_LIMIT, INPUT_LIMIT)
        powers: dict[tuple[int, ...], Array] = {(i,): bounded[i] for i in range(variables)}
        for indices in products:
            powers[indices] = powers[indices[:-1]] * bounded[indices[-1]]
        curved = [powers[indices] / _gaussian_size(indices) for indices in products]
        return jnp.concatenate([jnp.ones(1), coordinates, jnp.stack(curved)])

    def step(
        config: PredictorConfig, state: PolynomialState, tick: KernelTick
    ) -> tuple[PolynomialState, Array]:
        learned = rls.learn(
            state.regression,
            state.features,
            tick.target,
            config.hilbert.hilbert_memory,
            precisions,
        )
        regression = choose(tick.learn, learned, state.regression)
        state = state._replace(regression=regression)

        def anew(known: PolynomialState, levels: Array, accepted: Array) -> PolynomialState:
            inside = np.max(vectors, axis=1) < accepted
            centre, whitening = whitening_of(levels[vectors], inside)
            return PolynomialState(centre, whitening, rls.init(precisions), known.features)

        state = only_where(tick.change.restart, anew, state, tick.levels, tick.accepted)
        # Fewer ticks than coefficients fit anything, and tell of nothing to come.
        if precisions.size <= LAST_EARLY:
            regression = learned_again(
                state.regression,
                functools.partial(features, state),
                precisions,
                config.hilbert.hilbert_memory,
                tick,
            )
            state = state._replace(regression=regression)
        now = features(state, tick)
        increment = rls.predict(state.regression, now)
        return state._replace(features=now), where_it_has_been(tick, increment)

    return Member(name, init, step)
