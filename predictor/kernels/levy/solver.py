r"""Drift-implicit solver for scalar Itô–Lévy equations, in the vocabulary of diffrax.

For dX = b(X) dt + σ(X) dW + dJ one step of size h from x solves

$$ z = x + h (1 - \theta)\, b(x) + h \theta\, b(z) + \sigma(x) \Delta W + \Delta J $$

by a fixed number of Newton iterations. The implicitness θ is 1 (backward Euler), ½ (trapezoid)
or fitted: θ(h b′(x)) such that a linear drift is solved exactly, which is between the two for a
contracting drift and makes the step of second order in h and stable at any h.

**Source:** Higham (2000), *Mean-square and asymptotic stability of the stochastic theta
method*, SIAM Journal on Numerical Analysis 38, 753; Liniger and Willoughby (1970), *Efficient
integration methods for stiff systems of ordinary differential equations*, SIAM Journal on
Numerical Analysis 7, 47, for the fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import diffrax
import jax
import jax.numpy as jnp

from predictor.types import Array

NEWTON_ITERATIONS = 3
"""From an explicit step of second order three suffice at any step that is sensible."""

TOLERANCE = 1e-9
"""Residual over 1 + |z| at which an iteration is no longer needed."""

SMALLEST_SLOPE = 0.1
"""Floor of the derivative 1 − hθb′ of the equation, which is positive where the step resolves
an expanding drift; Newton's step is shortened where it does not."""

LARGEST_EXPONENT = 50.0


class Newton(NamedTuple):
    """Counters of the last step, each of the shape of the solution.

    `iterations` that were needed (int32), and `residual`: |left − right| of the equation.
    """

    iterations: Array
    residual: Array


class DriftImplicit(diffrax.AbstractItoSolver, diffrax.AbstractAdaptiveSolver):
    """Theta method, implicit in the drift alone, which acts component by component.

    `terms` is an `ODETerm`, or a `MultiTerm` whose first is one; noise and jumps are explicit.
    The error estimate is the distance from the exponential Euler step, the explicit member of
    the pair. The solver's state is `Newton` of the last step.

    **Arguments:**

    - `implicitness`: θ in [0, 1]; `None` fits it.
    - `newton_iterations`: always as many are computed; those that were needed are counted.

    **Failure:** `RESULTS.nonlinear_divergence` where the residual exceeds 1e-6 (1 + |z|).
    """

    implicitness: float | None = None
    newton_iterations: int = NEWTON_ITERATIONS

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar[Callable[..., Any]] = diffrax.LocalLinearInterpolation

    def order(self, terms: Any) -> int:
        """Order of the mean flow; measured in the tests."""
        del terms
        return 2 if self.implicitness in (None, 0.5) else 1

    def strong_order(self, terms: Any) -> float:
        """½ for multiplicative noise; 1 where the noise is additive."""
        del terms
        return 0.5

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Newton:
        """No iteration yet."""
        del terms, t0, t1, args
        return Newton(jnp.zeros_like(y0, dtype=jnp.int32), jnp.zeros_like(y0))

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        """The vector field at a point."""
        return terms.vf(t0, y0, args)

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> tuple[Array, Array, dict[str, Array], Newton, diffrax.RESULTS]:
        """One step; see the module for the equation."""
        del solver_state, made_jump
        drift, others = _split(terms)
        step = drift.contr(t0, t1)
        push = jnp.zeros_like(y0)
        for term in others:
            push = push + term.vf_prod(t0, y0, args, term.contr(t0, t1))
        value, slope = _with_slope(lambda y: drift.vf(t0, y, args), y0)
        growth, fitted = exponential_weights(step * slope)
        explicit = y0 + step * growth * value + push
        theta = fitted if self.implicitness is None else self.implicitness
        known = y0 + step * (1.0 - theta) * value + push

        def equation(z: Array) -> tuple[Array, Array]:
            ahead, slope_ahead = _with_slope(lambda y: drift.vf(t1, y, args), z)
            return z - known - step * theta * ahead, 1.0 - step * theta * slope_ahead

        z, needed = explicit, jnp.zeros_like(y0, dtype=jnp.int32)
        for _ in range(self.newton_iterations):
            residual, derivative = equation(z)
            open_ = jnp.abs(residual) > TOLERANCE * (1.0 + jnp.abs(z))
            correction = residual / jnp.maximum(derivative, SMALLEST_SLOPE)
            z = z - jnp.where(open_, correction, 0.0)
            needed = needed + open_.astype(jnp.int32)
        left_over = jnp.abs(equation(z)[0])
        solved = jnp.all(left_over <= 1e-6 * (1.0 + jnp.abs(z)))
        result = diffrax.RESULTS.where(
            solved, diffrax.RESULTS.successful, diffrax.RESULTS.nonlinear_divergence
        )
        return z, z - explicit, {"y0": y0, "y1": z}, Newton(needed, left_over), result


def exponential_weights(exponent: Array) -> tuple[Array, Array]:
    """(e^a − 1)/a and the fitted implicitness 1/a − 1/(e^a − 1), for a = h b′ ≤ 50."""
    exponent = jnp.minimum(exponent, LARGEST_EXPONENT)
    small = jnp.abs(exponent) < 1e-4
    safe = jnp.where(small, 1.0, exponent)
    grown = jnp.expm1(safe)
    growth = jnp.where(small, 1.0 + 0.5 * exponent, grown / safe)
    fitted = jnp.where(small, 0.5 - exponent / 12.0, 1.0 / safe - 1.0 / grown)
    return growth, fitted


def _split(terms: Any) -> tuple[Any, tuple[Any, ...]]:
    """The drift, and whatever else drives the equation."""
    if isinstance(terms, diffrax.MultiTerm):
        return terms.terms[0], terms.terms[1:]
    return terms, ()


def _with_slope(function: Callable[[Array], Array], at: Array) -> tuple[Array, Array]:
    """Value and derivative of a function that acts component by component."""
    value, slope = jax.jvp(function, (at,), (jnp.ones_like(at),))
    return value, slope
