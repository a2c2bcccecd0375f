"""Wavelet maxima: closed-form spectra, the cone, and exponents that follow H."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from predictor import holder
from predictor.config import WINDOW, PredictorConfig
from predictor.identification import wtmm
from tests.predictor.streams import SECOND, clock, fractional_noise, judge, rows_where


def brownian(exponent: float, points: int, paths: int) -> np.ndarray:
    random = np.random.default_rng(round(1000 * exponent) + points)
    return np.cumsum(fractional_noise(random, exponent, points, paths), axis=0).T


def dominant_of(paths) -> np.ndarray:
    return np.array([wtmm.spectrum(path).dominant for path in paths])


def test_wavelet_has_two_vanishing_moments_and_the_closed_form_at_a_peak():
    place = np.arange(256.0)
    scales = wtmm.scales_for(256)
    line = wtmm.transform(3.0 + 0.5 * place, scales)
    np.testing.assert_allclose(line[~np.isnan(line)], 0.0, atol=1e-9)

    # ∫ ψ(t) (a t)²/2 dt = √(2π) a²: a parabola tells scale and normalisation.
    parabola = wtmm.transform(0.5 * np.square(place - 128.0), scales)[:, 128]
    np.testing.assert_allclose(parabola[:24], np.sqrt(2 * np.pi) * scales[:24] ** 2, rtol=1e-6)


def test_cone_of_influence_is_left_out():
    scales = wtmm.scales_for(128)
    known = ~np.isnan(wtmm.transform(np.random.default_rng(1).normal(size=128), scales))

    for row, scale in zip(known, scales, strict=True):
        first = int(np.argmax(row))
        assert first == int(np.ceil(wtmm.INFLUENCE * scale))
        assert np.all(row == row[::-1])


@pytest.mark.parametrize("points", [128, 1024])
def test_every_link_stays_in_the_cone_and_every_line_reaches_the_finest_scale(points):
    scales = wtmm.scales_for(points)
    path = brownian(0.5, points, 1)[0]
    moduli = np.abs(wtmm.transform(path, scales))

    lines = wtmm.lines_of(moduli, scales)

    taken = set()
    for line in lines:
        np.testing.assert_array_equal(np.diff(line.scale), -1)
        assert line.scale[-1] == 0
        reach = wtmm.CONE * scales[line.scale[1:]]
        assert np.all(np.abs(np.diff(line.position)) <= reach)
        points_of_line = set(zip(line.scale.tolist(), line.position.tolist(), strict=True))
        assert not points_of_line & taken
        taken |= points_of_line
    # Every maximum of the finest scale is on a line, and coarse structure was found.
    assert len(lines) == wtmm.maxima(moduli[0]).size
    assert max(line.scale[0] for line in lines) >= scales.size - wtmm.VOICES


def test_suprema_grow_with_scale_and_start_at_the_finest_modulus():
    scales = wtmm.scales_for(256)
    moduli = np.abs(wtmm.transform(brownian(0.3, 256, 1)[0], scales))
    lines = wtmm.lines_of(moduli, scales)

    table = wtmm.suprema(lines, scales.size)

    for row, line in zip(table, lines, strict=True):
        known = row[~np.isnan(row)]
        assert known.size == line.scale.size
        assert known[0] == line.modulus[-1]
        assert np.all(np.diff(known) >= 0.0)
        assert known[-1] == line.modulus.max()


def test_legendre_transform_of_one_exponent_is_one_point():
    spectrum = wtmm.legendre(wtmm.MOMENTS, 0.6 * wtmm.MOMENTS - 1.0)

    assert spectrum.dominant == pytest.approx(0.6)
    assert np.max(spectrum.dimensions) == pytest.approx(1.0)
    assert spectrum.smallest == pytest.approx(0.6)
    assert spectrum.width == pytest.approx(0.0, abs=1e-9)
    # D(h) = min_q (q h − τ(q)) is concave; the sign-swapped transform would be convex.
    assert np.all(np.diff(spectrum.dimensions, 2) <= 1e-9)


def test_legendre_transform_of_a_log_normal_cascade_is_a_parabola():
    # τ(q) = −1 + c q − v q²/2 has D(h) = 1 − (h − c)²/2v where the minimum is inside.
    c, v = 0.7, 0.05
    spectrum = wtmm.legendre(
        wtmm.MOMENTS, -1.0 + c * wtmm.MOMENTS - 0.5 * v * np.square(wtmm.MOMENTS)
    )
    inside = (spectrum.exponents > c - 3.9 * v) & (spectrum.exponents < c + 1.9 * v)

    expected = 1.0 - np.square(spectrum.exponents[inside] - c) / (2.0 * v)

    np.testing.assert_allclose(spectrum.dimensions[inside], expected, atol=1e-3)
    assert spectrum.dominant == pytest.approx(c)


@pytest.mark.parametrize("exponent", [0.3, 0.5, 0.7])
def test_exponents_of_fractional_brownian_motion(exponent):
    found = dominant_of(brownian(exponent, 1024, 60))

    # Scatter of one .05, of the mean .006.
    assert found.mean() == pytest.approx(exponent, abs=0.03)
    assert found.std() < 0.07


def test_window_of_128_points_is_unbiased_though_it_scatters():
    for exponent in (0.3, 0.5, 0.7):
        found = dominant_of(brownian(exponent, WINDOW, 150))
        # Scatter of the mean .012.
        assert found.mean() == pytest.approx(exponent, abs=0.05)
        assert found.std() < 0.2


def test_exponents_rank_the_processes():
    means = [dominant_of(brownian(h, 512, 40)).mean() for h in (0.2, 0.35, 0.5, 0.65, 0.8)]

    assert np.all(np.diff(means) > 0.08)


def test_random_cascades_have_the_binomial_spectrum():
    # The primitive of a binomial measure: τ(q) = −log₂(p^q + (1 − p)^q).
    weight, random = 0.3, np.random.default_rng(1)

    def cascade():
        measure = np.ones(1)
        for _ in range(12):
            left = np.where(random.random(measure.size) < 0.5, weight, 1.0 - weight)
            measure = np.stack([left * measure, (1.0 - left) * measure], axis=1).ravel()
        return np.cumsum(measure)

    spectra = [wtmm.spectrum(cascade()) for _ in range(6)]

    tau = np.mean([spectrum.tau for spectrum in spectra], axis=0)
    exact = -np.log2(weight**wtmm.MOMENTS + (1.0 - weight) ** wtmm.MOMENTS)
    # Scatter of the mean: .03 at q = −2, .002 at 0, .02 at 2; bias −.03 at 2.
    lower = wtmm.MOMENTS <= 2.0
    np.testing.assert_allclose(tau[lower], exact[lower], atol=0.12)
    dominant = np.mean([spectrum.dominant for spectrum in spectra])
    assert dominant == pytest.approx(-0.5 * np.log2(weight * (1.0 - weight)), abs=0.06)
    smallest = np.mean([spectrum.smallest for spectrum in spectra])
    assert smallest == pytest.approx(-np.log2(1.0 - weight), abs=0.1)
    assert np.mean([spectrum.width for spectrum in spectra]) > 0.8


@pytest.mark.parametrize("points", [128, 1024])
def test_step_has_a_singularity_near_zero(points):
    step = np.where(np.arange(points) < points // 2 + 3, 0.0, 1.0)

    assert abs(wtmm.spectrum(step).smallest) < 0.05


def test_step_in_a_smooth_path_is_the_smallest_exponent():
    smooth = brownian(0.8, 1024, 1)[0]
    broken = smooth + 12.0 * smooth.std() * (np.arange(1024) >= 500)

    assert wtmm.spectrum(broken).smallest < 0.3 < wtmm.spectrum(smooth).smallest


def test_window_of_the_state_is_read_from_its_newest_value():
    window = brownian(0.5, WINDOW, 1)[0]

    found = wtmm.of_window(window)

    np.testing.assert_array_equal(found.tau, wtmm.spectrum(window[::-1]).tau)


@pytest.mark.parametrize(
    "series", [np.zeros(128), np.arange(128.0), np.full(128, np.nan), np.zeros(63)]
)
def test_series_without_singularities_is_refused(series):
    with pytest.raises(ValueError, match="series"):
        wtmm.spectrum(series)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_thinning_within_the_limit_of_the_gate_keeps_the_exponent_to_a_tenth(factor):
    # Half of the window at the old rate, half at a rate `factor` times lower.
    exponent, half = 0.5, WINDOW // 2
    long = brownian(exponent, half * (factor + 1), 400)
    thinned = np.concatenate([long[:, :half], long[:, half::factor][:, :half]], axis=1)

    found = np.mean(jax.vmap(holder.estimate)(thinned).exponent)

    assert found == pytest.approx(exponent, rel=0.1)


def test_gap_wider_than_the_limit_raises_the_frequency_warning_at_once():
    limit = PredictorConfig().ingestion.nyquist_intervals
    times = clock(60)
    times[50:] += int((limit + 1) * SECOND)
    values = np.cumsum(np.random.default_rng(2).normal(size=60))

    verdicts = judge(PredictorConfig(), values, times).verdict

    assert rows_where(verdicts.under_sampled)[0] == 50
