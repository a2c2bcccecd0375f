"""Integration of Itô equations: measured orders, stiffness, and the mean of one tick."""

from __future__ import annotations

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.kernels.levy import schemes
from predictor.kernels.levy.schemes import Scheme, propagate_mean
from predictor.kernels.levy.solver import DriftImplicit, exponential_weights

PATHS = 2000
STEPS = np.array([8, 16, 32, 64, 128])
GROWTH, VOLATILITY = 1.0, 1.0
NO_EXPONENT = jnp.nan

propagate = jax.jit(propagate_mean, static_argnames="sub_steps")


def geometric_terms(path):
    """dX = X dt + X dW along one Brownian path."""
    return diffrax.MultiTerm(
        diffrax.ODETerm(lambda t, y, args: GROWTH * y),
        diffrax.ControlTerm(lambda t, y, args: VOLATILITY * y, path),
    )


def strong_errors(solver) -> np.ndarray:
    """Mean distance at time 1 from the exact solution along the same paths, per step count."""

    def distance(key, step):
        path = diffrax.VirtualBrownianTree(0.0, 1.0, 1.0 / 512, (), key)
        solution = diffrax.diffeqsolve(
            geometric_terms(path), solver, 0.0, 1.0, step, jnp.asarray(1.0), max_steps=256
        )
        drift = GROWTH - 0.5 * VOLATILITY**2
        exact = jnp.exp(drift + VOLATILITY * path.evaluate(0.0, 1.0))
        return jnp.abs(solution.ys[-1] - exact)

    keys = jax.random.split(jax.random.key(1), PATHS)
    mean = jax.jit(lambda step: jnp.mean(jax.vmap(distance, in_axes=(0, None))(keys, step)))
    return np.array([mean(1.0 / steps) for steps in STEPS])


def order_of(errors) -> float:
    return float(-np.polyfit(np.log(STEPS), np.log(errors), 1)[0])


@pytest.mark.parametrize(
    ("solver", "order"),
    [(diffrax.Euler(), 0.5), (DriftImplicit(), 0.5), (diffrax.ItoMilstein(), 1.0)],
    ids=["Euler", "drift-implicit", "Milstein"],
)
def test_strong_order_on_geometric_brownian_motion_is_the_stated_one(solver, order):
    assert solver.strong_order(geometric_terms(None)) == order

    # 2,000 paths leave .03 on the slope.
    assert order_of(strong_errors(solver)) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("implicitness", "order"), [(None, 2), (0.5, 2), (1.0, 1)])
def test_order_of_the_mean_flow_is_the_stated_one(implicitness, order):
    solver = DriftImplicit(implicitness)
    term = diffrax.ODETerm(lambda t, y, args: y - y**3)
    start = 0.3
    # Closed form of x' = x − x³.
    exact = 1.0 / np.sqrt(1.0 + (start**-2 - 1.0) * np.exp(-2.0))

    def error(steps):
        solution = diffrax.diffeqsolve(
            term, solver, 0.0, 1.0, 1.0 / steps, jnp.asarray(start), max_steps=256
        )
        return abs(float(solution.ys[-1]) - exact)

    assert solver.order(term) == order
    assert order_of([error(steps) for steps in STEPS]) == pytest.approx(order, abs=0.1)


@functools.partial(jax.jit, static_argnames="solver")
def mean_distance(solver, step, rate, cube):
    """E|X| after ten units of time of dX = −(rate X + cube X³) dt + dW from X = 1."""

    def end(key):
        brownian = diffrax.VirtualBrownianTree(0.0, 10.0, 0.02, (), key)
        terms = diffrax.MultiTerm(
            diffrax.ODETerm(lambda t, y, args: -rate * y - cube * y**3),
            diffrax.ControlTerm(lambda t, y, args: jnp.ones_like(y), brownian),
        )
        solution = diffrax.diffeqsolve(
            terms, solver, 0.0, 10.0, step, jnp.asarray(1.0), max_steps=512, throw=False
        )
        return jnp.abs(solution.ys[-1])

    return jnp.mean(jax.vmap(end)(jax.random.split(jax.random.key(2), 100)))


@pytest.mark.parametrize(("rate", "cube"), [(50.0, 0.0), (0.0, 5.0), (10.0, 10.0)])
def test_implicit_step_of_one_half_is_stable_on_a_stiff_drift_where_the_explicit_diverges(
    rate, cube
):
    fitted = float(mean_distance(DriftImplicit(), 0.5, rate, cube))
    backward = float(mean_distance(DriftImplicit(1.0, newton_iterations=8), 0.5, rate, cube))
    explicit = float(mean_distance(diffrax.Euler(), 0.5, rate, cube))
    fine = float(mean_distance(diffrax.Euler(), 0.02, rate, cube))

    assert fitted < 10.0 * fine
    assert backward < 10.0 * fine
    assert not explicit < 1e6  # NaN counts as divergence


def test_newton_counts_what_it_needed_and_reports_what_is_left():
    solver = DriftImplicit(1.0, newton_iterations=6)
    linear = diffrax.ODETerm(lambda t, y, args: -3.0 * y)
    cubic = diffrax.ODETerm(lambda t, y, args: -3.0 * y**3)

    def counters(term):
        y = jnp.asarray(2.0)
        return solver.step(term, 0.0, 0.5, y, None, solver.init(term, 0.0, 0.5, y, None), False)

    z, _, _, newton, result = counters(linear)
    assert int(newton.iterations) == 1
    assert float(z) == pytest.approx(2.0 / 2.5)
    assert result == diffrax.RESULTS.successful

    z, _, _, newton, _ = counters(cubic)
    assert 2 <= int(newton.iterations) <= 6
    # z + 1.5 z³ = 2, by its own residual.
    left_over = abs(float(z) + 1.5 * float(z) ** 3 - 2.0)
    assert float(newton.residual) == pytest.approx(left_over, abs=1e-15)
    assert left_over < 1e-8


def test_newton_that_is_not_given_enough_iterations_says_so():
    solver = DriftImplicit(1.0, newton_iterations=1)
    term = diffrax.ODETerm(lambda t, y, args: -30.0 * y**3)
    y = jnp.asarray(2.0)

    _, _, _, newton, result = solver.step(term, 0.0, 1.0, y, None, None, False)

    assert float(newton.residual) > 1e-3
    assert result == diffrax.RESULTS.nonlinear_divergence


@given(st.floats(-200.0, 10.0))
def test_fitted_implicitness_makes_a_linear_drift_exact(exponent):
    growth, fitted = exponential_weights(jnp.asarray(exponent))

    amplification = (1.0 + (1.0 - fitted) * exponent) / (1.0 - fitted * exponent)

    assert float(growth) == pytest.approx(np.expm1(exponent) / exponent if exponent else 1.0)
    assert 0.0 <= float(fitted) <= 1.0
    assert float(amplification) == pytest.approx(np.exp(exponent), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("rate", [1e-6, 0.1, 0.7, 3.0, 30.0, 300.0])
def test_mean_and_variance_of_ornstein_uhlenbeck_are_exact_at_any_stiffness(rate):
    step = propagate(
        jnp.asarray([0.3 * rate, -rate, 0.0, 0.0]), jnp.asarray(2.0), jnp.asarray(0.8), NO_EXPONENT
    )

    assert float(step.mean) == pytest.approx(0.3 + 1.7 * np.exp(-rate), rel=1e-9)
    variance = 0.8 * -np.expm1(-2.0 * rate) / (2.0 * rate)
    assert float(step.variance) == pytest.approx(variance, rel=1e-9)


def test_mean_flow_of_a_cubic_drift_converges_with_order_two():
    coefficients, start = jnp.asarray([0.0, 1.0, 0.0, -1.0]), 0.3
    exact = 1.0 / np.sqrt(1.0 + (start**-2 - 1.0) * np.exp(-2.0))

    errors = [
        abs(float(propagate(coefficients, start, 0.0, NO_EXPONENT, sub_steps=int(n)).mean) - exact)
        for n in STEPS
    ]

    assert order_of(errors) == pytest.approx(2.0, abs=0.1)
    assert errors[0] < 2e-3


def test_mean_of_a_noisy_double_well_agrees_with_a_fine_simulation():
    random = np.random.default_rng(3)
    x = np.full(100_000, 0.8)
    for _ in range(200):
        x += (x - x**3) / 200 + 0.3 * np.sqrt(1 / 200) * random.normal(size=x.size)

    step = propagate(jnp.asarray([0.0, 1.0, 0.0, -1.0]), 0.8, 0.09, NO_EXPONENT)
    without_noise = propagate(jnp.asarray([0.0, 1.0, 0.0, -1.0]), 0.8, 0.0, NO_EXPONENT)

    # The simulated mean has an error of .0006; the closure leaves out the third cumulant.
    assert float(step.mean) == pytest.approx(x.mean(), abs=0.005)
    assert float(step.variance) == pytest.approx(x.var(), rel=0.15)
    assert abs(float(without_noise.mean) - x.mean()) > 0.02


@given(
    st.lists(st.floats(-20.0, 20.0), min_size=4, max_size=4),
    st.floats(-60.0, 60.0),
    st.floats(0.0, 100.0),
    st.floats(0.0, 1.0),
)
def test_mean_is_finite_for_every_drift(coefficients, start, variance_rate, exponent):
    step = propagate(jnp.asarray(coefficients), start, variance_rate, exponent)

    for leaf in step:
        assert np.all(np.isfinite(leaf))
    assert abs(float(step.mean)) <= schemes.LARGEST_MEAN
    assert float(step.variance) >= 0.0
    assert 0 <= int(step.newton_iterations) <= 3 * schemes.SUB_STEPS


def test_thresholds_rise_with_smoothness_as_written():
    for exponent, low, high in ((0.2, 100.0, 1000.0), (0.8, 625.0, 6250.0), (0.6, 156.25, 1562.5)):
        found = schemes.thresholds(exponent)
        assert float(found.low) == pytest.approx(low)
        assert float(found.high) == pytest.approx(high)
    unknown = schemes.thresholds(jnp.nan)
    assert (float(unknown.low), float(unknown.high)) == (100.0, 1000.0)
    assert np.isfinite(schemes.thresholds(1.0).high)


@pytest.mark.parametrize("exponent", [np.nan, 0.3, 0.8, 0.99])
def test_scheme_grows_more_implicit_with_stiffness_and_never_leaves_its_stable_range(exponent):
    stiffness = jnp.asarray(np.geomspace(1.0, 1e6, 200))
    share = schemes.implicitness_of(stiffness, schemes.thresholds(exponent))
    scheme = schemes.scheme_of(share)

    assert np.all(np.diff(share) >= 0.0)
    assert np.all(np.diff(scheme) >= 0)
    assert int(scheme[0]) == Scheme.EXPLICIT
    # An explicit Euler step contracts without overshoot up to h|b'| = 1.
    ratio = np.asarray(stiffness) / schemes.STIFFNESS_UNIT
    assert np.all((1.0 - np.asarray(share)) * ratio <= 1.0 + 1e-9)


@pytest.mark.parametrize(
    ("rate", "scheme"), [(0.5, Scheme.EXPLICIT), (4.0, Scheme.MIXED), (9.0, Scheme.IMPLICIT)]
)
def test_counters_belong_to_the_scheme_that_was_used(rate, scheme):
    # b' = −rate − 3·.01·x²·... at 1; h = 1/8, so that .8 and 8 per tick are the thresholds.
    step = propagate(jnp.asarray([0.0, -rate + 0.03, 0.0, -0.01]), 1.0, 0.1, NO_EXPONENT)

    assert float(step.stiffness) == pytest.approx(1000.0 * rate / 8)
    assert int(step.scheme) == scheme
    assert (int(step.newton_iterations) > 0) is (scheme is not Scheme.EXPLICIT)
    assert float(step.residual) <= 1e-8


def test_scheme_that_is_named_is_the_one_that_moved_the_mean():
    # x' = −(r x + .2 x³), eight sub-steps of exponential Euler and of the fitted theta method.
    def by_hand(rate, share):
        x, step = 1.0, 1.0 / 8
        for _ in range(8):
            drift, slope = -rate * x - 0.2 * x**3, -rate - 0.6 * x**2
            a = step * slope
            explicit = x + np.expm1(a) / slope * drift
            theta = 1.0 / a - 1.0 / np.expm1(a)
            known = x + step * (1.0 - theta) * drift
            roots = np.roots([0.2 * step * theta, 0.0, 1.0 + rate * step * theta, -known])
            implicit = float(roots[np.abs(roots.imag) < 1e-9].real[0])
            x = explicit + share * (implicit - explicit)
        return x

    seen = set()
    for rate in (0.1, 3.0, 12.0):
        step = propagate(jnp.asarray([0.0, -rate, 0.0, -0.2]), 1.0, 0.0, NO_EXPONENT)
        share = float(step.implicitness)
        assert float(step.mean) == pytest.approx(by_hand(rate, share), abs=1e-9)
        assert abs(by_hand(rate, 1.0) - by_hand(rate, 0.0)) > 1e-8
        seen.add(int(step.scheme))
    assert seen == {Scheme.EXPLICIT, Scheme.MIXED, Scheme.IMPLICIT}


def test_changing_volatility_is_stiffness_too():
    calm = propagate(jnp.asarray([0.0, -0.1, 0.0, 0.0]), 1.0, 0.1, NO_EXPONENT)
    wild = propagate(jnp.asarray([0.0, -0.1, 0.0, 0.0]), 1.0, 0.1, NO_EXPONENT, 4.0)

    assert int(calm.scheme) == Scheme.EXPLICIT
    assert int(wild.scheme) == Scheme.MIXED
    assert float(wild.stiffness) == pytest.approx(500.0)


def test_lanes_do_not_see_each_other():
    random = np.random.default_rng(6)
    coefficients = jnp.asarray(random.normal(size=(32, 4)))
    starts, order = jnp.asarray(random.normal(size=32)), random.permutation(32)
    batch = jax.jit(jax.vmap(propagate_mean, in_axes=(0, 0, None, None)))

    plain = batch(coefficients, starts, 0.3, 0.5)
    shuffled = batch(coefficients[order], starts[order], 0.3, 0.5)
    poisoned = batch(coefficients.at[1:].set(jnp.nan), starts, 0.3, 0.5)

    for leaf, moved, alone in zip(*map(jax.tree.leaves, (plain, shuffled, poisoned)), strict=True):
        np.testing.assert_array_equal(leaf[order], moved)
        np.testing.assert_array_equal(leaf[0], alone[0])
