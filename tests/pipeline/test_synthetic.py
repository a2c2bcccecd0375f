"""Synthetic processes have the moments that they claim."""

import numpy as np
import pytest

from pipeline.synthetic import PROCESSES, SECOND_NS, START_NS, series

TICKS = 40_000


def generate(name: str, seed: int = 5, n: int = TICKS) -> np.ndarray:
    return PROCESSES[name].generate(np.random.default_rng(seed), n)


def autocorrelation(values: np.ndarray, lag: int) -> float:
    centred = values - values.mean()
    return float(centred[lag:] @ centred[:-lag] / (centred @ centred))


@pytest.mark.parametrize("name", PROCESSES)
def test_every_process_gives_as_many_finite_values_as_asked_for(name):
    for count in (0, 1, 2, 257):
        values = generate(name, n=count)
        assert values.shape == (count,)
        assert values.dtype == np.float64
        assert np.isfinite(values).all()


@pytest.mark.parametrize("name", PROCESSES)
def test_the_same_generator_gives_the_same_values_and_another_one_others(name):
    assert np.array_equal(generate(name, n=300), generate(name, n=300))
    assert not np.array_equal(generate(name, n=300), generate(name, seed=6, n=300))


@pytest.mark.parametrize("name", PROCESSES)
def test_every_process_says_what_it_is(name):
    assert PROCESSES[name].name == name
    assert len(PROCESSES[name].description) > 20


# Tolerances are four standard errors of the sample moment over 40,000 ticks: 4 / √40,000 = 0.02 for
# an autocorrelation, wider where the process remembers.


def test_white_noise_is_white():
    values = generate("white_noise")
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1.0) < 0.02
    assert abs(autocorrelation(values, 1)) < 0.02


def test_a_random_walk_has_white_steps_of_deviation_one():
    steps = np.diff(generate("random_walk"))
    assert abs(steps.std() - 1.0) < 0.02
    assert abs(autocorrelation(steps, 1)) < 0.02


def test_the_autoregression_decays_as_its_coefficient_says():
    values = generate("ar1")
    assert abs(values.var() - 1.0 / (1.0 - 0.49)) < 0.1
    for lag in (1, 2, 3):
        assert abs(autocorrelation(values, lag) - 0.7**lag) < 0.03


def test_the_second_order_autoregression_obeys_yule_and_walker():
    values = generate("ar2")
    first, second = autocorrelation(values, 1), autocorrelation(values, 2)
    assert abs(first - 1.2 / 1.6) < 0.02
    assert abs(second - (1.2 * 1.2 / 1.6 - 0.6)) < 0.03


def test_ornstein_uhlenbeck_reverts_at_its_rate_around_its_mean():
    values = generate("ou")
    assert abs(values.mean() - 50.0) < 0.3
    assert abs(values.std() - 2.0) < 0.15
    assert abs(autocorrelation(values, 10) - np.exp(-0.5)) < 0.05


def test_the_steps_of_a_local_level_have_the_moving_average_correlation():
    steps = np.diff(generate("local_level"))
    assert abs(steps.var() - (0.09 + 2.0)) < 0.06
    assert abs(autocorrelation(steps, 1) + 1.0 / 2.09) < 0.02


def test_the_seasonal_series_repeats_after_its_period():
    values = generate("seasonal")
    explained = 12.5 / (12.5 + 0.25)  # variance of the sine over the whole
    assert abs(autocorrelation(values, 24) - explained) < 0.01
    assert abs(autocorrelation(values, 12) + explained) < 0.01


def test_broken_trends_keep_a_slope_for_a_hundred_ticks_on_average():
    steps = np.diff(generate("trend_breaks"))
    # Cov(s_t, s_{t+k}) = 0.09 · 0.99^k; the noise adds 2 · 0.25 to the variance alone.
    assert abs(np.cov(steps[:-50], steps[50:])[0, 1] - 0.09 * 0.99**50) < 0.025


def test_regimes_are_levels_under_unit_noise():
    values = generate("regime")
    quiet = np.abs(np.diff(values)) < 6.0
    assert abs(np.diff(values)[quiet].std() - np.sqrt(2.0)) < 0.03
    assert 100 < (~quiet).sum() < 250  # of 267 breaks, those larger than the noise


def test_garch_steps_have_unit_variance_and_correlated_squares():
    steps = np.diff(generate("garch"))
    assert abs(steps.var() - 1.0) < 0.15
    assert abs(autocorrelation(steps, 1)) < 0.03
    assert autocorrelation(steps**2, 1) > 0.08


def test_jumps_come_at_two_percent_of_the_ticks():
    steps = np.diff(generate("jump_diffusion"))
    assert abs(steps.var() - (0.09 + 0.02 * 16.0)) < 0.08
    share = (np.abs(steps) > 1.5).mean()  # five deviations of the diffusion
    assert abs(share - 0.02 * 0.7077) < 0.003  # P(|N(0, 4²)| > 1.5) = 0.7077


def test_the_threshold_autoregression_moves_towards_the_threshold():
    values = generate("setar")
    before, after = values[:-1], values[1:]
    low, high = before <= 0.0, before > 0.0
    assert abs(np.mean(after[low] - 0.6 * before[low]) - 1.0) < 0.02
    assert abs(np.mean(after[high] - 0.6 * before[high]) + 1.0) < 0.02
    assert abs(np.std(after - 0.6 * before - np.where(low, 1.0, -1.0)) - 0.5) < 0.01


def test_the_logistic_map_follows_its_equation_exactly():
    values = generate("logistic_map")
    assert np.array_equal(values[1:], 3.9 * values[:-1] * (1.0 - values[:-1]))
    assert ((values > 0.0) & (values < 1.0)).all()


def test_lorenz_stays_on_its_attractor_and_visits_both_wings():
    values = generate("lorenz", n=5000)
    assert np.abs(values).max() < 20.5
    assert np.abs(values).max() > 17.0
    assert 0.3 < (values > 0.0).mean() < 0.7


def test_intermittent_demand_is_zero_four_times_out_of_five():
    values = generate("intermittent")
    assert abs((values == 0.0).mean() - 0.8) < 0.01
    assert abs(values.mean() - 0.8) < 0.04


def test_fractional_noise_has_its_exact_autocovariance():
    values = generate("fractional_noise")
    # Hurst 0.75: ρ(k) = ½ (|k+1|^1.5 − 2|k|^1.5 + |k−1|^1.5).
    for lag in (1, 5, 20):
        expected = 0.5 * ((lag + 1) ** 1.5 - 2 * lag**1.5 + (lag - 1) ** 1.5)
        assert abs(autocorrelation(values, lag) - expected) < 0.04
    assert abs(values.var() - 1.0) < 0.06


def test_series_tick_together_in_the_order_of_event_time():
    batches = list(series(["ar1", "ou"], assets=2, ticks=3, seed=1))

    ids = [asset for batch in batches for asset in batch.asset_ids]
    stamps = np.concatenate([batch.timestamps_ns for batch in batches])

    assert ids == ["ar1-000", "ar1-001", "ou-000", "ou-001"] * 3
    assert stamps.tolist() == np.repeat(START_NS + np.arange(3) * SECOND_NS, 4).tolist()


def test_a_series_does_not_depend_on_what_else_is_asked_for():
    alone = np.concatenate([b.magnitudes for b in series(["ou"], 1, 50, seed=3)])
    among = np.concatenate([b.magnitudes for b in series(["ar1", "ou"], 2, 50, seed=3)])
    assert np.array_equal(alone, among[2::4])


def test_two_series_of_one_process_differ():
    values = np.concatenate([b.magnitudes for b in series(["ou"], 2, 50, seed=3)])
    assert not np.array_equal(values[0::2], values[1::2])
