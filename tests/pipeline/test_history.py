"""The recorded past of assets: whose it is, how much of it, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from pipeline.config import Config, History
from pipeline.errors import ExitCode, UserError
from pipeline.history import PastTicks
from pipeline.placement import java_partition

PARTITIONS = 4


class Folding:
    """A pool that only writes down what is folded, by slot."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.folded: dict[str, list[tuple[float, int]]] = {}
        self.largest = 0

    def slots(self, partition: int, assets: list[str]) -> Any:
        first = len(self.names)
        self.names += assets
        return np.arange(first, len(self.names))

    def step(self, slots: Any, ticks: Any, config: Any, journal: bool) -> None:
        assert not journal
        self.largest = max(self.largest, len(slots))
        assert np.array_equal(ticks.now_ns, ticks.timestamp_ns)
        for slot, value, stamp in zip(slots, ticks.magnitude, ticks.timestamp_ns, strict=True):
            self.folded.setdefault(self.names[slot], []).append((float(value), int(stamp)))


def past(path: Any, pool: Any, **rules: Any) -> PastTicks:
    config = msgspec.structs.replace(Config(), history=History(file=str(path), **rules))
    return PastTicks(config, pool, PARTITIONS)


@pytest.fixture
def file(tmp_path):
    """Ninety assets with 50 ticks each, the newest first."""
    rows = [
        f"asset-{asset},{tick},{asset + tick / 100}\n"
        for tick in range(49, -1, -1)
        for asset in range(90)
    ]
    path = tmp_path / "past.csv"
    path.write_text("asset_id,timestamp_ns,magnitude\n" + "".join(rows))
    return path


def test_each_partition_learns_its_own_assets_in_the_order_of_time(file):
    pool = Folding()
    ticks = past(file, pool)

    for partition in range(PARTITIONS):
        before = set(pool.folded)
        for _ in ticks.folding(partition):
            assert pool.largest <= 32 * 16
        assert set(pool.folded) - before == set(ticks.assets(partition))
        for asset in ticks.assets(partition):
            assert java_partition(asset.encode(), PARTITIONS) == partition

    assert len(pool.folded) == 90
    for asset in range(90):
        expected = [(asset + tick / 100, tick) for tick in range(50)]
        assert pool.folded[f"asset-{asset}"] == expected


def test_the_last_ticks_are_taken_where_there_are_more_than_wanted(file):
    pool = Folding()
    ticks = past(file, pool, file_ticks=3)

    for partition in range(PARTITIONS):
        list(ticks.folding(partition))

    assert {tuple(stamp for _, stamp in each) for each in pool.folded.values()} == {(47, 48, 49)}


def test_no_file_is_no_past(tmp_path):
    ticks = PastTicks(Config(), SimpleNamespace(), PARTITIONS)  # type: ignore[arg-type]

    assert [ticks.assets(partition) for partition in range(PARTITIONS)] == [[]] * PARTITIONS
    assert list(ticks.folding(0)) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such file"),
        ("a,b\n1,2\n", "no time column"),
        ("asset_id,timestamp,magnitude\nx,1,much\n", "'much' is not a number"),
    ],
)
def test_a_file_that_makes_no_sense_is_a_fault_of_the_configuration(tmp_path, text, said):
    path = tmp_path / "past.csv"
    if text is not None:
        path.write_text(text)

    with pytest.raises(UserError, match=said) as caught:
        past(path, Folding())

    assert str(caught.value).startswith("history.file: ")
    assert caught.value.exit_code == ExitCode.CONFIGURATION
