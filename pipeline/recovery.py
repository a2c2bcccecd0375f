"""Recovery of one partition: what its snapshots say, whether they agree with the offsets.

Decisions on values; `pipeline.restore` reads the logs and steps the replay. Whatever
disagrees is refused, not guessed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

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

    `retained`: committed offset at which a kept state is still good, None without one.
    `located`: what the group has committed. `committed` and `floor`: range that a replay
    covers. `begin_after`: per asset the offset from which its ticks are replayed.
    """

    number: int
    retained: int | None
    located: Located | None = None
    snapshots_end: int = 0
    snapshots: dict[str, AssetSnapshot] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    control: Control | None = None
    ledger: PartitionLedger | None = None
    committed: int = 0
    floor: int = 0
    begin_after: dict[str, int] = field(default_factory=dict)
    replayed: int = 0
    done: bool = False

    # -- reading -----------------------------------------------------------------------------

    def take(self, config: Config, record: Record) -> None:
        """Fold in one record of the snapshots partition, in order."""
        if record.key == CONTROL_KEY:
            self._take_control(config, record)
            return
        asset = (record.key or b"").decode("utf-8", "replace")
        if record.value is None:
            self.snapshots.pop(asset, None)
            self.damaged.pop(asset, None)
            return
        try:
            snapshot = decode_snapshot(record.value)
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
            self.damaged.pop(asset, None)

    def _take_control(self, config: Config, record: Record) -> None:
        if record.value is None:
            return
        try:
            control = decode_control(record.value)
        except SnapshotError as error:
            raise DataLossRefused(
                f"control record of partition {self.number}: {error}; restore the snapshots "
                "topic from a backup, or start a new application_id"
            ) from None
        self._check_origin(config, control.origin.application_id, control.origin.topic)
        self.control = control

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
        if self.control is None:
            raise DataLossRefused(
                f"{where}: offset {committed} is committed but the control record is missing from "
                f"{config.topics.snapshots}; restore that topic, or delete the group's offsets to "
                "start anew"
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
        if self.snapshots or self.control is not None:
            raise DataLossRefused(
                f"{where}: no committed offset, although snapshots of this application exist; "
                "the group's offsets expired or were deleted: set them back, or delete the "
                "snapshots to start anew"
            )
        start = log_start if config.kafka.start == "earliest" else log_end
        self.committed = self.floor = start
        self.ledger = PartitionLedger([Generation(1, start, tunable_values(config.predictor))])

    def load(self, pool: StatePool, environment: str, log: Log) -> None:
        """Put the snapshots into the pool; damaged ones leave their assets cold."""
        if self.control is None:
            return
        good: list[AssetSnapshot] = []
        foreign = 0
        for asset, snapshot in self.snapshots.items():
            if snapshot.structure != pool.fingerprint:
                raise StructureRefused(
                    f"snapshot of partition {self.number}: its state has another structure than "
                    "this version's; run the version that wrote it, or start a new "
                    "kafka.application_id"
                )
            foreign += snapshot.environment != environment
            if not pool.belongs_to(snapshot.words(), asset):
                self.damaged[asset] = "its state was written for another asset"
            elif asset not in self.damaged:
                good.append(snapshot)
        if foreign:
            log.warning(
                "environment_changed",
                partition=self.number,
                snapshots=foreign,
                meaning="written by another jaxlib, device, tile or instruction set; equal bits "
                "are claimed from here on",
            )
        if good:
            rows = np.stack([snapshot.words() for snapshot in good])
            pool.load(self.number, [snapshot.asset for snapshot in good], rows)
        self.begin_after = {snapshot.asset: snapshot.next_offset for snapshot in good}
        for asset in self.damaged:
            self.begin_after[asset] = self.committed
            pool.slots(self.number, [asset])
        self.ledger = PartitionLedger(self.control.generations, self.control.skipped)

    # -- handing over ------------------------------------------------------------------------

    def complete(self, config: Config, log: Log) -> RestoredPartition:
        """Everything below the committed offset is folded."""
        ledger = self.ledger
        if ledger is None:
            raise RuntimeError("a partition is complete before it was decided")
        ledger.confirm([], self.floor)
        ledger.control_due = self.control is None
        announcements: list[Announcement] = []
        if self.control is not None:
            announcements += self._continue_generations(config, ledger, log)
        for asset, reason in self.damaged.items():
            ledger.touch([asset], [self.committed], time.time_ns())
            ledger.confirm([], self.floor)
            detail = (
                f"partition {self.number}: {reason}; the asset starts cold at offset "
                f"{self.committed}"
            )
            announcements.append(("SNAPSHOT_REJECTED", "critical", detail, asset))
        ledger.mark_due(self.damaged)
        log.info(
            "partition_restored",
            partition=self.number,
            committed=self.committed,
            floor=self.floor,
            snapshots=len(self.snapshots),
            replayed=self.replayed,
        )
        is_new = self.control is None
        return RestoredPartition(self.number, self.committed, ledger, is_new, tuple(announcements))

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
