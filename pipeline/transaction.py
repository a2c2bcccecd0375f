"""What a transaction holds besides outputs: snapshots, control records, offsets with metadata."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pipeline.config import Config
from pipeline.generations import pruned, structure_hash
from pipeline.ledger import PartitionLedger, Plan, SnapshotPolicy
from pipeline.outputs import OutputWriter
from pipeline.pool import StatePool
from pipeline.snapshot import (
    CONTROL_KEY,
    AssetSnapshot,
    Control,
    OffsetMetadata,
    Origin,
    encode_control,
    encode_snapshot,
)
from producers.client import Outgoing, TransactionalProducer

NANOSECONDS = 1_000_000_000

SNAPSHOTS_AT_ONCE = 500
"""Overdue snapshots of one transaction; those that are due by count are not limited."""

Announcement = tuple[str, str, str, str | None]
"""Kind, severity, detail and asset of an event of the worker."""


class Transactor:
    """Builds and commits transactions; knows what the last one planned until it is settled."""

    def __init__(
        self,
        config: Config,
        pool: StatePool,
        producer: TransactionalProducer,
        outputs: OutputWriter,
        group_metadata: Callable[[], Any],
        environment: str,
    ) -> None:
        self._config = config
        self._pool = pool
        self._producer = producer
        self._outputs = outputs
        self._group_metadata = group_metadata
        self._environment = environment
        self._structure_hash = structure_hash(config)
        self._plans: dict[int, Plan] = {}
        self._announcements: list[Announcement] = []
        self.ledgers: dict[int, PartitionLedger] = {}

    def announce(self, announcements: Iterable[Announcement]) -> None:
        """Put events of the worker into the next transaction that commits."""
        self._announcements += announcements

    def produce(self, outgoing: list[Outgoing], seconds: float) -> None:
        """Write records into the open transaction, opening one if need be."""
        self._producer.begin()
        self._producer.produce(outgoing, seconds)

    def commit(self, offsets: Mapping[int, int], seconds: float) -> None:
        """Write what is due at these offsets and commit; raises what the producer raises."""
        now_ns = time.time_ns()
        plans = {}
        left = SNAPSHOTS_AT_ONCE
        # The partition that has waited longest comes first, so that none waits for ever.
        for partition in sorted(offsets, key=lambda p: self.ledgers[p].oldest_ns() or now_ns):
            ledger = self.ledgers[partition]
            plan = ledger.plan(offsets[partition], now_ns, self._policy(left))
            left -= len(plan.assets) - ledger.due
            plans[partition] = plan
        self._commit(offsets, plans, seconds)

    def snapshot_oldest(self, offsets: Mapping[int, int], seconds: float) -> bool:
        """Cover up to a bounded number of assets of these partitions in a transaction of its own
        at their committed offsets, oldest first; False where nothing is uncovered."""
        candidates = sorted(
            (seen_ns, partition, asset)
            for partition in offsets
            for seen_ns, asset in self.ledgers[partition].oldest(SNAPSHOTS_AT_ONCE)
        )[:SNAPSHOTS_AT_ONCE]
        if not candidates:
            return False
        for _, partition, asset in candidates:
            self.ledgers[partition].mark_due([asset])
        now_ns = time.time_ns()
        touched = {partition: offsets[partition] for _, partition, _ in candidates}
        policy = self._policy(0)
        plans = {p: self.ledgers[p].plan(offset, now_ns, policy) for p, offset in touched.items()}
        self._commit(touched, plans, seconds)
        self.confirm()
        return True

    @property
    def is_full(self) -> bool:
        """Whether the open transaction has so many snapshots to take that it should commit."""
        return sum(ledger.due for ledger in self.ledgers.values()) >= SNAPSHOTS_AT_ONCE

    def confirm(self) -> None:
        """The planned transaction is committed."""
        for partition, (assets, floor) in self._plans.items():
            ledger = self.ledgers.get(partition)
            if ledger is not None:
                ledger.confirm(assets, floor)
        self._announcements.clear()
        self._plans = {}

    def forget(self) -> None:
        """The transaction never happened."""
        self._plans = {}
        for ledger in self.ledgers.values():
            ledger.forget()

    def overdue(self, offsets: Mapping[int, int]) -> bool:
        """Whether a tick of these partitions has been uncovered for longer, or lies further behind
        its partition's offset, than allowed."""
        now_ns = time.time_ns()
        policy = self._policy(0)
        return any(self.ledgers[p].is_overdue(at, now_ns, policy) for p, at in offsets.items())

    def _policy(self, most: int) -> SnapshotPolicy:
        rules = self._config.snapshot
        age_ns = int(rules.max_age_seconds * NANOSECONDS)
        return SnapshotPolicy(rules.max_replay_ticks, age_ns, most)

    def _commit(self, offsets: Mapping[int, int], plans: dict[int, Plan], seconds: float) -> None:
        self._plans = plans
        outgoing = []
        metadata = {}
        for partition, (assets, floor) in plans.items():
            ledger = self.ledgers[partition]
            # A tombstone ends what may stand before it; only the fresh snapshot counts then.
            outgoing += [
                self._record(partition, asset.encode(), None)
                for asset in assets
                if asset in ledger.owed
            ]
            outgoing += self._snapshots(partition, assets, offsets[partition])
            if ledger.control_due:
                outgoing.append(self._control(partition, ledger, floor))
            offset_metadata = OffsetMetadata(floor, ledger.generation.number)
            metadata[partition] = (offsets[partition], offset_metadata.encode())
        outgoing += [
            self._outputs.worker_event(kind, severity, detail, asset)
            for kind, severity, detail, asset in self._announcements
        ]
        self.produce(outgoing, seconds)
        self._producer.commit(self._config.topics.ticks, metadata, self._group_metadata(), seconds)

    def _snapshots(self, partition: int, assets: list[str], offset: int) -> list[Outgoing]:
        if not assets:
            return []
        slots = self._pool.assets(partition)
        rows = self._pool.rows([slots[asset] for asset in assets])
        records = []
        for asset, row in zip(assets, rows, strict=True):
            snapshot = AssetSnapshot(
                origin=self._origin(partition),
                asset=asset,
                next_offset=offset,
                structure=self._pool.fingerprint,
                environment=self._environment,
                row=row.astype("<u8").tobytes(),
            )
            records.append(self._record(partition, asset.encode(), encode_snapshot(snapshot)))
        return records

    def _control(self, partition: int, ledger: PartitionLedger, floor: int) -> Outgoing:
        control = Control(
            origin=self._origin(partition),
            generations=pruned(ledger.generations, floor),
            skipped=sorted(offset for offset in ledger.all_skipped() if offset >= floor),
            structure_hash=self._structure_hash,
        )
        return self._record(partition, CONTROL_KEY, encode_control(control))

    def _record(self, partition: int, key: bytes, value: bytes | None) -> Outgoing:
        return Outgoing(self._config.topics.snapshots, partition, key, value, 0, [])

    def _origin(self, partition: int) -> Origin:
        return Origin(self._config.kafka.application_id, self._config.topics.ticks, partition)
