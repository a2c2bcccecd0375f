r"""Entropy of the value function over a grid of states: has it collapsed, does it need a
larger network?

The value at the grid is read as its certainty equivalent A = artanh V, in z-units: tanh would
squash a persistent process at the ends of the grid and a fast one nowhere, and so call every
gain in persistence a loss of entropy. For a linear drift A is a line, whatever the rate.

With X uniform over the grid, A(X) has the differential entropy H = E ln(density of the values),
estimated from the spacings of the ordered values. It is exact for values equally spaced, and
needs no histogram. Two readings of it:

- H in z-units. exp(H − H₀) is the entropy-power ratio κ: how many times wider the network's
  range of values has become.
- h = H − ln(standard deviation): the shape alone, whatever location and scale. At most
  ½ ln 2πe, ½ ln 12 for a line, less the more the values gather at few modes.

**Source:** Vasicek (1976), *A test for normality based on sample entropy*, JRSS B 38; Ebrahimi,
Pflughoeft and Soofi (1994), *Two measures of sample entropy*, for the spacings at the ends.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from predictor.types import Array

POINTS = 32
GRID_LIMIT = 3.0
GRID = np.linspace(-GRID_LIMIT, GRID_LIMIT, POINTS)
"""States at which the value is read, in z-units."""

RESOLUTION = 0.005
"""Values closer than this are not told apart: the error of the networks, in z-units."""

_ORDER = 4
_PLACE = np.arange(POINTS)
_BELOW = np.maximum(_PLACE - _ORDER, 0)
_ABOVE = np.minimum(_PLACE + _ORDER, POINTS - 1)
_SPANNED = (_ABOVE - _BELOW) / (POINTS - 1.0)

_ENDS_INCLUDED = (POINTS - 1.0) / (POINTS + 1.0)
"""Turns the variance of equally spaced points into that of the uniform law between the ends,
of which the spacings give the entropy."""


def ordered(values: Array) -> Array:
    """`values` `[n]` in ascending order, each put at its rank; on the CPU half the cost of a
    sort at this size."""
    place = jnp.arange(values.shape[0])
    ahead = (values[None, :] < values[:, None]) | (
        (values[None, :] == values[:, None]) & (place[None, :] < place[:, None])
    )
    rank = jnp.sum(ahead.astype(jnp.int32), axis=1)
    return jnp.sum(jnp.where(rank[None, :] == place[:, None], values[None, :], 0.0), axis=1)


def spacing_entropy(values: Array) -> Array:
    """H, differential entropy in nats of `values` `[32]`, in any order, by their spacings.

    Equal values count as spread over `RESOLUTION`, so that H is finite.
    """
    ascending = ordered(values)
    spacings = ascending[_ABOVE] - ascending[_BELOW]
    return jnp.mean(jnp.log(jnp.maximum(spacings / _SPANNED, RESOLUTION)))


def shape_entropy(values: Array, entropy: Array) -> Array:
    """h, the entropy H of `values` `[32]` less the log of their standard deviation.

    Values within `RESOLUTION` of each other have no shape: there h falls to zero.
    """
    variance = jnp.mean(jnp.square(values - jnp.mean(values))) * _ENDS_INCLUDED
    return entropy - 0.5 * jnp.log(variance + RESOLUTION**2)
