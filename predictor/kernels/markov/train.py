"""Train the ladder of deep Galerkin networks: `python -m predictor.kernels.markov.train`.

Every member minimises the squared residual of the backward equation at random points, times
and coefficients; the terminal condition holds by construction. The result depends on the
seed and on the instruction set of the host, and on nothing else.

    python -m predictor.kernels.markov.train               # all members, about an hour
    python -m predictor.kernels.markov.train 32x2 64x3     # only these

**Source:** Sirignano and Spiliopoulos (2018), *DGM: a deep learning algorithm for solving
partial differential equations*, Journal of Computational Physics 375.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from predictor.kernels.markov import weights
from predictor.kernels.markov.coefficients import COEFFICIENTS, DOMAIN, denormalise
from predictor.kernels.markov.network import GalerkinNetwork, layers_of
from predictor.kernels.markov.residual import certainty_residual
from predictor.types import Array

BATCH = 1024
STEPS_PER_CALL = 500
LEARNING_RATE = 0.01
FINAL_FRACTION = 0.002

GRADIENT_LIMIT = 10.0
PATIENCE = 5

SATURATED_SHARE = 0.1
"""Weight of the residual of A beside that of V, which alone would leave A free where V is
near ±1; the entropy reads A there."""

FAST_EMPHASIS = 1.0
"""Training sees fast processes more often: their residual, a rate, is the largest."""

HELD_OUT_SEED, HELD_OUT_POINTS = 987_654_321, 2**18


class Plan(NamedTuple):
    """A member of the ladder and the length of its training."""

    width: int
    depth: int
    steps: int
    seed: int = 42

    @property
    def name(self) -> str:
        """As on the command line."""
        return f"{self.width}x{self.depth}"

    @property
    def network(self) -> GalerkinNetwork:
        """The untrained module."""
        return GalerkinNetwork(self.width, self.depth)


LADDER = (Plan(32, 2, 200_000), Plan(64, 2, 90_000), Plan(64, 3, 60_000), Plan(64, 4, 45_000))


class Points(NamedTuple):
    """Collocation points: `time` `[n]`, `position` `[n]`, `coefficients` `[n, 7]`."""

    time: Array
    position: Array
    coefficients: Array


def sample(key: Array, count: int, emphasis: float = 0.0) -> Points:
    """Uniform over time, domain and the box of normalised coordinates; but the density of
    ln ρ grows as the power `emphasis` of its distance from the slow end."""
    of_time, of_position, of_box = jax.random.split(key, 3)
    box = jax.random.uniform(of_box, (count, COEFFICIENTS))
    box = box.at[:, 0].set(box[:, 0] ** (1.0 / (1.0 + emphasis)))
    return Points(
        jax.random.uniform(of_time, (count,)),
        jax.random.uniform(of_position, (count,), minval=-DOMAIN, maxval=DOMAIN),
        jax.vmap(denormalise)(2.0 * box - 1.0),
    )


def residuals(network: GalerkinNetwork, parameters: Any, points: Points) -> tuple[Array, Array]:
    """The residual of V `[n]`, and the factor `[n]` by which it is that of A."""

    def at_point(time: Array, position: Array, coefficients: Array) -> tuple[Array, Array]:
        def certainty(t: Array, x: Array) -> Array:
            value: Any = network.apply(parameters, t, x, coefficients)
            return value

        return certainty_residual(certainty, time, position, coefficients)

    return jax.vmap(at_point)(*points)


class ClipState(NamedTuple):
    """Steps clipped in a row, factor on the learning rate, and the optimiser's own state."""

    consecutive: Array
    rate: Array
    inner: Any


def clip_and_halve(
    optimizer: optax.GradientTransformation, limit: float, patience: int
) -> optax.GradientTransformation:
    """`optimizer` behind a clip of the gradient's global norm at `limit`; more than `patience`
    clipped steps in a row halve its learning rate and start the count anew."""

    def init(parameters: Any) -> ClipState:
        return ClipState(jnp.zeros((), jnp.int32), jnp.ones(()), optimizer.init(parameters))

    def update(gradient: Any, state: ClipState, parameters: Any = None) -> tuple[Any, ClipState]:
        norm = optax.tree.norm(gradient)
        clipped = norm > limit
        shrink = jnp.where(clipped, limit / jnp.where(clipped, norm, 1.0), 1.0)
        gradient = jax.tree.map(lambda leaf: leaf * shrink, gradient)
        consecutive = jnp.where(clipped, state.consecutive + 1, 0)
        halve = consecutive > patience
        rate = jnp.where(halve, 0.5 * state.rate, state.rate)
        updates, inner = optimizer.update(gradient, state.inner, parameters)
        updates = jax.tree.map(lambda leaf: leaf * rate, updates)
        return updates, ClipState(jnp.where(halve, 0, consecutive), rate, inner)

    return optax.GradientTransformation(init, update)


def train(plan: Plan, follow: Callable[[int, float], None]) -> Any:
    """Trained parameters of the member; `follow(steps, loss)` hears of every
    `STEPS_PER_CALL` steps."""
    network = plan.network
    of_start, of_points = jax.random.split(jax.random.key(plan.seed))
    first = jax.tree.map(lambda leaf: leaf[0], sample(of_start, 1))
    parameters = network.init(of_start, *first)
    schedule = optax.cosine_decay_schedule(LEARNING_RATE, plan.steps, FINAL_FRACTION)
    optimizer = clip_and_halve(optax.adam(schedule), GRADIENT_LIMIT, PATIENCE)

    def loss(parameters: Any, key: Array) -> Array:
        of_value, factor = residuals(network, parameters, sample(key, BATCH, FAST_EMPHASIS))
        return jnp.mean(jnp.square(of_value * (1.0 + SATURATED_SHARE / factor)))

    def advance(carry: tuple[Any, Any], key: Array) -> tuple[tuple[Any, Any], Array]:
        parameters, state = carry
        value, gradient = jax.value_and_grad(loss)(parameters, key)
        updates, state = optimizer.update(gradient, state, parameters)
        return (optax.apply_updates(parameters, updates), state), value

    advance_many = jax.jit(lambda carry, keys: jax.lax.scan(advance, carry, keys))
    carry = (parameters, optimizer.init(parameters))
    for done in range(0, plan.steps, STEPS_PER_CALL):
        steps = min(STEPS_PER_CALL, plan.steps - done)
        keys = jax.random.split(jax.random.fold_in(of_points, done), steps)
        carry, losses = advance_many(carry, keys)
        follow(done + steps, float(jnp.mean(losses)))
    return carry[0]


def judge(plan: Plan, parameters: Any) -> weights.Training:
    """The record of a member, with its residual at points held out, in 64-bit arithmetic."""
    with jax.enable_x64(True):
        points = sample(jax.random.key(HELD_OUT_SEED), HELD_OUT_POINTS)
        measure = jax.jit(lambda tree: residuals(plan.network, tree, points)[0])
        size = np.abs(np.asarray(measure(parameters)))
    return weights.Training(
        width=plan.width,
        depth=plan.depth,
        seed=plan.seed,
        steps=plan.steps,
        mean_square=float(np.mean(size**2)),
        quantile_99=float(np.quantile(size, 0.99)),
        maximum=float(np.max(size)),
    )


def member_of(plan: Plan, parameters: Any) -> weights.Member:
    """The member as it is stored: judged on its weights as rounded to float32."""
    layers = layers_of(parameters["params"])
    rounded = tuple((np.asarray(k, np.float32), np.asarray(b, np.float32)) for k, b in layers)
    return weights.Member(judge(plan, parameters), rounded)


def _follow(name: str) -> Callable[[int, float], None]:
    def follow(steps: int, loss: float) -> None:
        sys.stdout.write(f"{name} after {steps} steps: loss {loss:.3e}\n")
        sys.stdout.flush()

    return follow


def main() -> None:
    """Train the members named on the command line and write them beside the others."""
    names = [plan.name for plan in LADDER]
    parser = argparse.ArgumentParser(description="Train the networks of the markov kernel.")
    parser.add_argument("members", nargs="*", metavar="WIDTHxDEPTH", help=", ".join(names))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    unknown = set(arguments.members) - set(names)
    if unknown:
        parser.error(f"no such member: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    stored: dict[str, weights.Member] = {}
    if (arguments.output / weights.RECORD).exists():
        members = weights.read(arguments.output)
        stored = {f"{m.training.width}x{m.training.depth}": m for m in members}
    for plan in LADDER:
        if plan.name in arguments.members or not arguments.members:
            with jax.enable_x64(False):
                parameters = train(plan, _follow(plan.name))
            member = member_of(plan, parameters)
            stored[plan.name] = member
            sys.stdout.write(f"{plan.name}: {member.training}\n")
            present = [stored[name] for name in names if name in stored]
            weights.write(arguments.output, present)


if __name__ == "__main__":
    main()
