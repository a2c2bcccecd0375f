"""The file of trained networks: layout, digest and the record of how good each one is.

`weights.npz` holds the layers of every member as float32, `weights.json` its SHA-256 and, per
member, the seed and the steps of the training and the residual on points it never saw.
"""

from __future__ import annotations

import hashlib
import io
import itertools
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from predictor.errors import IntegrityError
from predictor.kernels.markov.ansatz import FEATURES

ARRAYS, RECORD = "weights.npz", "weights.json"

Layers = tuple[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]], ...]
"""Kernels `[in, out]` and biases `[out]`, input to output."""


class Training(msgspec.Struct, frozen=True):
    """How a member was trained, and its residual |V_t + b V_x + ½ σ² V_xx| over the training
    range at coefficients and points that were held out."""

    width: int
    depth: int
    seed: int
    steps: int
    mean_square: float
    quantile_99: float
    maximum: float


class Record(msgspec.Struct, frozen=True):
    """What `weights.json` says: digest of the arrays, and the members in their order."""

    sha256: str
    members: tuple[Training, ...]


class Member(NamedTuple):
    """One trained network."""

    training: Training
    layers: Layers


def write(folder: Path, members: list[Member]) -> None:
    """Write both files; equal members give equal bytes."""
    arrays: dict[str, Any] = {}
    for index, member in enumerate(members):
        for layer, (kernel, bias) in enumerate(member.layers):
            arrays[f"{index}/{layer}/kernel"] = np.asarray(kernel, np.float32)
            arrays[f"{index}/{layer}/bias"] = np.asarray(bias, np.float32)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    content = buffer.getvalue()
    record = Record(hashlib.sha256(content).hexdigest(), tuple(m.training for m in members))
    (folder / ARRAYS).write_bytes(content)
    text = msgspec.json.format(msgspec.json.encode(record), indent=2)
    (folder / RECORD).write_bytes(text + b"\n")


def read(folder: Traversable) -> tuple[Member, ...]:
    """The members of both files.

    **Raises:** `IntegrityError` where a file is missing, the arrays are not those of the
    record, or a layer is missing or of another shape.
    """
    try:
        content = (folder / ARRAYS).read_bytes()
        record = msgspec.json.decode((folder / RECORD).read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError) as error:
        raise IntegrityError(f"the networks of the markov kernel cannot be read: {error}") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != record.sha256:
        raise IntegrityError(
            f"{ARRAYS} of the markov kernel has SHA-256 {digest}, but {RECORD} was written for "
            f"{record.sha256}: restore both files or train again"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return tuple(
            Member(training, _layers(arrays, index, training))
            for index, training in enumerate(record.members)
        )


def _layers(arrays: Any, index: int, training: Training) -> Layers:
    try:
        layers = tuple(
            (arrays[f"{index}/{layer}/kernel"], arrays[f"{index}/{layer}/bias"])
            for layer in range(training.depth + 1)
        )
    except KeyError as error:
        raise IntegrityError(f"{ARRAYS} of the markov kernel lacks {error}") from None
    sizes = [FEATURES] + [training.width] * training.depth + [1]
    expected = list(itertools.pairwise(sizes))
    if [kernel.shape for kernel, _ in layers] != expected:
        raise IntegrityError(
            f"{ARRAYS} of the markov kernel: layers of member {index} are not "
            f"those of a network {training.width} x {training.depth}"
        )
    return layers
