"""The compiled step on disk: found again, bound to what it came from, and never required."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import msgspec
import numpy as np
import pytest

from pipeline import building, device, program
from pipeline.config import Device
from pipeline.program import SPARE_ROW, Program, obtain
from predictor import PredictorConfig
from predictor.blocks import empty_block
from predictor.config import Fusion, Interval, Monitoring, tunables
from predictor.state import init_lane

CONFIG = PredictorConfig(tile=8)
SLAB_ROWS = 9


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Path]:
    """An empty folder for programs; JAX's own cache stays where it is but is not used for them."""
    device.configure(Device(platform="cpu"))
    before = jax.config.values["jax_compilation_cache_dir"]
    folder = tmp_path / "cache"
    (folder / "programs").mkdir(parents=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    yield folder / "programs"
    jax.config.update("jax_compilation_cache_dir", before)


def outcome(made: Program) -> tuple[bytes, bytes]:
    """Bits of the rows and results of sixteen ticks of eight random walks."""
    walks = np.cumsum(np.random.default_rng(1).standard_normal((16, CONFIG.tile)), axis=0)
    ticks = empty_block(CONFIG.tile)._replace(
        magnitude=walks,
        timestamp_ns=np.repeat(np.arange(16)[:, None] * 10**9, CONFIG.tile, axis=1),
        now_ns=np.repeat(np.arange(16)[:, None] * 10**9, CONFIG.tile, axis=1),
        dispersion_proxy=np.full((16, CONFIG.tile), np.nan),
        reference=np.full((16, CONFIG.tile), np.nan),
        present=np.ones((16, CONFIG.tile), bool),
    )
    slab = np.repeat(made.facts.fresh_row[None], SLAB_ROWS, axis=0)
    rows_at = np.arange(SPARE_ROW + 1, CONFIG.tile + 1, dtype=np.int32)
    after, _, table = made.advance(
        tunables(CONFIG), jax.numpy.asarray(slab), rows_at, ticks, np.int32(16)
    )
    return np.asarray(after).tobytes(), np.asarray(table).tobytes()


def test_a_program_is_built_once_and_by_another_process(programs, monkeypatch):
    monkeypatch.setattr(program, "_build", None)

    first = obtain(CONFIG, SLAB_ROWS)
    monkeypatch.setattr(program, "build_elsewhere", None)
    second = obtain(CONFIG, SLAB_ROWS)

    assert len(list(programs.iterdir())) == 1
    assert second.facts.columns == first.facts.columns
    assert second.facts.fingerprint == first.facts.fingerprint
    assert outcome(second) == outcome(first)


@pytest.mark.parametrize("seconds_to_order", [0.0, 0.5], ids=["ends_after_order", "ends_before"])
def test_a_program_that_no_other_process_can_build_is_built_here(
    programs, monkeypatch, seconds_to_order
):
    def order(*asked):
        time.sleep(seconds_to_order)
        return order_of(*asked)

    here, order_of = Program(None, None), building.order_of
    monkeypatch.setattr(program, "_build", lambda config, slab_rows: (here, b"serialised"))
    monkeypatch.setattr(building, "order_of", order)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))

    assert obtain(CONFIG, SLAB_ROWS) is here
    assert len(list(programs.iterdir())) == 1


def test_a_builder_ends_with_the_process_that_asked_for_it(programs):
    order = building.order_of(CONFIG, SLAB_ROWS, programs / "some.pickle")

    # The input ends behind the order, as it does when its writer is killed.
    ended = subprocess.run(building.command(), input=order, timeout=60, check=False)

    assert ended.returncode == building.ABANDONED
    assert not list(programs.iterdir())


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"no program", b"\x80\x05K\x01."])
def test_a_file_that_is_no_program_counts_as_absent(tmp_path, content):
    path = tmp_path / "some.pickle"
    path.write_bytes(content)

    assert program._load(path) is None
    assert program._load(tmp_path / "absent.pickle") is None


def test_programs_that_nobody_loads_any_more_make_room_for_new_ones(tmp_path):
    old, recent = tmp_path / "old.pickle", tmp_path / "recent.pickle"
    for path, days in ((old, 31), (recent, 29)):
        path.write_bytes(b"a program")
        age = days * 24 * 3600
        os.utime(path, (time.time() - age, time.time() - age))

    program._store(tmp_path / "new.pickle", b"a new one")

    assert {path.name for path in tmp_path.iterdir()} == {"recent.pickle", "new.pickle"}


def test_a_fresh_state_does_not_depend_on_tunables():
    """A program holds one fresh row, and serves every value of the tunables."""
    device.configure(Device(platform="cpu"))
    tuned = PredictorConfig(
        monitoring=Monitoring(volatility_alpha=0.2, cusum_h=5.0, holder_threshold=0.5),
        fusion=Fusion(learning_rate_minimum=0.01, sinkhorn_epsilon_0=0.2),
        interval=Interval(coverage=0.8),
    )

    for one, other in zip(
        jax.tree.leaves(init_lane(PredictorConfig())),
        jax.tree.leaves(init_lane(tuned)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_a_program_is_known_by_its_sources_its_configuration_and_its_environment(monkeypatch):
    keys = {program._key(CONFIG, SLAB_ROWS)}
    keys.add(program._key(CONFIG, SLAB_ROWS + 1))
    keys.add(program._key(PredictorConfig(tile=16), SLAB_ROWS))
    tuned = msgspec.structs.replace(CONFIG, interval=Interval(coverage=0.8))
    keys.add(program._key(tuned, SLAB_ROWS))
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    keys.add(program._key(CONFIG, SLAB_ROWS))
    monkeypatch.undo()
    origins = list(program._origins(CONFIG, SLAB_ROWS))

    assert len(keys) == 4
    sources = Path(program.__file__).parent.parent / "predictor"
    for name in ("step.py", "kernels/markov/weights.npz", "kernels/levy/schemes.py"):
        assert (sources / name).read_bytes() in origins
