"""One series, its state inside: the predictor for a notebook or a single feed.

This module is the library's one edge: here and nowhere else `predictor` touches files and
raises warnings. What it computes is `FunctionalPredictor` with one lane, to the last bit.
"""

from __future__ import annotations

import functools
import hashlib
import os
import secrets
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import msgpack
import msgspec
import numpy as np

from predictor import transport
from predictor.config import (
    WARM_UP_TICKS,
    WINDOW,
    PredictorConfig,
    config_hash,
    structure,
)
from predictor.errors import DomainError, FrequencyWarning, IntegrityError, StalenessWarning
from predictor.functional import FunctionalPredictor
from predictor.packing import Layout, layout_of, pack, unpack
from predictor.state import STATE_VERSION, LaneState, init_lane
from predictor.types import Events, Observation, PredictionResult

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

GRID_NS = 1_000_000
"""Spacing of the grid that stands in for missing times of a history: below every absolute
limit, so that no gate sees a gap."""

DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class ProcessState:
    """One tick.

    **Arguments:**

    - `magnitude`: y_t in the unit of the series. NaN and infinities are legal and answered
      by the domain gate.
    - `timestamp_ns`: event time, integer nanoseconds since the Unix epoch, UTC; or
      `timestamp_utc`, an aware datetime, instead.
    - `now_ns`: clock of the gates; `None` means the timestamp.
    - `dispersion_proxy`: exogenous hint at the scale, such as a spread.
    - `state_tag`: free label, not read.
    - `reference`: what the forecast is scored against where that is not `magnitude`.

    **Failure:** `DomainError` naming the field, for what is no number, no integer, out of the
    range of 64 bits, or a datetime without zone.
    """

    magnitude: float
    timestamp_ns: int | None = None
    now_ns: int | None = None
    dispersion_proxy: float | None = None
    state_tag: str | None = None
    reference: float | None = None
    timestamp_utc: datetime | None = None

    def __post_init__(self) -> None:
        if (self.timestamp_ns is None) == (self.timestamp_utc is None):
            raise DomainError("timestamp_ns: give either it or timestamp_utc")
        if self.timestamp_utc is not None:
            stamp = _nanoseconds_of("timestamp_utc", self.timestamp_utc)
        else:
            stamp = _integer("timestamp_ns", self.timestamp_ns)
        object.__setattr__(self, "timestamp_ns", stamp)
        object.__setattr__(self, "magnitude", _number("magnitude", self.magnitude))
        if self.now_ns is not None:
            object.__setattr__(self, "now_ns", _integer("now_ns", self.now_ns))
        for name in ("dispersion_proxy", "reference"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _number(name, getattr(self, name)))


class _Snapshot(msgspec.Struct, frozen=True):
    """What a file holds before its digest.

    `layout` is the fingerprint of the row, `structure` that of the structural configuration;
    `environment` says whose bits these are; `dated` whether the state has seen real times.
    """

    version: int
    layout: str
    structure: str
    environment: str
    dated: bool
    row: bytes


class UniversalPredictor:
    """`fit_history`, `step` and snapshots for one series.

    >>> predictor = UniversalPredictor()
    >>> first = predictor.step(ProcessState(1.5, timestamp_ns=0))
    >>> float(first.reference_prediction), int(first.sequence)
    (1.5, 1)
    """

    def __init__(self, config: PredictorConfig | None = None) -> None:
        self.config = config or PredictorConfig()
        self._functional = FunctionalPredictor(self.config)
        self._packing = _packing(structure(self.config))
        self._state: LaneState = self._functional.init_states(1)
        self._dated = True
        self._history_skill: float | None = None
        self._writer: ThreadPoolExecutor | None = None

    def fit_history(
        self, history: Sequence[float], timestamps_ns: Sequence[int] | None = None
    ) -> bool:
        """Start afresh and fold in a history, oldest first.

        Without `timestamps_ns` the values are taken as regular and teach no cadence: the
        interval of the feed is then learned from the ticks that follow.

        **Returns:** whether the transport between the last weightings, run to rest, converged and
        the CUSUM is quiet at the end; `history_skill` says how well the history was forecast.

        **Failure:** `ValueError` for fewer than 128 samples or times of another length,
        `DomainError` for samples that are no numbers; the state is then untouched.
        """
        values = _column("history", history, "fiu", np.float64)
        if values.size < WINDOW:
            raise ValueError(f"history: {values.size} samples, at least {WINDOW} are needed")
        if timestamps_ns is None:
            times = GRID_NS * np.arange(values.size, dtype=np.int64)
        else:
            times = _column("timestamps_ns", timestamps_ns, "iu", np.int64)
            if times.size != values.size:
                raise ValueError(f"timestamps_ns: {times.size} for {values.size} samples")
        scan = self._functional.scan_batch
        states = self._functional.init_states(1)
        states, most = scan(states, Observation(values[:-1, None], times[:-1, None]))
        before = np.asarray(states.fusion.weights[0])
        self._state, end = scan(states, Observation(values[-1:, None], times[-1:, None]))
        self._dated = timestamps_ns is not None
        self._history_skill = _skill(values, np.asarray(most.reference_prediction[:, 0]))
        last: PredictionResult = jax.tree.map(lambda leaf: leaf[0, 0], end)
        if not np.isfinite(last.sinkhorn_epsilon):
            return False
        after = np.asarray(self._state.fusion.weights[0])
        cost, epsilon = np.asarray(last.transport_cost), float(last.sinkhorn_epsilon)
        converged = bool(transport.solve(cost, before, after, epsilon).converged)
        quiet = not last.cusum_alarm and last.cusum_drift <= last.adaptive_threshold
        return converged and bool(quiet)

    @property
    def history_skill(self) -> float | None:
        """Skill over persistence on the history that was fitted: one less the ratio of the mean
        squared errors of one-step forecasts after the first 20 ticks; None where no history was
        fitted or it does not move."""
        return self._history_skill

    def step(self, tick: ProcessState) -> PredictionResult:
        """Fold in one tick and forecast the next: every field a scalar, `[4]` per kernel.

        A tick that the order gate refuses changes nothing and comes back with `answered`
        False. Warns with `StalenessWarning` and `FrequencyWarning` on entering those states.
        """
        if not isinstance(tick, ProcessState):
            raise DomainError(f"tick: expected a ProcessState, got {type(tick).__name__}")
        if not self._dated:
            self._date(tick.timestamp_ns or 0)
        given = {name: getattr(tick, name) for name in Observation._fields if name != "present"}
        row = {name: np.array([value]) for name, value in given.items() if value is not None}
        self._state, results = self._functional.step_batch(self._state, Observation(**row))
        result: PredictionResult = jax.tree.map(lambda leaf: leaf[0], results)
        _warn(int(result.events))
        return result

    def save_snapshot(self, path: str | os.PathLike[str]) -> None:
        """Write the state atomically: after a crash the file is the old one or the new one."""
        _write(Path(path), self._sealed())

    def save_snapshot_nonblocking(self, path: str | os.PathLike[str]) -> Future[None]:
        """As `save_snapshot`, with the state of now, while the caller goes on.

        The future raises what the write raised. Several writes are done in the order asked.
        """
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, thread_name_prefix="usp-snapshot")
        return self._writer.submit(_write, Path(path), self._sealed())

    def load_snapshot(self, path: str | os.PathLike[str]) -> None:
        """Continue from a snapshot: the forecasts that follow have the bits they would have had.

        Tunables may differ from those at the time of saving.

        **Failure:** `IntegrityError` for damaged bytes, another version of the state, or
        another structure; the state is then untouched.
        """
        snapshot = _open(Path(path).read_bytes())
        layout, _, unpacked = self._packing
        if snapshot.layout != layout.fingerprint:
            raise IntegrityError(f"{path}: holds a state of another structure")
        if snapshot.structure != self._structure_hash:
            raise IntegrityError(f"{path}: saved under other structural settings")
        if len(snapshot.row) != 8 * layout.width:
            raise IntegrityError(f"{path}: the state is incomplete")
        words = np.frombuffer(snapshot.row, "<u8").astype(np.uint64)
        with jax.enable_x64(True):
            self._state = unpacked(words[None])
        self._dated = snapshot.dated

    @property
    def _structure_hash(self) -> str:
        return config_hash(structure(self.config))

    def _sealed(self) -> bytes:
        layout, packed, _ = self._packing
        with jax.enable_x64(True):
            words = np.asarray(packed(self._state))[0]
        snapshot = _Snapshot(
            version=STATE_VERSION,
            layout=layout.fingerprint,
            structure=self._structure_hash,
            environment=f"jaxlib {jaxlib.__version__}, {jax.default_backend()}",
            dated=self._dated,
            row=words.astype("<u8").tobytes(),
        )
        body: bytes = msgpack.packb(msgspec.to_builtins(snapshot, builtin_types=(bytes,)))
        return body + hashlib.sha256(body).digest()

    def _date(self, timestamp_ns: int) -> None:
        """Let a history without times end just before the first tick that has one."""
        with jax.enable_x64(True):
            gates = self._state.gates
            now = jnp.full_like(gates.accepted_timestamp, timestamp_ns)
            # The gap is then zero, which no gate judges and no interval is learned from.
            gates = gates._replace(
                accepted_timestamp=now,
                answered_timestamp=now - 1,
                interval_log_median=jnp.zeros_like(gates.interval_log_median),
                intervals=jnp.zeros_like(gates.intervals),
            )
            self._state = self._state._replace(gates=gates)
        self._dated = True


def _number(name: str, value: Any) -> float:
    array = np.asarray(value)
    if array.ndim != 0 or array.dtype.kind not in "fiu":
        raise DomainError(f"{name}: expected a number, got {value!r}")
    return float(array)


def _integer(name: str, value: Any) -> int:
    array = np.asarray(value)
    if array.ndim != 0 or array.dtype.kind not in "iu" or int(array) > np.iinfo(np.int64).max:
        raise DomainError(f"{name}: expected integer nanoseconds of 64 bits, got {value!r}")
    return int(array)


def _nanoseconds_of(name: str, moment: Any) -> int:
    """Nanoseconds since the epoch by integer arithmetic: a float of seconds resolves 240 ns."""
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise DomainError(f"{name}: expected a datetime with a zone, got {moment!r}")
    elapsed = moment - EPOCH
    seconds = elapsed.days * 86_400 + elapsed.seconds
    return _integer(name, seconds * 1_000_000_000 + elapsed.microseconds * 1_000)


def _column(name: str, values: Any, kinds: str, dtype: type) -> np.ndarray[Any, Any]:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in kinds:
        raise DomainError(f"{name}: expected a flat sequence of numbers, got {array.dtype}")
    return array.astype(dtype)


def _skill(values: np.ndarray[Any, Any], forecasts: np.ndarray[Any, Any]) -> float | None:
    """One less the squared error of `forecasts` `[T - 1]` over that of the values before."""
    late = slice(WARM_UP_TICKS, None)
    said = np.sum(np.square(values[1:] - forecasts)[late])
    persistence = np.sum(np.square(np.diff(values))[late])
    return float(1.0 - said / persistence) if persistence > 0.0 else None


def _warn(events: int) -> None:
    if events & Events.STALENESS:
        warnings.warn(
            "the gap before this tick is too long for its feed; weights are held",
            StalenessWarning,
            stacklevel=3,
        )
    if events & Events.FREQUENCY_WARNING:
        warnings.warn(
            "the feed is sampled too sparsely; the Hölder exponent keeps its last value",
            FrequencyWarning,
            stacklevel=3,
        )


@functools.lru_cache(maxsize=8)
def _packing(shape: PredictorConfig) -> tuple[Layout, Any, Any]:
    """The layout of a state with its compiled packing and unpacking."""
    with jax.enable_x64(True):
        layout = layout_of(jax.eval_shape(lambda: init_lane(shape)))
    return (
        layout,
        jax.jit(functools.partial(pack, layout)),
        jax.jit(functools.partial(unpack, layout)),
    )


def _open(sealed: bytes) -> _Snapshot:
    body, digest = sealed[:-DIGEST_BYTES], sealed[-DIGEST_BYTES:]
    if len(sealed) <= DIGEST_BYTES or hashlib.sha256(body).digest() != digest:
        raise IntegrityError("the SHA-256 does not match: the snapshot was damaged")
    try:
        plain = msgpack.unpackb(body, strict_map_key=True)
        version = plain["version"]
        if version != STATE_VERSION:
            raise IntegrityError(f"state version {version!r}, this library reads {STATE_VERSION}")
        return msgspec.convert(plain, _Snapshot, builtin_types=(bytes,))
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise IntegrityError(f"not a snapshot of this library: {error}") from None


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
