r"""Ensembles of paths of an Itô–Lévy equation, on demand and never in the step.

$$ dX = b(X)\, dt + e^{g(X)/2}\, dW + dJ + dL $$

with a cubic drift b, a quadratic log-variance g, compound Poisson jumps J with Gaussian sizes
(Merton) and α-stable motion L, integrated by diffrax. Samples serve the distribution and the
tests; a forecast is a mean and is computed as one (`schemes.propagate_mean`).

**Source:** Merton (1976), *Option pricing when underlying stock returns are discontinuous*,
Journal of Financial Economics 3, 125; Platen and Bruti-Liberati (2010), *Numerical Solution of
Stochastic Differential Equations with Jumps in Finance*, chapter 6.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp

from predictor.kernels.levy.schemes import cubic
from predictor.kernels.levy.solver import DriftImplicit
from predictor.kernels.levy.stable import stable_increments
from predictor.types import Array, Scalar

MOST_JUMPS = 16
"""Jumps of one path within the horizon; at intensity 1 a 17th has a probability of 1e-15."""

LARGEST_LOG_VARIANCE = 20.0


class ItoLevyModel(NamedTuple):
    """Coefficients per tick, all may be traced.

    `drift` `[4]` and `log_variance` `[3]`, constant first; jumps of intensity `jump_rate` and
    sizes N(`jump_mean`, `jump_scale`²); stable motion of `stable_scale` per tick with index
    `stable_alpha` and skewness `stable_beta`. Zero intensity or scale switches a part off.
    """

    drift: Array
    log_variance: Array
    jump_rate: Scalar = 0.0
    jump_mean: Scalar = 0.0
    jump_scale: Scalar = 0.0
    stable_scale: Scalar = 0.0
    stable_alpha: Scalar = 1.8
    stable_beta: Scalar = 0.0


class JumpPath(diffrax.AbstractPath):
    """A path over [0, 1] that moves by `sizes` `[k]` at `times` `[k]`, right-continuous."""

    times: Array
    sizes: Array
    # diffrax declares these abstract fields in a way that type checkers read as class variables.
    t0: float = 0.0  # type: ignore[misc]
    t1: float = 1.0  # type: ignore[misc]

    def evaluate(self, t0: Any, t1: Any = None, left: bool = True) -> Array:
        """The value at `t0`, or the increment over (t0, t1]."""
        del left
        begin, end = (self.t0, t0) if t1 is None else (t0, t1)
        return jnp.sum(jnp.where((self.times > begin) & (self.times <= end), self.sizes, 0.0))


def rollout_key(seed: int, identity: tuple[int, int], sequence: Scalar) -> Array:
    """The key of one asset at one tick: replaying the tick replays its ensemble.

    `identity` are the two 32-bit words that name the asset in its state.
    """
    key = jax.random.key(seed)
    for word in (*identity, sequence):
        key = jax.random.fold_in(key, jnp.asarray(word, jnp.uint32))
    return key


def compound_poisson(key: Array, rate: Scalar, mean: Scalar, scale: Scalar) -> JumpPath:
    """Merton's jumps over one tick: Poisson many, at most `MOST_JUMPS`, uniform in time."""
    count_key, time_key, size_key = jax.random.split(key, 3)
    count = jax.random.poisson(count_key, rate)
    sizes = mean + scale * jax.random.normal(size_key, (MOST_JUMPS,), float)
    times = 1.0 - jax.random.uniform(time_key, (MOST_JUMPS,), float)
    return JumpPath(times, jnp.where(jnp.arange(MOST_JUMPS) < count, sizes, 0.0))


def stable_motion(key: Array, alpha: Scalar, beta: Scalar, scale: Scalar, steps: int) -> JumpPath:
    """Stable Lévy motion over one tick, known on a grid of `steps`."""
    sizes = stable_increments(key, alpha, beta, scale, 1.0 / steps, (steps,))
    return JumpPath((jnp.arange(steps) + 1.0) / steps, sizes)


def terms_of(model: ItoLevyModel, key: Array, steps: int) -> diffrax.MultiTerm[Any]:
    """Drift, diffusion, jumps and stable motion as terms of diffrax, driven by `key`."""
    brownian_key, jump_key, stable_key = jax.random.split(key, 3)
    brownian = diffrax.VirtualBrownianTree(0.0, 1.0, 0.5 / steps, (), brownian_key)
    return diffrax.MultiTerm(
        diffrax.ODETerm(lambda t, y, args: cubic(y, model.drift)),
        diffrax.ControlTerm(lambda t, y, args: volatility(y, model.log_variance), brownian),
        diffrax.ControlTerm(
            lambda t, y, args: jnp.ones_like(y),
            compound_poisson(jump_key, model.jump_rate, model.jump_mean, model.jump_scale),
        ),
        diffrax.ControlTerm(
            lambda t, y, args: jnp.ones_like(y),
            stable_motion(
                stable_key, model.stable_alpha, model.stable_beta, model.stable_scale, steps
            ),
        ),
    )


def volatility(x: Array, log_variance: Array) -> Array:
    """σ(x) for the coefficients `[3]` of ln σ², which is bounded so that σ stays finite."""
    logarithm = log_variance[0] + x * (log_variance[1] + x * log_variance[2])
    return jnp.exp(0.5 * jnp.clip(logarithm, -LARGEST_LOG_VARIANCE, LARGEST_LOG_VARIANCE))


def ensemble(
    key: Array,
    model: ItoLevyModel,
    start: Scalar,
    paths: int,
    steps: int = 64,
    solver: diffrax.AbstractSolver[Any] | None = None,
) -> Array:
    """End points `[paths]` of X one tick after X = `start`, deterministic in `key`.

    **Arguments:**

    - `steps`: fixed steps per tick; a power of two keeps the grid exact.
    - `solver`: of diffrax, or `DriftImplicit`, which is the default.

    **Failure:** that of `diffrax.diffeqsolve`, which raises where a step could not be solved.

    **Cost:** O(paths · steps²) when jumps are looked up; for tests and reports.
    """
    if solver is None:
        solver = DriftImplicit()

    def end(path_key: Array) -> Array:
        solution = diffrax.diffeqsolve(
            terms_of(model, path_key, steps),
            solver,
            t0=0.0,
            t1=1.0,
            dt0=1.0 / steps,
            y0=jnp.asarray(start, float),
            max_steps=steps + 1,
        )
        last: Array = solution.ys[-1]
        return last

    return jax.vmap(end)(jax.random.split(key, paths))
