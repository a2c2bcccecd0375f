"""Words of the signature kernel against iterated integrals from the tensor algebra."""

from __future__ import annotations

from collections.abc import Callable
from math import factorial

import numpy as np
import pytest

from predictor import log_signature
from predictor.config import WINDOW
from predictor.kernels.signature import (
    QUADRATIC_WINDOWS,
    WINDOWS,
    deep_words,
    quadratic_word,
    word_matrix,
)
from predictor.log_signature import TIME, VALUE, Word, lyndon_words


def chen_product(a: list[np.ndarray], b: list[np.ndarray]) -> list[np.ndarray]:
    """Product of two elements of the tensor algebra over the plane, cut where they are."""
    return [
        sum(np.multiply.outer(a[i], b[level - i]) for i in range(level + 1))
        for level in range(len(a))
    ]


def signature_of_steps(steps: np.ndarray, depth: int = 3) -> list[np.ndarray]:
    """Iterated integrals of the piecewise linear path in the plane with these steps `[n, 2]`."""
    total = [np.ones(()), *(np.zeros((2,) * level) for level in range(1, depth + 1))]
    for step in steps:
        powers = [np.ones(())]
        for _ in range(depth):
            powers.append(np.multiply.outer(powers[-1], step))
        segment = [power / factorial(level) for level, power in enumerate(powers)]
        total = chen_product(total, segment)
    return total


def signature(increments: np.ndarray, duration: float = 1.0, depth: int = 3) -> list[np.ndarray]:
    """Iterated integrals on [0, duration] of the path (t, y) with these steps, oldest first."""
    times = np.full(len(increments), duration / len(increments))
    return signature_of_steps(np.stack([times, increments], axis=1), depth)


def logarithm(element: list[np.ndarray]) -> list[np.ndarray]:
    """ln(1 + x) = x - x²/2 + x³/3 - … in the cut tensor algebra."""
    x = [np.zeros(()), *element[1:]]
    power, total = x, [np.zeros_like(part) for part in x]
    for order in range(1, len(x)):
        sign = 1.0 if order % 2 else -1.0
        total = [a + sign * b / order for a, b in zip(total, power, strict=True)]
        power = chen_product(power, x)
    return total


def rows_of(depth: int) -> dict[tuple[int, int], np.ndarray]:
    """Rows of the matrix by (window, level)."""
    keys = [
        (length, level) for length in WINDOWS for level in range(1, depth + 1) if length >= level
    ]
    return dict(zip(keys, word_matrix(depth), strict=True))


def words_of(length: int, increments: np.ndarray) -> np.ndarray:
    """Displacement, Lévy area and [t, [t, y]] of a window, from the rows of the kernel."""
    rows = rows_of(3)
    # Rows are scaled to unit norm; these are the weights of the words before scaling.
    centred = (np.arange(length) + 0.5) / length - 0.5
    curvature = centred**2 - np.mean(centred**2)
    norms = [np.sqrt(length), np.linalg.norm(centred), 0.5 * np.linalg.norm(curvature)]
    values = np.array([rows[length, level] @ increments for level in (1, 2, 3)]) * norms
    # The rows read the past from its newest end, which turns the sign of the area.
    return values * [1.0, -1.0, 1.0]


def words_in(log_signature: list[np.ndarray]) -> np.ndarray:
    """The same three out of an element of the tensor algebra."""
    return np.array(
        [
            log_signature[1][VALUE],
            log_signature[2][TIME, VALUE],
            log_signature[3][TIME, TIME, VALUE],
        ]
    )


@pytest.mark.parametrize("length", WINDOWS[2:])
def test_words_are_the_log_signature_of_the_time_augmented_path(length):
    increments = np.random.default_rng(length).normal(size=WINDOW - 1)
    oldest_first = increments[:length][::-1]

    words = words_of(length, increments)

    np.testing.assert_allclose(
        words, words_in(logarithm(signature(oldest_first))), rtol=1e-7, atol=1e-12
    )


@pytest.mark.parametrize("length", QUADRATIC_WINDOWS)
def test_quadratic_word_is_that_of_the_log_signature_at_depth_three(length):
    increments = np.random.default_rng(length).normal(size=length)

    word = increments @ quadratic_word(length) @ increments

    expected = logarithm(signature(increments[::-1]))[3]
    assert word == pytest.approx(expected[TIME, VALUE, VALUE], rel=1e-9)
    # A path that is turned over bends as much to the other side, and the word is even.
    assert word == pytest.approx(-increments @ quadratic_word(length) @ -increments)


@pytest.mark.parametrize("length", QUADRATIC_WINDOWS)
def test_quadratic_word_of_a_straight_line_is_nothing_and_scales_with_the_square(length):
    form = quadratic_word(length)
    increments = np.random.default_rng(length).normal(size=length)

    assert np.ones(length) @ form @ np.ones(length) == pytest.approx(0.0, abs=1e-12)
    scaled = logarithm(signature(3.0 * increments[::-1]))[3][TIME, VALUE, VALUE]
    assert scaled == pytest.approx(9.0 * increments @ form @ increments, rel=1e-9)


@pytest.mark.parametrize("length", WINDOWS[2:-1])
def test_words_of_a_window_follow_from_those_of_its_halves_by_chens_identity(length):
    increments = np.random.default_rng(length).normal(size=WINDOW - 1)
    half = length // 2
    older, newer = increments[half:length][::-1], increments[:half][::-1]

    whole = chen_product(signature(older, 0.5), signature(newer, 0.5))

    np.testing.assert_allclose(
        words_of(length, increments), words_in(logarithm(whole)), rtol=1e-7, atol=1e-12
    )


@pytest.mark.parametrize("length", WINDOWS[2:-2])
def test_points_on_the_way_change_no_word(length):
    increments = np.random.default_rng(length).normal(size=WINDOW - 1)
    finer = np.zeros(WINDOW - 1)
    finer[: 2 * length] = np.repeat(increments[:length] / 2.0, 2)

    np.testing.assert_allclose(
        words_of(2 * length, finer), words_of(length, increments), rtol=1e-9, atol=1e-12
    )


WARPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "square": np.square,
    "root": np.sqrt,
    "cosine": lambda s: 0.5 * (1.0 - np.cos(np.pi * s)),
}


def interpolated(increments: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The path through these steps, oldest first, at times in [0, 1]."""
    knots = np.linspace(0.0, 1.0, len(increments) + 1)
    return np.interp(places, knots, np.concatenate([[0.0], np.cumsum(increments)]))


@pytest.mark.parametrize("warp", WARPS)
@pytest.mark.parametrize("length", WINDOWS[2:])
def test_words_do_not_depend_on_the_speed_at_which_the_path_is_run_through(length, warp):
    increments = np.random.default_rng(length).normal(size=WINDOW - 1)
    oldest_first = increments[:length][::-1]
    # The knots belong to the path; between them it is looked at wherever the warp leads.
    knots = np.linspace(0.0, 1.0, length + 1)
    places = np.union1d(knots, WARPS[warp](np.linspace(0.0, 1.0, 200)))
    path = np.stack([places, interpolated(oldest_first, places)], axis=1)

    warped = signature_of_steps(np.diff(path, axis=0))

    np.testing.assert_allclose(
        words_of(length, increments), words_in(logarithm(warped)), rtol=1e-8, atol=1e-9
    )


def test_words_change_where_the_values_are_warped_against_time_or_not_monotonically():
    increments = np.random.default_rng(9).normal(size=WINDOW - 1)
    oldest_first = increments[:32][::-1]
    plain = words_of(32, increments)
    time = np.linspace(0.0, 1.0, 400)

    for warped in (np.square(time), time + 0.3 * np.sin(4.0 * np.pi * time)):
        path = np.stack([time, interpolated(oldest_first, warped)], axis=1)
        words = words_in(logarithm(signature_of_steps(np.diff(path, axis=0))))

        assert words[0] == pytest.approx(plain[0])
        assert np.all(np.abs(words[1:] - plain[1:]) > 0.01)


@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_level_k_scales_with_the_kth_power_where_time_is_stretched_too(factor):
    increments = np.random.default_rng(10).normal(size=WINDOW - 1)

    stretched = logarithm(signature(factor * increments[:16][::-1], duration=factor))

    powers = factor ** np.arange(1.0, 4.0)
    np.testing.assert_allclose(words_in(stretched), powers * words_of(16, increments), rtol=1e-9)


@pytest.mark.parametrize(("depth", "dimension"), [(2, 3), (3, 5), (4, 8), (5, 14)])
def test_log_signatures_span_one_dimension_for_every_lyndon_word(depth, dimension):
    random = np.random.default_rng(depth)
    paths = [random.normal(size=(6, 2)) for _ in range(2 * dimension)]

    logarithms = [logarithm(signature_of_steps(steps, depth)) for steps in paths]

    matrix = np.stack([np.concatenate([part.ravel() for part in each]) for each in logarithms])
    assert np.linalg.matrix_rank(matrix, tol=1e-8) == dimension == len(lyndon_words(depth))


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_rows_are_the_lyndon_words_in_which_the_value_stands_once(depth):
    linear = [word for word in lyndon_words(depth) if word.count(VALUE) == 1]

    levels = [level for length, level in rows_of(depth) if length == WINDOWS[-1]]

    assert levels == [len(word) for word in linear]


def test_another_order_of_the_same_steps_has_other_words_and_the_same_displacement():
    increments = np.random.default_rng(6).normal(size=WINDOW - 1)
    turned = increments.copy()
    turned[:16] = increments[:16][::-1]

    forwards, backwards = words_of(16, increments), words_of(16, turned)

    assert backwards[0] == pytest.approx(forwards[0])
    assert backwards[1] == pytest.approx(-forwards[1])


def test_products_of_integrals_are_sums_over_shuffles():
    _, first, second, third = signature(np.random.default_rng(7).normal(size=16))

    np.testing.assert_allclose(
        first[TIME] * first[VALUE], second[TIME, VALUE] + second[VALUE, TIME]
    )
    np.testing.assert_allclose(
        first[TIME] * second[TIME, VALUE],
        2.0 * third[TIME, TIME, VALUE] + third[TIME, VALUE, TIME],
    )


def test_words_are_linear_in_the_values():
    increments = np.random.default_rng(8).normal(size=WINDOW - 1)

    np.testing.assert_allclose(words_of(32, -3.0 * increments), -3.0 * words_of(32, increments))


def test_level_two_is_half_the_antisymmetric_part_of_the_signature():
    increments = np.random.default_rng(5).normal(size=16)
    plain = signature(increments)

    area = logarithm(plain)[2][TIME, VALUE]

    levy_area = 0.5 * (plain[2][TIME, VALUE] - plain[2][VALUE, TIME])
    np.testing.assert_allclose(area, levy_area, rtol=1e-12)


def test_straight_line_has_displacement_and_no_area():
    rows = rows_of(3)
    increments = np.full(WINDOW - 1, 0.5)

    words = {key: row @ increments for key, row in rows.items()}

    for (length, level), word in words.items():
        expected = 0.5 * np.sqrt(length) if level == 1 else 0.0
        assert word == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_words_of_one_window_are_orthonormal(depth):
    rows = rows_of(depth)

    for length in WINDOWS:
        block = np.stack([row for (window, _), row in rows.items() if window == length])
        np.testing.assert_allclose(block @ block.T, np.eye(len(block)), atol=1e-12)


def test_depth_counts_the_words():
    assert word_matrix(2).shape == (15, WINDOW - 1)
    assert word_matrix(3).shape == (21, WINDOW - 1)
    assert word_matrix(4).shape == (27, WINDOW - 1)
    assert word_matrix(5).shape == (32, WINDOW - 1)


@pytest.mark.parametrize("length", WINDOWS[3:])
def test_rows_of_a_window_span_the_words_in_which_the_value_stands_once(length):
    rows = np.stack([row for (window, _), row in rows_of(5).items() if window == length])
    # What each increment adds to a word; quadratic and higher terms leave with the scale.
    small = 1e-6 * np.eye(length)[:, ::-1]
    words = (
        np.stack(
            [
                [
                    logarithm(signature(step, depth=5))[n][(TIME,) * (n - 1) + (VALUE,)]
                    for n in range(1, 6)
                ]
                for step in small
            ]
        ).T
        / 1e-6
    )

    outside = words - words @ rows[:, :length].T @ rows[:, :length]

    assert np.abs(outside).max() < 1e-5 * np.abs(words).max()
    assert np.linalg.matrix_rank(words, tol=1e-6) == 5


# -- the log-signature of the step -----------------------------------------------------------------


def test_words_of_all_windows_are_those_of_the_tensor_algebra():
    increments = np.random.default_rng(11).normal(size=WINDOW - 1)
    words = lyndon_words(5)

    found = log_signature.log_signature_words(increments, words, QUADRATIC_WINDOWS)

    for row, length in zip(np.asarray(found), QUADRATIC_WINDOWS, strict=True):
        expected = logarithm(signature(increments[:length][::-1], depth=5))
        np.testing.assert_allclose(
            row, [expected[len(word)][word] for word in words], rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("word", lyndon_words(5))
def test_coordinates_are_linear_functionals_of_the_signature(word: Word):
    path = signature(np.random.default_rng(12).normal(size=9), depth=5)

    functional = log_signature.coordinate_functional(word)

    total = sum(weight * path[len(each)][each] for each, weight in functional.items())
    assert total == pytest.approx(logarithm(path)[len(word)][word], rel=1e-9)


def test_size_of_a_word_is_what_brownian_paths_show():
    sizes = {word: log_signature.brownian_size(word) for word in lyndon_words(4)}
    rng, paths, steps = np.random.default_rng(13), 4000, 64
    # All paths at once: a last axis of two letters, as the segments have it.
    increments = rng.normal(size=(steps, paths)) / np.sqrt(steps)

    element = log_signature.standing_still(4)
    for step in increments:
        segment = np.stack([np.full(paths, 1.0 / steps), step], axis=1)
        element = log_signature.before(segment, element)
    logarithms = log_signature.logarithm(element)

    assert sizes[VALUE,] == pytest.approx(1.0)
    assert sizes[TIME, VALUE] == pytest.approx(np.sqrt(1.0 / 12.0))  # of the area
    for word, size in sizes.items():
        shown = np.sqrt(np.mean(np.square(log_signature.coordinate(logarithms, word))))
        assert shown == pytest.approx(size, rel=0.06), word


@pytest.mark.parametrize(
    ("depth", "letters"), [(4, "ttyy tyyy"), (5, "ttyy tyyy tttyy ttyty ttyyy tytyy tyyyy")]
)
def test_words_above_level_three_in_which_the_value_stands_more_than_once(depth, letters):
    assert [
        "".join("ty"[letter] for letter in word) for word in deep_words(depth)
    ] == letters.split()
