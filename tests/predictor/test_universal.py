"""One series with its state inside: ticks, history, warnings and snapshots on disk."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import msgpack
import numpy as np
import pytest

from predictor import (
    DomainError,
    FrequencyWarning,
    FunctionalPredictor,
    IntegrityError,
    OperatingMode,
    PredictorConfig,
    ProcessState,
    StalenessWarning,
    UniversalPredictor,
    universal,
)
from predictor.config import Monitoring, Signature
from tests.predictor.streams import (
    SECOND,
    START,
    TILE,
    autoregression,
    bits_of,
    logistic_map,
    run,
)

CONFIG = PredictorConfig(tile=TILE)
SERIES = autoregression(np.random.default_rng(1), [0.7], 400, 1)[:, 0]


def fed(rows: int) -> UniversalPredictor:
    predictor = UniversalPredictor(CONFIG)
    for row in range(rows):
        predictor.step(tick(row))
    return predictor


def tick(row: int) -> ProcessState:
    return ProcessState(SERIES[row], START + row * SECOND)


def forecasts(predictor: UniversalPredictor, first: int, last: int) -> list[bytes]:
    results = [predictor.step(tick(row)) for row in range(first, last)]
    return [field for result in results for field in bits_of(result)]


# -- ticks --------------------------------------------------------------------------------


def test_steps_have_the_bits_of_the_functional_predictor(predictor: FunctionalPredictor):
    single = UniversalPredictor(CONFIG)

    said = [float(single.step(tick(row)).reference_prediction) for row in range(60)]

    _, expected = run(predictor, SERIES[:60])
    assert said == expected.reference_prediction[:, 0].tolist()


def test_results_are_scalars_and_one_number_per_kernel():
    result = UniversalPredictor(CONFIG).step(tick(0))

    assert {np.shape(leaf) for leaf in result} == {(), (4,), (4, 4)}
    assert OperatingMode(int(result.operating_mode)) is OperatingMode.CALIBRATION


def test_value_that_is_nan_is_answered_and_not_raised():
    predictor = fed(30)

    result = predictor.step(ProcessState(float("nan"), START + 30 * SECOND))

    assert bool(result.outlier_rejected)
    assert np.isfinite(result.reference_prediction)


@pytest.mark.parametrize("value", ["1.5", None, [1.0], 1j, True, object(), 10**400])
def test_value_that_is_no_number_is_refused(value):
    with pytest.raises(DomainError, match="magnitude"):
        ProcessState(value, 0)


@pytest.mark.parametrize("stamp", [1.5, "now", 2**63, -(2**63) - 1, None, True])
def test_time_that_is_no_64_bit_integer_is_refused(stamp):
    with pytest.raises(DomainError, match="timestamp_ns"):
        ProcessState(1.0, stamp)


def test_any_kind_of_real_number_is_accepted():
    for value in (1, 1.0, np.float32(1.0), np.int64(1), np.array(1.0)):
        assert ProcessState(value, np.int64(7)) == ProcessState(1.0, 7)


def test_datetime_is_converted_by_integer_arithmetic():
    moment = datetime(2026, 2, 19, 12, 34, 56, 789_123, tzinfo=timezone(timedelta(hours=-3)))

    stamp = ProcessState(1.0, timestamp_utc=moment).timestamp_ns

    expected = datetime(2026, 2, 19, 15, 34, 56, tzinfo=UTC)
    assert stamp == int(expected.timestamp()) * SECOND + 789_123_000


def test_moment_before_the_epoch_is_converted_exactly():
    moment = datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)

    assert ProcessState(1.0, timestamp_utc=moment).timestamp_ns == -1_000


@pytest.mark.parametrize("moment", [datetime(2026, 1, 1), "2026-01-01"])  # noqa: DTZ001
def test_moment_without_a_zone_is_refused(moment):
    with pytest.raises(DomainError, match="timestamp_utc"):
        ProcessState(1.0, timestamp_utc=moment)


def test_two_times_for_one_tick_are_refused():
    with pytest.raises(DomainError, match="timestamp_utc"):
        ProcessState(1.0, 5, timestamp_utc=datetime(2026, 1, 1, tzinfo=UTC))


def test_tick_of_another_type_is_refused():
    with pytest.raises(DomainError, match="ProcessState"):
        UniversalPredictor(CONFIG).step(1.5)


def test_long_gap_warns_once_of_staleness_and_of_sampling():
    predictor = fed(30)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        predictor.step(ProcessState(0.1, START + 90 * SECOND))

    assert {item.category for item in caught} == {StalenessWarning, FrequencyWarning}
    assert {Path(item.filename).name for item in caught} == {Path(__file__).name}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor.step(ProcessState(0.2, START + 91 * SECOND))


def test_late_tick_comes_back_unanswered():
    predictor = fed(30)

    result = predictor.step(ProcessState(0.1, START))

    assert not bool(result.answered)
    assert np.isnan(result.reference_prediction)


# -- history ------------------------------------------------------------------------------


def test_history_of_a_well_behaved_series_succeeds():
    assert UniversalPredictor(CONFIG).fit_history(SERIES) is True


def test_history_shorter_than_the_window_is_refused_and_leaves_the_state():
    predictor, other = fed(30), fed(30)

    with pytest.raises(ValueError, match="127 samples, at least 128"):
        predictor.fit_history(SERIES[:127])

    assert forecasts(predictor, 30, 40) == forecasts(other, 30, 40)


@pytest.mark.parametrize("history", [["a"] * 200, np.zeros((200, 2)), [None] * 200])
def test_history_that_is_no_sequence_of_numbers_is_refused(history):
    with pytest.raises(DomainError, match="history"):
        UniversalPredictor(CONFIG).fit_history(history)


def test_times_of_another_length_are_refused():
    with pytest.raises(ValueError, match="timestamps_ns"):
        UniversalPredictor(CONFIG).fit_history(SERIES, np.arange(3))


def test_history_with_times_equals_the_same_ticks_one_by_one():
    rows = 130
    predictor = UniversalPredictor(CONFIG)

    predictor.fit_history(SERIES[:rows], START + SECOND * np.arange(rows))

    assert forecasts(predictor, rows, rows + 10) == forecasts(fed(rows), rows, rows + 10)


def test_history_without_times_forecasts_alike_and_imposes_no_cadence():
    rows = 130
    predictor = UniversalPredictor(CONFIG)
    predictor.fit_history(SERIES[:rows])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = [
            predictor.step(ProcessState(SERIES[row], START + row * 3600 * SECOND))
            for row in range(rows, rows + 40)
        ]

    other = fed(rows)
    expected = [other.step(tick(row)).reference_prediction for row in range(rows, rows + 40)]
    assert [result.reference_prediction for result in results] == expected
    assert not any(result.degraded_inference_mode for result in results)


def test_first_tick_may_repeat_the_last_value_of_a_history_without_times():
    predictor = UniversalPredictor(CONFIG)
    predictor.fit_history(SERIES[:130])

    assert bool(predictor.step(ProcessState(SERIES[129], 5)).answered)


def test_history_says_how_well_it_was_forecast():
    predictor = UniversalPredictor(CONFIG)
    assert predictor.history_skill is None

    predictor.fit_history(SERIES)

    _, result = run(FunctionalPredictor(CONFIG), SERIES)
    error = (SERIES[1:] - result.reference_prediction[:-1, 0])[20:]
    expected = 1.0 - np.sum(error**2) / np.sum(np.diff(SERIES)[20:] ** 2)
    assert predictor.history_skill == pytest.approx(expected)
    # The best forecast of φ = .7 has 1 − (1 + φ) / 2 = .15, and has nothing to learn.
    assert 0.05 < expected < 0.15
    predictor.fit_history(np.full(200, 3.0))
    assert predictor.history_skill is None


@pytest.mark.parametrize("process", ["oscillating", "chaotic"])
def test_history_of_kernels_that_differ_much_succeeds_all_the_same(process):
    random = np.random.default_rng(8)
    made = {
        "oscillating": lambda: autoregression(random, [1.2, -0.7], 300, 1),
        "chaotic": lambda: logistic_map(random, 300, 1),
    }

    assert UniversalPredictor(CONFIG).fit_history(made[process]()[:, 0])


def test_history_that_ends_in_an_alarm_fails():
    eager = PredictorConfig(tile=TILE, monitoring=Monitoring(cusum_h=1.0))
    _, result = run(FunctionalPredictor(eager), SERIES[:300])
    alarms = np.flatnonzero(result.cusum_alarm[:, 0])
    assert alarms[-1] > 200

    assert not UniversalPredictor(eager).fit_history(SERIES[: alarms[-1] + 1])
    assert UniversalPredictor(eager).fit_history(SERIES[: alarms[-1]])


def test_new_history_replaces_what_was_known():
    again, fresh = fed(50), UniversalPredictor(CONFIG)
    again.fit_history(SERIES[:200])
    fresh.fit_history(SERIES[:200])

    assert forecasts(again, 200, 210) == forecasts(fresh, 200, 210)


# -- snapshots ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("snapshots") / "series.msgpack"
    fed(60).save_snapshot(path)
    return path


def resealed(path: Path, change: Callable[[dict], None]) -> bytes:
    """The snapshot with its content changed and a digest that fits."""
    body = msgpack.unpackb(path.read_bytes()[:-32])
    change(body)
    packed = msgpack.packb(body)
    return packed + hashlib.sha256(packed).digest()


def refusal(tmp_path: Path, content: bytes, config: PredictorConfig = CONFIG) -> str:
    """Why the content is not loaded, having made sure that the state is untouched."""
    path = tmp_path / "snapshot"
    path.write_bytes(content)
    predictor = UniversalPredictor(config)
    before = predictor._state
    with pytest.raises(IntegrityError) as refused:
        predictor.load_snapshot(path)
    assert predictor._state is before
    return str(refused.value)


def test_restored_predictor_continues_with_the_same_bits(saved):
    restored = UniversalPredictor(CONFIG)
    restored.load_snapshot(saved)

    assert forecasts(restored, 60, 90) == forecasts(fed(60), 60, 90)


def test_saving_a_restored_state_writes_the_same_bytes(saved, tmp_path):
    restored = UniversalPredictor(CONFIG)
    restored.load_snapshot(saved)

    restored.save_snapshot(tmp_path / "again")

    assert (tmp_path / "again").read_bytes() == saved.read_bytes()


def test_other_tunables_load_the_same_state(saved):
    other = UniversalPredictor(PredictorConfig(tile=TILE, monitoring=Monitoring(cusum_h=4.0)))

    other.load_snapshot(saved)

    assert int(other.step(tick(60)).sequence) == 61


def test_any_flipped_byte_is_detected(saved):
    content = saved.read_bytes()
    for position in range(0, len(content), 97):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        with pytest.raises(IntegrityError, match="SHA-256"):
            universal._open(bytes(damaged))


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 5000, -1])
def test_truncated_file_is_refused(saved, tmp_path, length):
    assert "SHA-256" in refusal(tmp_path, saved.read_bytes()[:length])


def test_other_version_of_the_state_is_refused(saved, tmp_path):
    content = resealed(saved, lambda body: body.update(version=99))

    assert "version 99" in refusal(tmp_path, content)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda body: body.update(layout="other"), "another structure"),
        (lambda body: body.update(structure="other"), "structural settings"),
        (lambda body: body.update(row=body["row"][:-8]), "incomplete"),
        (lambda body: body.update(row="text"), "not a snapshot"),
        (lambda body: body.pop("dated"), "not a snapshot"),
        (lambda body: body.pop("version"), "not a snapshot"),
    ],
)
def test_foreign_content_under_a_good_digest_is_refused(saved, tmp_path, change, reason):
    assert reason in refusal(tmp_path, resealed(saved, change))


def test_sealed_bytes_that_are_no_map_are_refused(tmp_path):
    for body in (b"\xc1", msgpack.packb([1, 2]), msgpack.packb(7)):
        sealed = body + hashlib.sha256(body).digest()
        assert "not a snapshot" in refusal(tmp_path, sealed)


def test_snapshot_of_another_depth_is_refused(saved, tmp_path):
    shallow = PredictorConfig(tile=TILE, signature=Signature(signature_depth=2))

    assert "another structure" in refusal(tmp_path, saved.read_bytes(), shallow)


def test_file_that_is_missing_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        UniversalPredictor(CONFIG).load_snapshot(tmp_path / "none")


def test_failed_write_keeps_the_old_file_and_leaves_nothing_behind(
    saved, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "snapshot"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    predictor = UniversalPredictor(CONFIG)
    with pytest.raises(OSError, match="No space"):
        predictor.save_snapshot(path)

    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["snapshot"]


KILLED = """
import os, pathlib, signal, sys
from predictor import universal

path, old, new = pathlib.Path(sys.argv[1]), b"old" * 100_000, b"new" * 100_000
steps = ("open", "fdopen", "write", "flush", "fsync", "replace")


class File:
    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self.file.close()

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        die_at("write")
        self.file.write(content[len(content) // 2 :])

    def flush(self):
        die_at("flush")
        self.file.flush()

    def fileno(self):
        return self.file.fileno()


def die_at(step):
    if step == fatal:
        os.kill(os.getpid(), signal.SIGKILL)


def dying(step, call):
    def wrapped(*given, **named):
        die_at(step)
        return call(*given, **named)

    return wrapped


universal._write(path, old)
opened = os.fdopen
for fatal in (*steps, "directory"):
    child = os.fork()
    if child == 0:
        for step in ("open", "fsync", "replace"):
            setattr(os, step, dying(step, getattr(os, step)))
        os.fdopen = dying("fdopen", lambda *given: File(opened(*given)))
        if fatal == "directory":
            replace = os.replace
            os.replace = lambda *given: (replace(*given), die_at("directory"))
        universal._write(path, new)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, fatal
    assert path.read_bytes() == (new if fatal == "directory" else old), fatal
    print(fatal)
universal._write(path, new)
assert path.read_bytes() == new
"""


def test_process_that_is_killed_at_any_step_of_a_write_leaves_a_whole_snapshot(tmp_path):
    program = [sys.executable, "-c", KILLED, str(tmp_path / "snapshot")]

    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    steps = ["open", "fdopen", "write", "flush", "fsync", "replace", "directory"]
    assert done.stdout.split() == steps


def test_stale_temporary_file_is_no_obstacle(tmp_path):
    (tmp_path / ".snapshot.0.tmp").write_bytes(b"left by a crash")

    fed(3).save_snapshot(tmp_path / "snapshot")

    UniversalPredictor(CONFIG).load_snapshot(tmp_path / "snapshot")


def test_content_is_on_disk_before_the_name_and_the_name_before_the_return(
    tmp_path, monkeypatch: pytest.MonkeyPatch
):
    calls = []
    sync, replace = os.fsync, os.replace

    def kind(descriptor: int) -> str:
        return "directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"

    monkeypatch.setattr(os, "fsync", lambda d: (calls.append(kind(d)), sync(d)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))

    UniversalPredictor(CONFIG).save_snapshot(tmp_path / "snapshot")

    assert calls == ["file", "replace", "directory"]


def test_background_save_holds_the_state_of_its_call(tmp_path):
    predictor = fed(60)

    pending = predictor.save_snapshot_nonblocking(tmp_path / "background")
    forecasts(predictor, 60, 70)
    pending.result(timeout=30)

    restored = UniversalPredictor(CONFIG)
    restored.load_snapshot(tmp_path / "background")
    assert forecasts(restored, 60, 65) == forecasts(fed(60), 60, 65)


def test_background_save_reports_its_failure(tmp_path):
    pending = fed(3).save_snapshot_nonblocking(tmp_path / "missing" / "snapshot")

    with pytest.raises(FileNotFoundError):
        pending.result(timeout=30)


def test_history_without_times_stays_so_through_a_snapshot(tmp_path):
    predictor = UniversalPredictor(CONFIG)
    predictor.fit_history(SERIES[:200])
    predictor.save_snapshot(tmp_path / "snapshot")

    restored = UniversalPredictor(CONFIG)
    restored.load_snapshot(tmp_path / "snapshot")

    assert forecasts(restored, 200, 205) == forecasts(predictor, 200, 205)
