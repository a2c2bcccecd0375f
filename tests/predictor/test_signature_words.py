"""Words of the signature kernel against iterated integrals from the tensor algebra."""

from __future__ import annotations

import numpy as np
import pytest

from predictor.config import WINDOW
from predictor.kernels.signature import WINDOWS, word_matrix

TIME, VALUE = 0, 1


def chen_product(a: list[np.ndarray], b: list[np.ndarray]) -> list[np.ndarray]:
    """Product of two elements of the tensor algebra over the plane, cut at level three."""
    return [
        sum(np.multiply.outer(a[i], b[level - i]) for i in range(level + 1)) for level in range(4)
    ]


def signature(increments: np.ndarray, duration: float = 1.0) -> list[np.ndarray]:
    """Iterated integrals on [0, duration] of the path (t, y) with these steps, oldest first."""
    total = [np.ones(()), np.zeros(2), np.zeros((2, 2)), np.zeros((2, 2, 2))]
    for step in increments:
        v = np.array([duration / len(increments), step])
        square = np.multiply.outer(v, v)
        cube = np.multiply.outer(square, v)
        total = chen_product(total, [np.ones(()), v, square / 2.0, cube / 6.0])
    return total


def logarithm(element: list[np.ndarray]) -> list[np.ndarray]:
    """ln(1 + x) = x - x²/2 + x³/3 in the cut tensor algebra."""
    x = [np.zeros(()), *element[1:]]
    square = chen_product(x, x)
    cube = chen_product(square, x)
    return [a - b / 2.0 + c / 3.0 for a, b, c in zip(x, square, cube, strict=True)]


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


@pytest.mark.parametrize("depth", [2, 3])
def test_words_of_one_window_are_orthonormal(depth):
    rows = rows_of(depth)

    for length in WINDOWS:
        block = np.stack([row for (window, _), row in rows.items() if window == length])
        np.testing.assert_allclose(block @ block.T, np.eye(len(block)), atol=1e-12)


def test_depth_counts_the_words():
    assert word_matrix(2).shape == (15, WINDOW - 1)
    assert word_matrix(3).shape == (21, WINDOW - 1)
