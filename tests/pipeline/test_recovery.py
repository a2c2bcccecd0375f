"""Recovery of one partition: which snapshot counts, what is refused, what is announced."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.events import Located, Record
from pipeline import device
from pipeline.config import Config
from pipeline.generations import structure_hash, tunable_values
from pipeline.ledger import Generation, SnapshotPolicy
from pipeline.log import Log
from pipeline.pool import StatePool
from pipeline.recovery import (
    DataLossRefused,
    Kept,
    PartitionRecovery,
    StructureRefused,
)
from pipeline.snapshot import (
    CONTROL_KEY,
    AssetSnapshot,
    Control,
    OffsetMetadata,
    Origin,
    encode_control,
    encode_snapshot,
)

CONFIG = Config()
NUMBER = 2
COMMITTED = 400
ORIGIN = Origin(CONFIG.kafka.application_id, CONFIG.topics.ticks, NUMBER)
ASSET = "asset"
NOTHING_OVERDUE = SnapshotPolicy(10**9, 10**18, 0)
GENERATION = Generation(1, 0, tunable_values(CONFIG.predictor))


@pytest.fixture(scope="module")
def pool() -> StatePool:
    device.configure(CONFIG.device)
    return StatePool(CONFIG.predictor, CONFIG.device.slab_assets)


def record(key: bytes, value: bytes | None, offset: int = 0) -> Record:
    return Record(NUMBER, offset, 0, key, value, None)


def sealed(pool: StatePool, next_offset: int, asset: str = ASSET, **changes) -> bytes:
    """A snapshot whose last word is its next offset."""
    pool.drop(99)
    (row,) = pool.rows(pool.slots(99, [asset]).tolist())
    row[-1] = next_offset
    fields = {
        "origin": ORIGIN,
        "asset": asset,
        "next_offset": next_offset,
        "structure": pool.fingerprint,
        "environment": "here",
        "row": row.astype("<u8").tobytes(),
        **changes,
    }
    return encode_snapshot(AssetSnapshot(**fields))


def control(*generations: Generation, **changes) -> bytes:
    fields = {
        "origin": ORIGIN,
        "generations": list(generations) or [GENERATION],
        "skipped": [],
        "structure_hash": structure_hash(CONFIG),
        **changes,
    }
    return encode_control(Control(**fields))


def recovery(
    values: list[bytes | None],
    floor: int = 0,
    generation: int = 1,
    controls: tuple[bytes, ...] | None = None,
) -> PartitionRecovery:
    """A partition that has read the values under the asset's key, and is decided."""
    part = PartitionRecovery(NUMBER, None)
    part.located = Located(COMMITTED, OffsetMetadata(floor, generation).encode())
    for value in (control(),) if controls is None else controls:
        part.take(CONFIG, record(CONTROL_KEY, value))
    for value in values:
        part.take(CONFIG, record(ASSET.encode(), value))
    part.decide(CONFIG, 0, 1000)
    return part


def state_of(pool: StatePool, asset: str = ASSET) -> int:
    """The next offset of the snapshot in the pool; 0 for a fresh state."""
    slots = pool.assets(NUMBER)
    (row,) = pool.rows([slots[asset]])
    return int(row[-1])


def loaded(part: PartitionRecovery, pool: StatePool) -> PartitionRecovery:
    pool.drop(NUMBER)
    part.load(pool, "here", Log("test", stream=io.StringIO()))
    return part


def announcements(part: PartitionRecovery) -> list[tuple]:
    return list(part.complete(CONFIG, Log("test", stream=io.StringIO())).announcements)


# -- which snapshot counts -------------------------------------------------------------------------

DAMAGED = b"damaged" * 10
histories = st.lists(
    st.one_of(st.sampled_from([100, 200, 300]), st.just("damaged"), st.just("tombstone")),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=150)
@given(histories, st.sampled_from([0, 100, 150, 200, 250, 300, 350]))
def test_in_every_order_the_newest_counts_or_what_the_replay_completes(pool, history, floor):
    written = {100: sealed(pool, 100), 200: sealed(pool, 200), 300: sealed(pool, 300)}
    values = {"damaged": DAMAGED, "tombstone": None, **written}
    part = loaded(recovery([values[each] for each in history], floor), pool)

    last_tombstone = max((i for i, each in enumerate(history) if each == "tombstone"), default=-1)
    after = history[last_tombstone + 1 :]
    newest = max((each for each in after if isinstance(each, int)), default=None)
    doubtful = "damaged" in after
    usable = newest is not None and (not doubtful or newest >= floor)

    assert part.begin_after.get(ASSET) == (newest if usable else COMMITTED if doubtful else None)
    if usable or doubtful:
        assert state_of(pool) == (newest if usable else 0)
    assert len(announcements(part)) == doubtful
    assert set(part.book.owed) == ({ASSET} if doubtful else set())


def test_a_stand_in_is_announced_as_such_and_replaced_behind_a_tombstone(pool):
    part = loaded(recovery([sealed(pool, 200), DAMAGED], floor=150), pool)

    ((kind, severity, detail, asset),) = announcements(part)

    assert (kind, severity, asset) == ("SNAPSHOT_REJECTED", "warning", ASSET)
    assert "gave the asset the same state" in detail
    assert part.book.plan(COMMITTED, 0, NOTHING_OVERDUE).assets == [ASSET]


def test_a_cold_start_is_announced_and_covered_by_the_first_commit(pool):
    part = loaded(recovery([sealed(pool, 100), DAMAGED], floor=150), pool)

    ((kind, severity, detail, _),) = announcements(part)
    plan = part.book.plan(COMMITTED, 0, NOTHING_OVERDUE)

    assert (kind, severity) == ("SNAPSHOT_REJECTED", "critical")
    assert f"cold at offset {COMMITTED}" in detail
    assert plan == ([ASSET], COMMITTED)


@pytest.mark.parametrize("floor", [50, 350])
@pytest.mark.parametrize("change", ["asset", "partition", "row"])
def test_a_snapshot_of_something_else_is_damage_wherever_it_hides(pool, change, floor):
    foreign = {
        "asset": {"asset": "another"},
        "partition": {"origin": Origin(ORIGIN.application_id, ORIGIN.topic, NUMBER + 1)},
        "row": {"row": _row_of_another(pool)},
    }[change]
    part = loaded(recovery([sealed(pool, 300, **foreign)], floor), pool)

    assert state_of(pool) == 0
    assert part.cold == [ASSET]


def _row_of_another(pool: StatePool) -> bytes:
    (row,) = pool.rows(pool.slots(98, ["another"]).tolist())
    return row.astype("<u8").tobytes()


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_any_flipped_byte_of_the_newest_snapshot_leaves_the_older_one_or_a_cold_start(pool, data):
    newest = bytearray(sealed(pool, 300))
    newest[data.draw(st.integers(0, len(newest) - 1))] ^= data.draw(st.integers(1, 255))
    floor = data.draw(st.sampled_from([50, 350]))
    order = data.draw(st.permutations([bytes(newest), sealed(pool, 100)]))

    part = loaded(recovery(order, floor), pool)

    assert state_of(pool) == (100 if floor == 50 else 0)
    assert part.begin_after[ASSET] == (100 if floor == 50 else COMMITTED)


def test_keys_of_no_asset_are_counted_and_ignored(pool):
    part = PartitionRecovery(NUMBER, None)
    for key in (b"\xff\xfe", b"", None):
        part.take(CONFIG, record(key, b"whatever"))

    assert part.strangers == 3
    assert part.damaged == {}


# -- what is refused -------------------------------------------------------------------------------


def test_a_snapshot_of_another_version_is_no_damage_but_another_structure(pool):
    with pytest.raises(StructureRefused, match="schema version 9"):
        recovery([sealed(pool, 100, version=9)])


def test_a_snapshot_of_another_layout_is_another_structure(pool):
    part = recovery([sealed(pool, 100, structure="1:other")])

    with pytest.raises(StructureRefused, match="another structure"):
        loaded(part, pool)


def test_a_damaged_control_record_is_refused_unless_a_sound_one_follows():
    with pytest.raises(DataLossRefused, match=r"control record.*damaged"):
        recovery([], controls=(control(), DAMAGED))

    assert recovery([], controls=(DAMAGED, control())).committed == COMMITTED


def test_a_control_record_of_another_version_is_another_structure():
    with pytest.raises(StructureRefused, match="control record"):
        recovery([], controls=(control(version=9),))


def test_a_control_record_that_is_not_the_last_one_written_is_refused():
    with pytest.raises(DataLossRefused, match="not the last one written"):
        recovery([], generation=2)


def test_damaged_snapshots_without_an_offset_are_snapshots_all_the_same(pool):
    part = PartitionRecovery(NUMBER, None)
    part.located = Located(None, "")
    part.take(CONFIG, record(ASSET.encode(), DAMAGED))

    with pytest.raises(DataLossRefused, match="no committed offset, although"):
        part.decide(CONFIG, 0, 10)


# -- states that were kept -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "metadata", "kept", "good"),
    [
        (400, OffsetMetadata(0, 1).encode(), Kept(400, 1), True),
        (400, OffsetMetadata(399, 1).encode(), Kept(400, 1), True),
        (400, OffsetMetadata(0, 2).encode(), Kept(400, 1), False),
        (401, OffsetMetadata(0, 1).encode(), Kept(400, 1), False),
        (400, "", Kept(400, 1), False),
        (None, "", Kept(400, 1), False),
        (400, OffsetMetadata(0, 1).encode(), None, False),
    ],
)
def test_a_kept_state_is_good_at_its_own_offset_and_generation_only(offset, metadata, kept, good):
    part = PartitionRecovery(NUMBER, kept)
    part.located = Located(offset, metadata)

    assert part.is_kept is good
