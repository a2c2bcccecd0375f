"""signature: regression on words of the signature of the time-augmented path.

Over each dyadic window of L increments the path (t, y), t ∈ [0, 1], has the level-1 word
S(y), its displacement; the level-2 log-signature word, the Lévy area between time and
value; and the level-3 word [t, [t, y]], the second Legendre moment of the increments. All
three are linear in the increments, hence one matrix product. They are orthogonal for
independent increments, so a short history is enough to tell them apart.

A second member regresses on the displacements over the shortest windows alone and forgets
within some fifty ticks: in an emergency of regularity this kernel forecasts by itself, and
the law that held before is gone.

Wins on long memory, trends and slow waves, where dyadic windows see what few lags cannot.

**Source:** Levin, Lyons, Ni (2013), *Learning from the past, predicting the statistics for
the future, learning an evolving system*; Chevyrev, Kormilitzin (2016), *A primer on the
signature method in machine learning*.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from predictor.config import WINDOW, PredictorConfig
from predictor.kernels.bank import Member, bank_kernel
from predictor.kernels.base import Kernel, KernelForecast, KernelTick
from predictor.kernels.regression import Memory, linear_member
from predictor.types import Array

WINDOWS = (1, 2, 4, 8, 16, 32, 64, 127)

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
        time = (np.arange(length) + 0.5) / length - 0.5
        words = [np.ones(length), time, time**2 - np.mean(time**2)]
        for level, word in enumerate(words[:depth], start=1):
            if length < level:
                continue
            row = np.zeros(WINDOW - 1)
            row[:length] = word / np.linalg.norm(word)
            rows.append(row)
    return np.stack(rows)


_MATRICES = {depth: word_matrix(depth) for depth in (2, 3)}
_RECENT_MATRIX = word_matrix(1, WINDOWS[:RECENT_WINDOWS])


def _member(name: str, matrix: np.ndarray, memory: Memory) -> Member:
    """Regression on a constant, the level and the words of `matrix`."""
    size = 2 + matrix.shape[0]

    def features(tick: KernelTick) -> Array:
        words = jnp.asarray(matrix) @ tick.increments
        spare = tick.increments[2 : 2 + size % 2]
        return jnp.concatenate([jnp.stack([jnp.ones(()), tick.levels[0]]), words, spare])

    return linear_member(name, features, np.ones(size + size % 2), memory)


def _kernel(depth: int) -> Kernel:
    words = _member("words", _MATRICES[depth], lambda config: config.signature.signature_memory)
    recent = _member("recent", _RECENT_MATRIX, lambda config: RECENT_MEMORY)
    return bank_kernel("signature", (words, recent))


_KERNELS = {depth: _kernel(depth) for depth in _MATRICES}


def init(config: PredictorConfig) -> Any:
    """The state for the configured depth."""
    return _KERNELS[config.signature.signature_depth].init(config)


def step(config: PredictorConfig, state: Any, tick: KernelTick) -> tuple[Any, KernelForecast]:
    """One tick at the configured depth."""
    return _KERNELS[config.signature.signature_depth].step(config, state, tick)


KERNEL = Kernel("signature", init, step)
