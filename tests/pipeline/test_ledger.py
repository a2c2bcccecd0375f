"""Coverage of a partition by snapshots, and the floor that follows from it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ledger import Generation, PartitionLedger, SnapshotPolicy

LAX = SnapshotPolicy(max_replay_ticks=10**9, max_age_ns=10**18, most=10**6)


def ledger() -> PartitionLedger:
    return PartitionLedger([Generation(1, 0, {})])


def test_the_floor_is_the_oldest_tick_that_no_snapshot_covers():
    book = ledger()
    book.touch(["a", "b", "a", "c"], [10, 11, 12, 13], now_ns=0)
    book.mark_due(["a"])

    snapshots, floor = book.plan(14, 0, LAX)

    assert (snapshots, floor) == (["a"], 11)


def test_a_forgotten_transaction_leaves_the_floor_where_it_was():
    book = ledger()
    book.touch(["a"], [10], 0)
    book.confirm(*book.plan(11, 0, LAX))
    book.touch(["b"], [11], 0)
    book.mark_due(["a", "b"])
    book.skip(12)

    book.forget()

    assert book.plan(11, 0, LAX) == ([], 10)
    assert book.all_skipped() == set()


def test_assets_that_lag_too_far_behind_are_snapshotted_oldest_first():
    book = ledger()
    book.touch([f"asset-{n}" for n in range(10)], range(10), 0)

    snapshots, floor = book.plan(12, 0, SnapshotPolicy(5, 10**18, 4))

    assert snapshots == ["asset-0", "asset-1", "asset-2", "asset-3"]
    assert floor == 4


def test_an_old_tick_is_covered_even_where_nothing_follows_it():
    book = ledger()
    book.touch(["a"], [0], now_ns=0)
    book.confirm(*book.plan(1, 0, LAX))

    assert book.plan(1, 99, SnapshotPolicy(10**9, 100, 10)) == ([], 0)
    assert book.plan(1, 101, SnapshotPolicy(10**9, 100, 10)) == (["a"], 1)


def test_assets_that_are_due_take_no_place_from_those_that_are_overdue():
    book = ledger()
    book.touch([f"old-{n}" for n in range(6)], range(6), 0)
    book.confirm(*book.plan(6, 0, LAX))
    busy = [f"busy-{n}" for n in range(50)]
    book.touch(busy, range(100, 150), 0)
    book.mark_due(busy)

    snapshots, floor = book.plan(150, 0, SnapshotPolicy(20, 10**18, 4))

    assert set(snapshots) == {*busy, "old-0", "old-1", "old-2", "old-3"}
    assert floor == 4


def test_what_is_overdue_is_worked_off_oldest_first_in_bounded_pieces():
    book = ledger()
    book.touch([f"asset-{n}" for n in range(10)], range(10), 0)
    policy = SnapshotPolicy(5, 10**18, 4)
    pieces = []
    while book.is_overdue(100, 0, policy):
        plan = book.plan(100, 0, policy)
        book.confirm(*plan)
        pieces.append([int(name.removeprefix("asset-")) for name in plan.assets])

    assert pieces == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_what_is_owed_outlives_an_abort_and_is_settled_by_a_commit():
    book = ledger()
    book.touch(["a"], [5], 0)
    book.owe(["a"])
    book.forget()

    plan = book.plan(9, 0, LAX)
    before = set(book.owed)
    book.confirm(*plan)

    assert plan == (["a"], 9)
    assert (before, set(book.owed), book.due) == ({"a"}, set(), 0)


assets = st.sampled_from([f"asset-{n}" for n in range(8)])
loads = st.lists(
    st.tuples(st.lists(assets, min_size=1, max_size=5), st.sets(assets)), min_size=1, max_size=12
)


@settings(deadline=None, max_examples=200)
@given(loads, st.integers(1, 3), st.integers(1, 30))
def test_under_any_load_nothing_waits_longer_than_its_turn(history, most, lag):
    book = ledger()
    policy = SnapshotPolicy(lag, 10**18, most)
    first_uncovered: dict[str, int] = {}
    position = 0
    for names, due in history:
        book.touch(names, range(position, position + len(names)), 0)
        for offset, name in enumerate(names, position):
            first_uncovered.setdefault(name, offset)
        required = due & set(names)
        book.mark_due(required)
        position += len(names)
        while True:
            plan = book.plan(position, 0, policy)
            overdue = sorted(
                (offset, name)
                for name, offset in first_uncovered.items()
                if position - offset > lag and name not in required
            )
            assert set(plan.assets) - required == {name for _, name in overdue[:most]}
            book.confirm(*plan)
            for name in plan.assets:
                first_uncovered.pop(name, None)
            required = set()
            if not book.is_overdue(position, 0, policy):
                break
        assert all(position - offset <= lag for offset in first_uncovered.values())


def test_skipped_offsets_below_the_floor_are_dropped():
    book = ledger()
    book.skip(3)
    book.confirm([], 4)

    assert book.skipped == set()


ticks = st.lists(st.sampled_from("abcd"), min_size=1, max_size=6)
transactions = st.lists(
    st.tuples(ticks, st.sets(st.sampled_from("abcd")), st.booleans(), st.integers(1, 20)),
    max_size=20,
)


@settings(deadline=None, max_examples=200)
@given(transactions)
def test_replaying_from_the_floor_after_snapshots_reaches_every_uncovered_tick(history):
    book = ledger()
    log: list[str] = []
    covered: dict[str, int] = {}
    floor = 0
    for assets, due, commits, limit in history:
        start = len(log)
        new = log + assets
        book.touch(assets, range(start, len(new)), 0)
        book.mark_due(asset for asset in due if asset in new)
        if not commits:
            book.forget()
            continue
        log = new
        snapshots, floor = book.plan(len(log), 0, SnapshotPolicy(limit, 10**18, 100))
        book.confirm(snapshots, floor)
        covered.update(dict.fromkeys(snapshots, len(log)))

        missed = [o for o, asset in enumerate(log[:floor]) if o >= covered.get(asset, 0)]
        assert missed == []
        assert len(log) - floor <= limit or limit >= len(log)
