"""Coverage, order and sharpness of the prediction interval on errors with known laws."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from predictor import PredictorConfig, interval
from tests.predictor.streams import fold, repeated

CONFIG = PredictorConfig()


def interval_lane(state, tick):
    error, proxy, position = tick
    proxies = jnp.full(interval.GIVEN, jnp.nan).at[0].set(proxy)
    state, lower, upper = interval.bounds(CONFIG, state, jnp.zeros(()), proxies, position)
    state = interval.score(CONFIG, state, error)
    return interval.pass_by(state, error, position, jnp.asarray(True)), (lower, upper)


interval_row = jax.vmap(interval_lane)


def bounds(errors: np.ndarray, proxies: np.ndarray | None = None):
    """Bounds `[T, n]` about a forecast of zero, each made before the error of its row."""
    proxies = np.full(errors.shape, np.nan) if proxies is None else proxies
    states = repeated(interval.init(), errors.shape[1])
    positions = np.broadcast_to(np.arange(len(errors))[:, None], errors.shape)
    state, (lower, upper) = fold(interval_row, states, (errors, proxies, positions))
    return state, np.asarray(lower), np.asarray(upper)


def winkler(errors: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> float:
    """Width plus 2/0.05 times the distance outside."""
    outside = np.maximum(lower - errors, 0.0) + np.maximum(errors - upper, 0.0)
    return float(np.mean(upper - lower + 40.0 * outside))


LAWS = {
    "normal": lambda random, shape: random.normal(size=shape),
    "t3": lambda random, shape: random.standard_t(3, size=shape),
    "skewed": lambda random, shape: random.exponential(size=shape) - 1.0,
    "biased": lambda random, shape: random.normal(size=shape) + 0.5,
}


@pytest.mark.parametrize("law", LAWS)
def test_long_run_coverage_is_that_asked_for(law):
    errors = LAWS[law](np.random.default_rng(1), (6000, 8))

    _, lower, upper = bounds(errors)

    inside = (lower <= errors) & (errors <= upper)
    assert abs(inside[500:].mean() - 0.95) <= 0.01
    # Each tail on its own, except where the interval is widened to hold the forecast.
    if law != "biased":
        assert abs((errors < lower)[500:].mean() - 0.025) <= 0.006


def test_normal_errors_get_nearly_the_optimal_width():
    errors = np.random.default_rng(2).normal(size=(4000, 8))

    _, lower, upper = bounds(errors)

    # 2 · 1.96 is optimal; the tracker costs a few percent.
    assert np.mean((upper - lower)[500:]) == pytest.approx(3.92, rel=0.07)


@pytest.mark.parametrize(
    ("growth", "least", "most"), [(0.0, 0.95, 0.965), (1.0 / 150.0, 0.92, 0.95)]
)
def test_short_records_are_covered_too_and_nearly_so_where_volatility_grows(growth, least, most):
    ticks = np.arange(200)
    errors = np.random.default_rng(4).normal(size=(200, 256)) * np.exp(growth * ticks)[:, None]

    _, lower, upper = bounds(errors)

    inside = (lower <= errors) & (errors <= upper)
    assert least <= inside[25:].mean() <= most


def test_volatility_that_doubles_is_followed_within_fifty_ticks():
    errors = np.random.default_rng(3).normal(size=(1500, 64))
    errors[1000:] *= 3.0

    _, lower, upper = bounds(errors)

    inside = (lower <= errors) & (errors <= upper)
    assert inside[1050:1200].mean() > 0.92


def volatile(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Errors, and their standard deviation, which jumps at random from tick to tick."""
    random = np.random.default_rng(seed)
    scale = np.exp(0.8 * random.normal(size=(3000, 8)))
    return scale * random.normal(size=(3000, 8)), scale


def test_proxy_that_volatility_follows_sharpens_the_interval():
    errors, scale = volatile(4)

    _, lower, upper = bounds(errors, 7.0 * scale)

    score = winkler(errors[500:], lower[500:], upper[500:])
    blind = bounds(errors)
    assert score < 0.85 * winkler(errors[500:], blind[1][500:], blind[2][500:])


def test_proxy_that_says_nothing_does_little_harm():
    errors = np.random.default_rng(5).normal(size=(3000, 8))
    proxies = np.exp(np.random.default_rng(6).normal(size=errors.shape))

    _, lower, upper = bounds(errors, proxies)

    score = winkler(errors[500:], lower[500:], upper[500:])
    blind = bounds(errors)
    assert score < 1.02 * winkler(errors[500:], blind[1][500:], blind[2][500:])


def test_absurd_proxies_leave_the_interval_finite_and_the_rest_of_it_alone():
    errors = np.random.default_rng(7).normal(size=(600, 1))
    proxies = np.ones_like(errors)
    for row, value in {
        200: 1e200,
        220: 1e-300,
        240: np.inf,
        260: -1.0,
        280: 0.0,
        300: 1e60,
    }.items():
        proxies[row] = value

    _, lower, upper = bounds(errors, proxies)

    assert np.all(np.isfinite(lower))
    assert np.all(np.isfinite(upper))
    assert np.max((upper - lower)[320:]) < 8.0


@pytest.mark.parametrize(("period", "most"), [(7, 1.03), (24, 1.04), (48, 1.05)])
def test_a_season_of_the_volatility_is_followed(period, most):
    ticks = np.arange(4000)
    scale = np.exp(0.5 * np.sin(2.0 * np.pi * ticks / period))[:, None]
    errors = scale * np.random.default_rng(9).normal(size=(4000, 16))

    _, lower, upper = bounds(errors)

    exact = np.broadcast_to(1.96 * scale, errors.shape)
    best = winkler(errors[2000:], -exact[2000:], exact[2000:])
    # Without the season it is 1.19.
    assert winkler(errors[2000:], lower[2000:], upper[2000:]) < most * best
    inside = (lower <= errors) & (errors <= upper)
    assert inside[2000:].mean() == pytest.approx(0.95, abs=0.007)
    calm = (scale < 1.0)[2000:, 0]
    assert inside[2000:][calm].mean() == pytest.approx(inside[2000:][~calm].mean(), abs=0.02)


def test_jump_after_a_constant_stretch_leaves_finite_bounds():
    errors = np.zeros((300, 1))
    errors[100:] = 1e60 * np.random.default_rng(8).normal(size=(200, 1))

    state, lower, upper = bounds(errors)

    assert np.all(np.isfinite(lower) & np.isfinite(upper))
    finite = jax.tree.map(lambda leaf: bool(np.all(np.isfinite(leaf))), state)
    assert all(jax.tree.leaves(finite._replace(proxies=True)))
    inside = (lower <= errors) & (errors <= upper)
    assert inside[150:].mean() > 0.85


@given(
    arrays.arrays(np.float64, (40, 2), elements=st.floats(-1e140, 1e140)),
    arrays.arrays(np.float64, (40, 2), elements=st.floats()),
)
def test_forecast_is_never_outside_of_its_interval(errors, proxies):
    _, lower, upper = bounds(errors, proxies)

    assert np.all(lower <= 0.0)
    assert np.all(upper >= 0.0)
