"""What of a partition is covered by snapshots, and what a replay has to know besides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from itertools import islice
from typing import NamedTuple


class SnapshotPolicy(NamedTuple):
    """When a snapshot is due; `most` bounds those that one transaction takes for their age or
    their distance, which are many where many assets fell idle together."""

    max_replay_ticks: int
    max_age_ns: int
    most: int


class Plan(NamedTuple):
    """Assets to snapshot, and the replay floor after that."""

    assets: list[str]
    floor: int


class Generation(NamedTuple):
    """Tunables that hold for the ticks from `start` on; `values` by dotted path."""

    number: int
    start: int
    values: dict[str, float]


class _Uncovered(NamedTuple):
    offset: int
    seen_ns: int


class PartitionLedger:
    """Coverage of one partition with one transaction of changes that can be forgotten.

    `uncovered` keeps, in the order of offsets, each asset's first tick that no snapshot
    covers; its first entry is the replay floor.
    """

    def __init__(self, generations: Iterable[Generation], skipped: Iterable[int] = ()) -> None:
        self.generations = list(generations)
        self.skipped = set(skipped)
        self._uncovered: dict[str, _Uncovered] = {}
        self._touched: dict[str, _Uncovered] = {}
        self._due: dict[str, None] = {}
        self._owed: dict[str, None] = {}
        self._new_skipped: set[int] = set()
        self.control_due = True

    @property
    def generation(self) -> Generation:
        """The one in force for new ticks."""
        return self.generations[-1]

    def touch(self, assets: Iterable[str], offsets: Iterable[int], now_ns: int) -> None:
        """Ticks of the assets at the offsets, in order, changed their states."""
        touched = self._touched
        for asset, offset in zip(assets, offsets, strict=True):
            if asset not in touched:
                touched[asset] = _Uncovered(offset, now_ns)

    def mark_due(self, assets: Iterable[str]) -> None:
        """The assets want a snapshot in this transaction."""
        self._due.update(dict.fromkeys(assets))

    def owe(self, assets: Iterable[str]) -> None:
        """What the log holds of the assets is not to be believed: the next commit that succeeds
        replaces it."""
        self._owed.update(dict.fromkeys(assets))

    @property
    def owed(self) -> Set[str]:
        """Assets whose snapshots in the log are not to be believed."""
        return self._owed.keys()

    @property
    def due(self) -> int:
        """How many snapshots this transaction has to take, whatever the policy."""
        return len(self._due.keys() | self._owed.keys())

    def skip(self, offset: int) -> None:
        """The record at `offset` was dead-lettered for a reason that is not in the log."""
        self._new_skipped.add(offset)
        self.control_due = True

    def _in_order(self) -> Iterator[tuple[str, _Uncovered]]:
        yield from self._uncovered.items()
        for asset, first in self._touched.items():
            if asset not in self._uncovered:
                yield asset, first

    def plan(self, position: int, now_ns: int, policy: SnapshotPolicy) -> Plan:
        """What a commit at `position` snapshots: all that is due, and of what is overdue the
        oldest, however many are due."""
        chosen = self._due | self._owed
        floor = position
        overdue = 0
        for asset, first in self._in_order():
            if asset in chosen:
                continue
            if overdue < policy.most and _is_overdue(first, position, now_ns, policy):
                chosen[asset] = None
                overdue += 1
                continue
            floor = min(floor, first.offset)
            break
        return Plan(list(chosen), floor)

    def is_overdue(self, position: int, now_ns: int, policy: SnapshotPolicy) -> bool:
        """Whether the oldest uncovered tick is further back than allowed."""
        first = next(iter(self._in_order()), None)
        return first is not None and _is_overdue(first[1], position, now_ns, policy)

    def oldest(self, most: int) -> list[tuple[int, str]]:
        """Up to `most` assets without a snapshot of their present state, oldest first, each after
        the time at which its oldest uncovered tick was seen."""
        return [(first.seen_ns, name) for name, first in islice(self._in_order(), most)]

    def oldest_ns(self) -> int | None:
        """When the oldest uncovered tick was seen."""
        first = next(iter(self._in_order()), None)
        return first[1].seen_ns if first else None

    def all_skipped(self) -> set[int]:
        """Skipped offsets, those of the open transaction included."""
        return self.skipped | self._new_skipped

    def confirm(self, snapshots: Iterable[str], floor: int) -> None:
        """The transaction committed with these snapshots."""
        for asset in snapshots:
            self._uncovered.pop(asset, None)
            self._touched.pop(asset, None)
            self._owed.pop(asset, None)
        for asset, first in self._touched.items():
            self._uncovered.setdefault(asset, first)
        self.skipped |= self._new_skipped
        self.skipped = {offset for offset in self.skipped if offset >= floor}
        self._clear()
        self.control_due = False

    def forget(self) -> None:
        """The transaction was aborted."""
        if self._new_skipped:
            self._new_skipped = set()
        self._clear()

    def _clear(self) -> None:
        self._touched = {}
        self._due = {}
        self._new_skipped = set()


def _is_overdue(first: _Uncovered, position: int, now_ns: int, policy: SnapshotPolicy) -> bool:
    return (
        position - first.offset > policy.max_replay_ticks
        or now_ns - first.seen_ns > policy.max_age_ns
    )
