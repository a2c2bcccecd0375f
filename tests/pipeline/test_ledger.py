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
