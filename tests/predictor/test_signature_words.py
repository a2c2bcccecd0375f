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


def signature(increments: np.ndarray) -> list[np.ndarray]:
    """Iterated integrals of the path (t, y) with these steps of y, oldest first, on [0, 1]."""
    total = [np.ones(()), np.zeros(2), np.zeros((2, 2)), np.zeros((2, 2, 2))]
    for step in increments:
        v = np.array([1.0 / len(increments), step])
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


@pytest.mark.parametrize("length", WINDOWS[2:])
def test_words_are_the_log_signature_of_the_time_augmented_path(length):
    increments = np.random.default_rng(length).normal(size=WINDOW - 1)
    oldest_first = increments[:length][::-1]
    log_signature = logarithm(signature(oldest_first))
    rows = rows_of(3)

    values = [rows[length, level] @ increments for level in (1, 2, 3)]

    # Rows are scaled to unit norm; the weights below are those of the words before scaling.
    centred = (np.arange(length) + 0.5) / length - 0.5
    curvature = centred**2 - np.mean(centred**2)
    displacement = log_signature[1][VALUE]
    area = log_signature[2][TIME, VALUE]
    triple = log_signature[3][TIME, TIME, VALUE]
    np.testing.assert_allclose(values[0] * np.sqrt(length), displacement, rtol=1e-10)
    # The rows read the past from its newest end, which turns the sign of the area.
    np.testing.assert_allclose(values[1] * np.linalg.norm(centred), -area, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(
        values[2] * np.linalg.norm(curvature), 2.0 * triple, rtol=1e-7, atol=1e-12
    )


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
