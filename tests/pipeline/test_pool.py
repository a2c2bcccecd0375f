"""States on the device: equal bits however ticks are cut, and undo of a transaction."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline import device
from pipeline.config import Device
from pipeline.pool import StatePool, TickColumns
from predictor import FunctionalPredictor, Observation, PredictorConfig

CONFIG = PredictorConfig(tile=8)
ASSETS = 21
TICKS = 1500
SECOND_NS = 1_000_000_000


@pytest.fixture(scope="module")
def make_pool():
    device.configure(Device(tile=8, platform="cpu"))
    made = StatePool(CONFIG, slab_assets=10)
    made.warm_up()

    def fresh() -> StatePool:
        made.rollback()
        for partition in list(made._slots):
            made.drop(partition)
        return made

    return fresh


@pytest.fixture(scope="module")
def ticks():
    rng = np.random.default_rng(3)
    which = np.where(rng.random(TICKS) < 0.3, 4, rng.integers(0, ASSETS, TICKS))
    values = np.cumsum(rng.standard_normal(TICKS))
    values[rng.integers(0, TICKS, 10)] = np.nan
    stamps = (np.arange(TICKS) + 1) * SECOND_NS
    missing = np.full(TICKS, np.nan)
    return which, TickColumns(values, stamps, stamps, missing, missing)


def names(which) -> list[str]:
    return [f"asset-{number}" for number in which]


def cut(columns: TickColumns, start: int, stop: int) -> TickColumns:
    return TickColumns(*(column[start:stop] for column in columns))


def run(pool: StatePool, ticks, cuts, journal=True):
    which, columns = ticks
    means = []
    for start, stop in itertools.pairwise(cuts):
        slots = pool.slots(0, names(which[start:stop]))
        results = pool.step(slots, cut(columns, start, stop), CONFIG, journal)
        means.append(results.reference_prediction.copy())
        pool.commit()
    rows = pool.rows(pool.slots(0, names(range(ASSETS))))
    return np.concatenate(means), rows


@pytest.fixture(scope="module")
def whole(make_pool, ticks):
    return run(make_pool(), ticks, [0, TICKS])


@pytest.mark.parametrize("size", [1, 7, 64, 400])
def test_micro_batches_of_any_size_give_the_same_bits(make_pool, ticks, whole, size):
    stop = 150 if size == 1 else TICKS
    cuts = [*range(0, stop, size), stop, TICKS] if stop < TICKS else [*range(0, stop, size), stop]

    means, rows = run(make_pool(), ticks, cuts)

    assert np.array_equal(means, whole[0], equal_nan=True)
    assert np.array_equal(rows, whole[1])


def test_the_pool_gives_the_bits_of_the_library(ticks, whole):
    which, columns = ticks
    rows = np.bincount(which).max()
    shape = (rows, ASSETS)
    magnitude, stamps = np.zeros(shape), np.zeros(shape, np.int64)
    present, place, seen = np.zeros(shape, bool), [], np.zeros(ASSETS, int)
    for asset, value, stamp in zip(which, columns.magnitude, columns.timestamp_ns, strict=True):
        at = (seen[asset], asset)
        magnitude[at], stamps[at], present[at] = value, stamp, True
        seen[asset] += 1
        place.append(at)
    predictor = FunctionalPredictor(CONFIG)

    states = predictor.init_states(ASSETS, names(range(ASSETS)))
    _, result = predictor.scan_batch(states, Observation(magnitude, stamps, present=present))

    scanned = np.array([result.reference_prediction[at] for at in place])
    assert np.array_equal(scanned, whole[0], equal_nan=True)


def test_a_rollback_returns_to_the_last_commit_and_the_repetition_to_the_same_bits(
    make_pool, ticks, whole
):
    which, columns = ticks
    pool = make_pool()
    rng = np.random.default_rng(0)
    start, means = 0, []
    while start < TICKS:
        stop = min(TICKS, start + int(rng.integers(1, 300)))
        for attempt in range(2):
            middle = (start + stop) // 2
            pieces = []
            for first, last in ((start, middle), (middle, stop)):
                if first < last:
                    slots = pool.slots(0, names(which[first:last]))
                    part = pool.step(slots, cut(columns, first, last), CONFIG)
                    pieces.append(part.reference_prediction.copy())
            if attempt == 0:
                pool.rollback()
        pool.commit()
        means += pieces
        start = stop

    rows = pool.rows(pool.slots(0, names(range(ASSETS))))
    assert np.array_equal(np.concatenate(means), whole[0], equal_nan=True)
    assert np.array_equal(rows, whole[1])


def test_loaded_rows_continue_where_they_were_saved(make_pool, ticks, whole):
    which, columns = ticks
    pool = make_pool()
    run(pool, ticks, [0, 700])
    assets = sorted(pool.assets(0))
    rows = pool.rows([pool.assets(0)[asset] for asset in assets])
    pool.drop(0)

    pool.load(5, assets, rows)
    slots = pool.slots(5, names(which[700:]))
    results = pool.step(slots, cut(columns, 700, TICKS), CONFIG)

    assert np.array_equal(results.reference_prediction, whole[0][700:], equal_nan=True)


def test_a_row_knows_its_asset(make_pool):
    pool = make_pool()
    slots = pool.slots(0, ["one", "two"])
    rows = pool.rows(slots)

    assert pool.belongs_to(rows[0], "one")
    assert not pool.belongs_to(rows[0], "two")


def test_the_same_asset_in_two_partitions_has_two_states(make_pool):
    pool = make_pool()

    assert pool.slots(0, ["one"])[0] != pool.slots(1, ["one"])[0]


def test_growth_and_further_ticks_compile_nothing(make_pool, ticks, whole):
    pool = make_pool()
    run(pool, ticks, [0, 100])
    before = device.compilations()

    pool.slots(9, [f"more-{number}" for number in range(40)])
    run(pool, ticks, [0, 300, 900])

    assert device.compilations() == before
