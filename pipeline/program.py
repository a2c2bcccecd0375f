"""The compiled step over a slab, kept on disk as a whole.

JAX's own cache spares a restart the compiler, not the trace: Python would build the step anew
each time to find that its program is there already. What tracing tells — the width of a row,
the layout of the results, a fresh row — is stored here beside the program, so that a start
loads both and does not even import the kernels.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from pipeline.building import build_elsewhere
from predictor.blocks import Columns, empty_block
from predictor.config import PredictorConfig, Tunables, canonical_json, structure, tunables
from predictor.types import LaneTick

Host = np.ndarray[Any, Any]
SPARE_ROW = 0
"""Row of each slab that belongs to no asset; it fills the lanes of an incomplete tile."""

KEPT_SECONDS = 30 * 24 * 3600.0
"""Programs that nobody has loaded for longer make room: every change of source or version leaves
one behind, of some megabytes."""

_FOLDER = "programs"
_SOURCES = ("*.py", "*.npz", "*.json")


class Facts(NamedTuple):
    """What the trace of the step tells about its rows and results.

    `fingerprint`: version and layout of the rows; rows of another one are not loaded.
    `fresh_row`: uint64 `[width]`. `identity_word`: where a row says which asset it belongs to.
    """

    fingerprint: str
    fresh_row: Host
    identity_word: int
    columns: Columns


class Program(NamedTuple):
    """`advance(values, slab, rows_at, ticks, rounds)` gives the slab with up to a tile of rows
    stepped, those rows as they were, and a table of results `[ROUNDS, tile, width]`. The
    slab that goes in is used up."""

    facts: Facts
    advance: Callable[[Tunables, Any, Host, LaneTick, Any], tuple[Any, Any, Any]]


def obtain(config: PredictorConfig, slab_rows: int) -> Program:
    """The program from the folder of JAX's cache, or built and left there for the next start.

    Tunables are arguments of the program: it is the same for all of them.

    Without such a folder it is built each time.
    """
    folder = jax.config.values["jax_compilation_cache_dir"]
    if folder is None:
        return _build(config, slab_rows)[0]
    path = Path(folder) / _FOLDER / f"{_key(config, slab_rows)}.pickle"
    loaded = _load(path)
    if loaded is None and jax.default_backend() == "cpu":
        build_elsewhere(config, slab_rows, path)
        loaded = _load(path)
    # What kept the other process from building it is said, or overcome, here.
    return loaded or build(config, slab_rows, path)


def build(config: PredictorConfig, slab_rows: int, path: Path) -> Program:
    """The program built in this process, and left at `path`."""
    program, serialised = _build(config, slab_rows)
    _store(path, pickle.dumps((program.facts, serialised)))
    return program


# -- disk ------------------------------------------------------------------------------------------


def _key(config: PredictorConfig, slab_rows: int) -> str:
    """Hash of everything that the program follows from."""
    parts = hashlib.sha256()
    for part in _origins(config, slab_rows):
        parts.update(len(part).to_bytes(8, "big"))
        parts.update(part)
    return parts.hexdigest()


def _origins(config: PredictorConfig, slab_rows: int) -> Iterator[bytes]:
    device = jax.devices()[0]
    yield f"{device.device_kind}:{device.client.platform_version}".encode()
    for package in ("jax", "jaxlib", "diffrax", "flax", "numpy"):
        yield importlib.metadata.version(package).encode()
    for name in sorted(name for name in os.environ if name.startswith(("XLA_", "JAX_", "PJRT_"))):
        yield f"{name}={os.environ[name]}".encode()
    precision = jax.dtypes.canonicalize_dtype(np.float64)
    yield f"{precision}:{slab_rows}:{canonical_json(structure(config))}".encode()
    package_folder = Path(__file__).parent.parent / "predictor"
    sources = {path for pattern in _SOURCES for path in package_folder.rglob(pattern)}
    for path in [Path(__file__), *sorted(sources)]:
        yield path.name.encode()
        yield path.read_bytes()


def _load(path: Path) -> Program | None:
    """None where there is no such file, or none that this process can use."""
    try:
        facts, serialised = pickle.loads(path.read_bytes())
        program = Program(facts, serialize_executable.deserialize_and_load(*serialised))
        os.utime(path)
        return program
    except Exception:
        # Whatever an absent, torn or foreign file raises: the program is built and takes its place.
        return None


def _store(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    os.replace(name, path)
    _make_room(path)


def _make_room(newest: Path) -> None:
    written = newest.stat().st_mtime
    for other in newest.parent.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process tidies up as well
            if written - other.stat().st_mtime > KEPT_SECONDS:
                other.unlink()


# -- building --------------------------------------------------------------------------------------


def _build(config: PredictorConfig, slab_rows: int) -> tuple[Program, Any]:
    """The program, and the same as something that can be pickled."""
    # The kernels bring solvers and networks that a start from disk does without.
    from predictor.packing import Layout, layout_of, pack, unpack
    from predictor.state import STATE_VERSION, LaneState, init_lane
    from predictor.tile import advance_tile, tile_of

    config = structure(config)
    tile = tile_of(config)
    layout: Layout = layout_of(jax.eval_shape(lambda: init_lane(config)))

    def fresh() -> Any:
        return pack(layout, jax.tree.map(lambda leaf: leaf[None], init_lane(config)))

    def advance(
        values: Tunables, slab: Any, rows_at: Any, ticks: LaneTick, rounds: Any
    ) -> tuple[Any, Any, Any]:
        rows = slab.at[rows_at].get(mode="promise_in_bounds")
        before: LaneState = unpack(layout, rows)
        states, table = advance_tile(tile, values, before, ticks, rounds)
        slab = slab.at[rows_at].set(pack(layout, states), mode="promise_in_bounds")
        return slab, rows, table

    # One program instead of one per leaf.
    fresh_row = np.asarray(jax.jit(fresh)())[0]
    slab = jax.ShapeDtypeStruct((slab_rows, layout.width), np.uint64)
    rows_at = np.full(config.tile, SPARE_ROW, np.int32)
    lowered = jax.jit(advance, donate_argnums=1).lower(
        tunables(config), slab, rows_at, empty_block(config.tile), np.int32(0)
    )
    with _without_the_cache_of_jax():
        compiled = lowered.compile()
    facts = Facts(
        fingerprint=f"{STATE_VERSION}:{layout.fingerprint[:16]}",
        fresh_row=fresh_row,
        identity_word=next(leaf.start for leaf in layout.leaves if leaf.path == ".identity"),
        columns=tile.columns,
    )
    return Program(facts, compiled), serialize_executable.serialize(compiled)


@contextlib.contextmanager
def _without_the_cache_of_jax() -> Iterator[None]:
    """A program that JAX loads from its cache is short of functions when it is serialised again;
    one that was just compiled is whole."""
    enabled = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()
