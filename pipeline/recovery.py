"""Recovery of one partition: what its snapshots say, whether they agree with the offsets.

Decisions on values; `pipeline.restore` reads the logs and steps the replay. Whatever
disagrees is refused, not guessed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from consumers.events import Located, Record
from pipeline.config import Config
from pipeline.generations import continued, structure_hash, tunable_values
from pipeline.ledger import Generation, PartitionLedger
from pipeline.log import Log
from pipeline.pool import StatePool
from pipeline.snapshot import (
    CONTROL_KEY,
    AssetSnapshot,
    Control,
    OtherVersion,
    SnapshotError,
    decode_control,
    decode_metadata,
    decode_snapshot,
)
from pipeline.transaction import Announcement


class DataLossRefused(Exception):
    """Offsets, snapshots and log disagree; going on would lose or repeat (exit 7)."""


class StructureRefused(Exception):
    """The states in the log were made by another structure (exit 3)."""


class Kept(NamedTuple):
    """What a state that is still in the pool is the state of."""

    committed: int
    generation: int


@dataclass(frozen=True)
class RestoredPartition:
    """A partition whose state is complete. `ledger` is None where a kept state was good.
    `is_new`: nothing was committed before; its start must be committed before the first
    tick. `announcements` are events of the worker for the first transaction."""

    partition: int
    committed: int
    ledger: PartitionLedger | None
    is_new: bool
    announcements: tuple[Announcement, ...] = ()


@dataclass
class PartitionRecovery:
    """One partition on its way back.

    `kept`: of what a state is that is still in the pool, None without one.
    `located`: what the group has committed. `log_start` and `log_end`: what the input still
    holds. `committed` and `floor`: range that a replay covers; `read_to`: how far it has come.
    `begin_after`: per asset the offset from which its ticks are replayed. `learned`: assets with a
    past that is not in the log.
    """

    number: int
    kept: Kept | None
    located: Located | None = None
    snapshots_end: int = 0
    log_start: int | None = None
    log_end: int | None = None
    snapshots: dict[str, AssetSnapshot] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    control: Control | None = None
    control_fault: str | None = None
    strangers: int = 0
    ledger: PartitionLedger | None = None
    committed: int = 0
    floor: int = 0
    begin_after: dict[str, int] = field(default_factory=dict)
    cold: list[str] = field(default_factory=list)
    learned: list[str] = field(default_factory=list)
    read_to: int = 0
    replayed: int = 0

    @property
    def book(self) -> PartitionLedger:
        """The ledger, from `load` on."""
        if self.ledger is None:
            raise RuntimeError("a partition is used before it was decided")
        return self.ledger

    @property
    def is_new(self) -> bool:
        """Whether nothing of this partition is in the log yet."""
        return self.control is None

    # -- a state that was kept ---------------------------------------------------------------

    @property
    def is_kept(self) -> bool:
        """Whether the state in the pool is that of the committed offset.

        The offset alone does not tell: another member may have begun a generation of parameters
        there without stepping a tick.
        """
        if self.kept is None or self.located is None or self.located.offset is None:
            return False
        metadata = decode_metadata(self.located.metadata)
        return metadata is not None and self.kept == Kept(self.located.offset, metadata.generation)

    def as_it_was(self) -> RestoredPartition:
        """Hand the kept state back."""
        if self.kept is None:
            raise RuntimeError("no state was kept")
        return RestoredPartition(self.number, self.kept.committed, None, False)

    # -- reading -----------------------------------------------------------------------------

    def take(self, config: Config, record: Record) -> None:
        """Fold in one record of the snapshots partition, in order."""
        if record.key == CONTROL_KEY:
            self._take_control(config, record)
            return
        try:
            asset = (record.key or b"").decode()
        except UnicodeDecodeError:
            asset = ""
        if not asset:
            self.strangers += 1  # the key of no asset
            return
        if record.value is None:
            self.snapshots.pop(asset, None)
            self.damaged.pop(asset, None)
            return
        try:
            snapshot = decode_snapshot(record.value)
        except OtherVersion as error:
            raise self._other_structure(f"snapshot of asset {asset!r}: {error}") from None
        except SnapshotError as error:
            self.damaged[asset] = str(error)
            return
        self._check_origin(config, snapshot.origin.application_id, snapshot.origin.topic)
        if snapshot.asset != asset or snapshot.origin.partition != self.number:
            self.damaged[asset] = (
                f"it belongs to asset {snapshot.asset!r} of partition {snapshot.origin.partition}"
            )
            return
        best = self.snapshots.get(asset)
        if best is None or snapshot.next_offset >= best.next_offset:
            self.snapshots[asset] = snapshot

    def _take_control(self, config: Config, record: Record) -> None:
        if record.value is None:
            return
        try:
            control = decode_control(record.value)
        except OtherVersion as error:
            raise self._other_structure(f"control record: {error}") from None
        except SnapshotError as error:
            self.control_fault = str(error)
            return
        self._check_origin(config, control.origin.application_id, control.origin.topic)
        self.control, self.control_fault = control, None

    def _other_structure(self, what: str) -> StructureRefused:
        return StructureRefused(
            f"partition {self.number}, {what}; run the version that wrote it, or start a new "
            "kafka.application_id"
        )

    def _check_origin(self, config: Config, application: str, topic: str) -> None:
        own = (config.kafka.application_id, config.topics.ticks)
        if (application, topic) != own:
            raise DataLossRefused(
                f"{config.topics.snapshots}/{self.number} holds snapshots of application "
                f"{application!r} on topic {topic!r}, this worker is {own[0]!r} on {own[1]!r}; "
                "give each application its own topics.snapshots"
            )

    @property
    def ahead_of_offsets(self) -> bool:
        """Whether a snapshot covers more than is committed: worth a second look."""
        committed = self.located.offset if self.located is not None else None
        return committed is not None and any(
            snapshot.next_offset > committed for snapshot in self.snapshots.values()
        )

    # -- deciding ----------------------------------------------------------------------------

    def decide(self, config: Config, log_start: int, log_end: int) -> None:
        """Fix the range to replay, or refuse; the log holds `log_start` to `log_end`."""
        where = f"{config.topics.ticks}/{self.number}"
        if self.located is None or self.located.offset is None:
            self._start_anew(config, log_start, log_end, where)
            return
        committed = self.located.offset
        metadata = decode_metadata(self.located.metadata)
        if metadata is None:
            raise DataLossRefused(
                f"{where}: the committed offset {committed} carries no replay floor; it was not "
                "written by this application: choose another kafka.application_id, or delete the "
                "group's offsets"
            )
        if self.control is None or self.control_fault is not None:
            raise DataLossRefused(
                f"{where}: offset {committed} is committed but the control record in "
                f"{config.topics.snapshots} is {self.control_fault or 'missing'}; restore that "
                "topic from a backup, or delete the group's offsets and the snapshots to start anew"
            )
        if self.control.generations[-1].number != metadata.generation:
            raise DataLossRefused(
                f"{where}: offset {committed} was committed under generation "
                f"{metadata.generation} of the parameters, the control record in "
                f"{config.topics.snapshots} ends with {self.control.generations[-1].number}: it is "
                "not the last one written; restore that topic from a backup"
            )
        if self.ahead_of_offsets:
            newest = max(snapshot.next_offset for snapshot in self.snapshots.values())
            raise DataLossRefused(
                f"{where}: a snapshot covers offset {newest}, beyond the committed {committed}; "
                "the group's offsets were moved: move them back, or delete the snapshots"
            )
        if committed > log_end or metadata.floor < log_start:
            raise DataLossRefused(
                f"{where}: recovery needs offsets {metadata.floor} to {committed}, the log holds "
                f"{log_start} to {log_end}; raise the topic's retention above the age of the "
                "replay floor, or delete offsets and snapshots to start anew"
            )
        if self.control.structure_hash != structure_hash(config):
            raise StructureRefused(
                f"{where}: the states in the log were made with other structural settings "
                "(tile, seed, clock, windows or depths); use those settings, or start a new "
                "kafka.application_id"
            )
        self.committed = committed
        self.floor = metadata.floor

    def _start_anew(self, config: Config, log_start: int, log_end: int, where: str) -> None:
        if self.snapshots or self.damaged or self.control or self.control_fault:
            raise DataLossRefused(
                f"{where}: no committed offset, although snapshots of this application exist; "
                "the group's offsets expired or were deleted: set them back, or delete the "
                "snapshots to start anew"
            )
        earliest = config.kafka.start == "earliest"
        self.committed = log_start if earliest else log_end
        self.floor = max(log_start, self.committed - config.history.topic_ticks)
        first = Generation(1, self.floor, tunable_values(config.predictor))
        self.ledger = PartitionLedger([first])

    def load(self, pool: StatePool, environment: str, log: Log) -> None:
        """Put the snapshots into the pool.

        A damaged snapshot may have been the newest of its asset. The best of the others stands in
        for it where that makes no difference: where the replay begins no later than it ends, so
        that every tick after it is folded again. Otherwise the asset starts cold.
        """
        if self.control is None:
            return
        good: list[AssetSnapshot] = []
        foreign = 0
        for asset, snapshot in self.snapshots.items():
            if snapshot.structure != pool.fingerprint:
                raise self._other_structure(
                    f"snapshot of asset {asset!r}: its state has another structure than this "
                    "version's"
                )
            foreign += snapshot.environment != environment
            if not pool.belongs_to(snapshot.words(), asset):
                self.damaged[asset] = "its state was written for another asset"
            elif asset not in self.damaged or snapshot.next_offset >= self.floor:
                good.append(snapshot)
        if foreign:
            log.warning(
                "environment_changed",
                partition=self.number,
                snapshots=foreign,
                meaning="written by another jaxlib, device, tile or instruction set; equal bits "
                "are claimed from here on",
            )
        if self.strangers:
            log.warning("snapshots_of_no_asset", partition=self.number, records=self.strangers)
        if good:
            rows = np.stack([snapshot.words() for snapshot in good])
            pool.load(self.number, [snapshot.asset for snapshot in good], rows)
        self.begin_after = {snapshot.asset: snapshot.next_offset for snapshot in good}
        self.cold = [asset for asset in self.damaged if asset not in self.begin_after]
        for asset in self.cold:
            self.begin_after[asset] = self.committed
            pool.slots(self.number, [asset])
        self.ledger = PartitionLedger(self.control.generations, self.control.skipped)

    # -- handing over ------------------------------------------------------------------------

    def complete(self, config: Config, log: Log) -> RestoredPartition:
        """Everything below the committed offset is folded."""
        ledger = self.book
        unknown = [*self.cold, *self.learned]
        ledger.touch(unknown, [self.committed] * len(unknown), time.time_ns())
        ledger.confirm([], self.floor)
        ledger.control_due = self.is_new
        ledger.owe([*self.damaged, *self.learned])
        announcements: list[Announcement] = []
        if self.control is not None:
            announcements += self._continue_generations(config, ledger, log)
        announcements += self._rejections()
        log.info(
            "partition_restored",
            partition=self.number,
            committed=self.committed,
            floor=self.floor,
            snapshots=len(self.snapshots),
            replayed=self.replayed,
            learned=len(self.learned),
        )
        return RestoredPartition(
            self.number, self.committed, ledger, self.is_new, tuple(announcements)
        )

    def _rejections(self) -> list[Announcement]:
        announcements: list[Announcement] = []
        for asset, reason in self.damaged.items():
            severity, what = "critical", f"the asset starts cold at offset {self.committed}"
            if asset not in self.cold:
                severity = "warning"
                what = "an earlier snapshot and the replay gave the asset the same state"
            detail = f"partition {self.number}: {reason}; {what}"
            announcements.append(("SNAPSHOT_REJECTED", severity, detail, asset))
        return announcements

    def _continue_generations(
        self, config: Config, ledger: PartitionLedger, log: Log
    ) -> list[Announcement]:
        own = tunable_values(config.predictor)
        ledger.generations, verdict = continued(ledger.generations, own, self.committed)
        number = ledger.generation.number
        if verdict == "older":
            log.warning(
                "older_configuration_kept_out",
                partition=self.number,
                generation=number,
                remedy="this worker's file equals an earlier generation; give all workers of the "
                "group the same file",
            )
        if verdict != "new":
            return []
        ledger.control_due = True
        detail = f"partition {self.number}: generation {number} begins at offset {self.committed}"
        return [("CONFIG_MUTATED", "info", detail, None)]
