"""What of a partition is covered by snapshots, and what a replay has to know besides."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class SnapshotPolicy(NamedTuple):
    """When a snapshot is due; `most` bounds the snapshots of one transaction."""

    max_replay_ticks: int
    max_age_ns: int
    most: int


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

    def skip(self, offset: int) -> None:
        """The record at `offset` was dead-lettered for a reason that is not in the log."""
        self._new_skipped.add(offset)
        self.control_due = True

    def _in_order(self) -> Iterator[tuple[str, _Uncovered]]:
        yield from self._uncovered.items()
        for asset, first in self._touched.items():
            if asset not in self._uncovered:
                yield asset, first

    def plan(self, position: int, now_ns: int, policy: SnapshotPolicy) -> tuple[list[str], int]:
        """Assets to snapshot in this commit at `position`, and the floor after it."""
        chosen = dict(self._due)
        floor = position
        for asset, first in self._in_order():
            if asset in chosen:
                continue
            overdue = (
                position - first.offset > policy.max_replay_ticks
                or now_ns - first.seen_ns > policy.max_age_ns
            )
            if overdue and len(chosen) < policy.most:
                chosen[asset] = None
                continue
            floor = min(floor, first.offset)
            break
        return list(chosen), floor

    def uncovered(self, most: int) -> list[str]:
        """Up to `most` assets without a snapshot of their present state, oldest first."""
        return [asset for asset, _ in itertools.islice(self._in_order(), most)]

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
