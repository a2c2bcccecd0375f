"""signature: regression on words of the signature of the time-augmented path.

Over each dyadic window of L increments the path (t, y), t ∈ [0, 1], has the level-1 word
S(y), its displacement; the level-2 log-signature word, the Lévy area between time and
value; and the level-3 word [t, [t, y]], the second Legendre moment of the increments. All
three are linear in the increments, hence one matrix product. They are orthogonal for
independent increments, so a short history is enough to tell them apart.

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
from predictor.kernels.bank import bank_kernel
from predictor.kernels.base import Kernel, KernelForecast, KernelTick
from predictor.kernels.regression import linear_member
from predictor.types import Array

WINDOWS = (1, 2, 4, 8, 16, 32, 64, 127)


def word_matrix(depth: int) -> np.ndarray:
    """Rows that map increments, newest first `[WINDOW - 1]`, to words of unit variance.

    A row of level k needs a window of at least k increments. Row order: window by window,
    level by level.
    """
    rows = []
    for length in WINDOWS:
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


def _kernel(depth: int) -> Kernel:
    matrix = _MATRICES[depth]
    size = 2 + matrix.shape[0]

    def features(tick: KernelTick) -> Array:
        words = jnp.asarray(matrix) @ tick.increments
        spare = tick.increments[2 : 2 + size % 2]
        return jnp.concatenate([jnp.stack([jnp.ones(()), tick.levels[0]]), words, spare])

    precision = np.ones(size + size % 2)
    return bank_kernel(
        "signature",
        (
            linear_member(
                "words", features, precision, lambda config: config.signature.signature_memory
            ),
        ),
    )


_KERNELS = {depth: _kernel(depth) for depth in _MATRICES}


def init(config: PredictorConfig) -> Any:
    """The state for the configured depth."""
    return _KERNELS[config.signature.signature_depth].init(config)


def step(config: PredictorConfig, state: Any, tick: KernelTick) -> tuple[Any, KernelForecast]:
    """One tick at the configured depth."""
    return _KERNELS[config.signature.signature_depth].step(config, state, tick)


KERNEL = Kernel("signature", init, step)
