"""The deep Galerkin network as a flax module: what is trained, and what tests compare with.

The compiled step evaluates the same function from the shipped weights, without flax
(`ladder.py`).
"""

from __future__ import annotations

import flax.linen as nn
import jax

from predictor.kernels.markov.ansatz import ansatz
from predictor.types import Array

LAST_LAYER_SCALE = 0.1
"""Standard deviation of the untrained correction, about: training starts from the ansatz."""


class GalerkinNetwork(nn.Module):
    """Certainty equivalent of the value at one point: V(t, x; c) = tanh of it.

    A tanh network of `depth` hidden layers of `width` units corrects the ansatz.
    """

    width: int
    depth: int

    @nn.compact
    def __call__(self, time: Array, position: Array, coefficients: Array) -> Array:
        """A(t, x; c) for scalars `time`, `position` and `coefficients` `[7]`."""
        known = ansatz(time, position, coefficients)
        hidden = known.features
        for _ in range(self.depth):
            hidden = nn.tanh(nn.Dense(self.width)(hidden))
        small = nn.initializers.variance_scaling(LAST_LAYER_SCALE**2, "fan_in", "normal")
        correction = nn.Dense(1, kernel_init=small)(hidden)[0]
        return known.certainty_equivalent(correction)


def layers_of(parameters: dict[str, dict[str, jax.Array]]) -> tuple[tuple[Array, Array], ...]:
    """Kernels `[in, out]` and biases `[out]` of the dense layers, in order of application."""
    names = sorted(parameters, key=lambda name: int(name.rsplit("_", 1)[1]))
    return tuple((parameters[name]["kernel"], parameters[name]["bias"]) for name in names)
