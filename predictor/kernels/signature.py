"""signature: regression on words of the signature of the time-augmented path.

Over each dyadic window of L increments the path (t, y), t ∈ [0, 1], has the level-1 word
S(y), its displacement; the level-2 log-signature word, the Lévy area between time and
value; and the level-3 words [t, [t, y]], the second Legendre moment of the increments, and
[[t, y], y]. All but the last are linear in the increments, hence one matrix product, and
orthogonal for independent increments, so a short history is enough to tell them apart: they
are one regression. The last is quadratic, says whether the path bends up or down as it moves,
and has a member of its own over the shorter windows.

At depths 4 and 5 the linear words go on as Legendre moments, and the others of these levels, two
and five of them, make another member over the shorter windows.

One member more regresses on the displacements over the shortest windows alone and forgets
within some fifty ticks: in an emergency of regularity this kernel forecasts by itself, and
the law that held before is gone.

Wins on long memory, trends and slow waves, where dyadic windows see what few lags cannot.

**Source:** Levin, Lyons, Ni (2013), *Learning from the past, predicting the statistics for
the future, learning an evolving system*; Chevyrev, Kormilitzin (2016), *A primer on the
signature method in machine learning*.
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from predictor.config import WINDOW, PredictorConfig
from predictor.kernels.bank import Member, bank_kernel
from predictor.kernels.base import Kernel, KernelForecast, KernelTick
from predictor.kernels.regression import Memory, linear_member, nonlinear_member
from predictor.log_signature import VALUE, Word, brownian_size, log_signature_words, lyndon_words
from predictor.types import Array, Scalar

WINDOWS = (1, 2, 4, 8, 16, 32, 64, 127)

QUADRATIC_WINDOWS = (2, 4, 8, 16, 32)

QUADRATIC_LIMIT = 4.0
"""Increments beyond so many typical ones count as this many in a quadratic word."""

RECENT_WINDOWS = 4
"""Windows, from the shortest, whose displacements the short memory regresses on."""

RECENT_MEMORY = 0.98
"""Discount per tick of the short memory."""


def word_matrix(depth: int, windows: tuple[int, ...] = WINDOWS) -> np.ndarray:
    """Rows that map increments, newest first `[WINDOW - 1]`, to words of unit variance.

    A row of level k needs a window of at least k increments. Row order: window by window,
    level by level.
    """
    rows = []
    for length in windows:
        for word in _legendre(length, min(depth, length)):
            row = np.zeros(WINDOW - 1)
            row[:length] = word / np.linalg.norm(word)
            rows.append(row)
    return np.stack(rows)


def _legendre(length: int, count: int) -> list[np.ndarray]:
    """The first `count` orthogonal polynomials `[length]` over the middles of the increments."""
    time = (np.arange(length) + 0.5) / length - 0.5
    words: list[np.ndarray] = []
    for degree in range(count):
        power = time**degree
        # An odd polynomial has nothing of the even ones.
        for word in words[degree % 2 :: 2]:
            power = power - word * (np.mean(word * power) / np.mean(word * word))
        words.append(power)
    return words


def quadratic_word(length: int) -> np.ndarray:
    """The matrix `[length, length]` M, symmetric, of the word [[t, y], y] = δᵀ M δ of a window of
    increments δ, newest first: the log-signature's coordinate at the Lyndon word t y y.

    With iterated integrals S it is S(t,y,y) − S(t,y) S(y) / 2 + S(y)² / 12, on a path of linear
    pieces.
    """
    begins = 1.0 - (np.arange(length) + 1.0) / length
    middles = begins + 0.5 / length
    # ∫∫ t dy dy: an older increment before a newer one, and each before itself.
    ordered = np.triu(np.broadcast_to(middles, (length, length)), 1)
    integral = ordered + np.diag(0.5 * begins + 1.0 / (6.0 * length))
    product = np.broadcast_to(middles, (length, length))
    form = integral - 0.5 * product + 1.0 / 12.0
    return np.asarray(0.5 * (form + form.T))


def _quadratic_rows() -> tuple[np.ndarray, np.ndarray]:
    """All forms under each other `[62, 32]`, of unit variance for independent increments, and
    which rows belong to which word `[5, 62]`."""
    longest = max(QUADRATIC_WINDOWS)
    forms, owners = [], []
    for number, length in enumerate(QUADRATIC_WINDOWS):
        form = quadratic_word(length)
        padded = np.zeros((length, longest))
        padded[:, :length] = form / (np.sqrt(2.0) * np.linalg.norm(form))
        forms.append(padded)
        owners.append(np.full(length, number))
    owner = np.concatenate(owners)
    return np.concatenate(forms), (owner == np.arange(len(forms))[:, None]).astype(float)


_RECENT_MATRIX = word_matrix(1, WINDOWS[:RECENT_WINDOWS])
_DISPLACEMENTS = word_matrix(1, QUADRATIC_WINDOWS)
_QUADRATIC = _quadratic_rows()


def _member(name: str, matrix: np.ndarray, memory: Memory) -> Member:
    """Regression on a constant, the level and the words of `matrix`."""
    size = 2 + matrix.shape[0]

    def features(tick: KernelTick) -> Array:
        words = jnp.asarray(matrix) @ tick.increments
        spare = tick.increments[2 : 2 + size % 2]
        return jnp.concatenate([jnp.stack([jnp.ones(()), tick.levels[0]]), words, spare])

    return linear_member(name, features, np.ones(size + size % 2), memory)


def _bounded(tick: KernelTick) -> Array:
    return jnp.clip(tick.increments, -QUADRATIC_LIMIT, QUADRATIC_LIMIT)


def _linear_features(tick: KernelTick) -> tuple[Array, Array]:
    """A constant and the level `[2]`, and the displacements over five windows `[5]`, beside which
    the non-linear words stand."""
    level = jnp.stack([jnp.ones(()), tick.levels[0]])
    return level, jnp.asarray(_DISPLACEMENTS) @ tick.increments


def _quadratic_features(tick: KernelTick) -> Array:
    """`[12]`: a constant, the level, displacements and quadratic words of five windows."""
    rows, owners = _QUADRATIC
    bounded = _bounded(tick)
    images = jnp.asarray(rows) @ bounded[: rows.shape[1]]
    factors = jnp.concatenate([bounded[:length] for length in QUADRATIC_WINDOWS])
    words = jnp.asarray(owners) @ (factors * images)
    return jnp.concatenate([*_linear_features(tick), words])


def deep_words(depth: int) -> list[Word]:
    """Words of levels 4 to `depth` in which the value stands more than once."""
    return [word for word in lyndon_words(depth) if len(word) > 3 and word.count(VALUE) > 1]


def _deep_member(depth: int, memory: Memory) -> Member:
    """Regression on a constant, the level, displacements and the words of levels above 3."""
    words = deep_words(depth)
    sizes = np.array(
        [
            [brownian_size(word) * np.sqrt(length) ** word.count(VALUE) for word in words]
            for length in QUADRATIC_WINDOWS
        ]
    )

    def features(tick: KernelTick) -> Array:
        values = log_signature_words(_bounded(tick), words, QUADRATIC_WINDOWS) / sizes
        return jnp.concatenate([*_linear_features(tick), values.reshape(-1)])

    size = 2 + len(_DISPLACEMENTS) + sizes.size
    return nonlinear_member("deep_words", features, np.ones(size), memory)


@functools.cache
def _kernel(depth: int) -> Kernel:
    def memory(config: PredictorConfig) -> Scalar:
        return config.signature.signature_memory

    members = [
        _member("words", word_matrix(depth), memory),
        _member("recent", _RECENT_MATRIX, lambda config: RECENT_MEMORY),
    ]
    if depth >= 3:
        size = 2 + 2 * len(QUADRATIC_WINDOWS)
        members.append(
            nonlinear_member("quadratic_words", _quadratic_features, np.ones(size), memory)
        )
    if depth > 3:
        members.append(_deep_member(depth, memory))
    return bank_kernel("signature", members)


def init(config: PredictorConfig) -> Any:
    """The state for the configured depth."""
    return _kernel(config.signature.signature_depth).init(config)


def step(config: PredictorConfig, state: Any, tick: KernelTick) -> tuple[Any, KernelForecast]:
    """One tick at the configured depth."""
    return _kernel(config.signature.signature_depth).step(config, state, tick)


KERNEL = Kernel("signature", init, step)
