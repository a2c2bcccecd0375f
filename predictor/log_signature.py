"""Log-signatures of the time-augmented path over windows that end now.

An element of the tensor algebra over the plane, cut at a depth, is a list of its levels: level k
holds `[..., 2ᵏ]` numbers, the words in letters t and y in lexicographic order.

**Source:** Chen (1957), *Integration of paths, geometric invariants and a generalized
Baker-Hausdorff formula*; Reutenauer (1993), *Free Lie algebras*, chapters 1, 3 and 5; Fawcett
(2003), *Problems in stochastic analysis*, for the expected signature of Brownian motion.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Sequence
from math import factorial, sqrt
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from predictor.types import Array

TIME, VALUE = 0, 1

Word = tuple[int, ...]
Element = list[Any]
Functional = dict[Word, float]
"""Weights of words."""


def lyndon_words(depth: int) -> list[Word]:
    """Words of at most `depth` letters that come before each of their proper suffixes: as many
    as the log-signature has dimensions."""
    return [
        word
        for length in range(1, depth + 1)
        for word in itertools.product((TIME, VALUE), repeat=length)
        if all(word < word[cut:] for cut in range(1, length))
    ]


def coordinate(element: Element, word: Word) -> Any:
    """The coefficient of a word."""
    place = 0
    for letter in word:
        place = 2 * place + letter
    return element[len(word)][..., place]


def _product(a: Any, b: Any) -> Any:
    outer = a[..., :, None] * b[..., None, :]
    return outer.reshape(*outer.shape[:-2], -1)


def before(segment: Any, signature: Element) -> Element:
    """The signature of a straight `segment` `[..., 2]` and then the path of `signature`: Chen's
    identity with the exponential of the segment, by Horner's rule."""
    levels = []
    for level in range(len(signature)):
        total = signature[0]
        for order in range(level, 0, -1):
            total = signature[level - order + 1] + _product(segment / order, total)
        levels.append(total)
    return levels


def logarithm(signature: Element) -> Element:
    """ln(1 + x) = x − x²/2 + x³/3 − …, where every power begins a level higher."""
    depth = len(signature) - 1
    power, total = list(signature), [0.0 * signature[0], *signature[1:]]
    for order in range(2, depth + 1):
        power = [
            sum(
                (_product(power[k], signature[level - k]) for k in range(order - 1, level)),
                start=0.0 * signature[level],
            )
            for level in range(depth + 1)
        ]
        sign = -1.0 if order % 2 == 0 else 1.0
        total = [a + sign / order * b for a, b in zip(total, power, strict=True)]
    return total


def standing_still(depth: int) -> Element:
    """The signature of a path that has not moved."""
    return [np.ones(1), *(np.zeros(2**level) for level in range(1, depth + 1))]


def log_signature_words(increments: Array, words: Sequence[Word], windows: Sequence[int]) -> Array:
    """Coordinates `[windows, words]` of the path (t, y) over each of the `windows`, newest first
    `[n]`, with t running over [0, 1] in every one of them.

    One pass over the increments: each puts a segment before what is already there.
    """
    depth = max(map(len, words))

    def longer(signature: Element, increment: Array) -> tuple[Element, Element]:
        grown = before(jnp.stack([jnp.ones(()), increment]), signature)
        return grown, grown

    longest = max(windows)
    _, all_windows = lax.scan(longer, standing_still(depth), increments[:longest])
    places = np.asarray(windows) - 1
    logarithms = logarithm([level[places] for level in all_windows])
    columns = [
        coordinate(logarithms, word) / np.asarray(windows, float) ** word.count(TIME)
        for word in words
    ]
    return jnp.stack(columns, axis=-1)


# -- the size of a word over Brownian motion -------------------------------------------------------


@functools.cache
def _shuffles(a: Word, b: Word) -> Counter[Word]:
    """The words that keep the order of the letters of both, with their multiplicity."""
    if not a or not b:
        return Counter({a + b: 1})
    total: Counter[Word] = Counter()
    for head, rest in ((a[0], (a[1:], b)), (b[0], (a, b[1:]))):
        for word, times in _shuffles(*rest).items():
            total[head, *word] += times
    return total


def _shuffled(a: Functional, b: Functional) -> Functional:
    total: Functional = {}
    for (u, p), (v, q) in itertools.product(a.items(), b.items()):
        for word, times in _shuffles(u, v).items():
            total[word] = total.get(word, 0.0) + p * q * times
    return total


def coordinate_functional(word: Word) -> Functional:
    """The coordinate of the logarithm at a word as a linear functional of the signature, of which
    products are sums over shuffles."""
    total: Functional = {}
    for parts in range(1, len(word) + 1):
        for cuts in itertools.combinations(range(1, len(word)), parts - 1):
            pieces = [word[i:j] for i, j in itertools.pairwise((0, *cuts, len(word)))]
            product: Functional = {(): (-1.0) ** (parts - 1) / parts}
            for piece in pieces:
                product = _shuffled(product, {piece: 1.0})
            for each, weight in product.items():
                total[each] = total.get(each, 0.0) + weight
    return total


def _expected(word: Word) -> float:
    """The mean of an iterated integral of (t, Brownian motion) over [0, 1]: exp(t + yy / 2)."""
    blocks, place, mean = 0, 0, 1.0
    while place < len(word):
        if word[place] == TIME:
            place += 1
        elif word[place : place + 2] == (VALUE, VALUE):
            place, mean = place + 2, 0.5 * mean
        else:
            return 0.0
        blocks += 1
    return mean / factorial(blocks)


@functools.cache
def brownian_size(word: Word) -> float:
    """Root mean square of a coordinate where the path is (t, Brownian motion) on [0, 1]."""
    functional = coordinate_functional(word)
    square = _shuffled(functional, functional)
    return sqrt(sum(weight * _expected(each) for each, weight in square.items()))
