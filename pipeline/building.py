"""A program built in a process of its own, `python -m pipeline.building`.

What the compiler leaves behind, over a gigabyte of scattered heap, stays with a process for good:
one that has compiled the step takes a quarter longer for each tick than one that has loaded it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import jax

from predictor.config import PredictorConfig

ABANDONED = 1
"""Exit code of a builder whose order was not waited for."""

_SETTINGS = ("jax_platforms", "jax_enable_x64", "jax_compilation_cache_dir")


class _Order(NamedTuple):
    settings: dict[str, object]
    config: PredictorConfig
    slab_rows: int
    path: Path


def build_elsewhere(config: PredictorConfig, slab_rows: int, path: Path) -> None:
    """Leave the program at `path`, if that is possible at all, and the compiler's heap nowhere.

    The other process is deaf to the signals of the terminal, and ends with this one.
    """
    with subprocess.Popen(
        command(),
        # A builder that has ended breaks the pipe: unbuffered, closing it has nothing to flush.
        bufsize=0,
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as builder:
        assert builder.stdin is not None
        # The pipe stays open: its end is how the builder knows of the end of this process.
        with contextlib.suppress(BrokenPipeError):
            builder.stdin.write(order_of(config, slab_rows, path))
        builder.wait()


def command() -> list[str]:
    """How a builder is started; it takes an order from its standard input."""
    return [sys.executable, "-P", "-m", "pipeline.building"]


def order_of(config: PredictorConfig, slab_rows: int, path: Path) -> bytes:
    """What a builder has to know, the settings of JAX in this process among it."""
    settings = {name: jax.config.values[name] for name in _SETTINGS}
    return pickle.dumps(_Order(settings, config, slab_rows, path))


def _end_with_the_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(ABANDONED)


def main() -> None:
    """Take an order from the standard input and carry it out."""
    order = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    for name, value in order.settings.items():
        jax.config.update(name, value)
    from pipeline import program

    program.build(order.config, order.slab_rows, order.path)


if __name__ == "__main__":
    main()
