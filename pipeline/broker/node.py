"""Everything the broker holds, without its sockets: what request handlers work on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from .groups import Group
from .log import PartitionLog
from .topics import Topics
from .transactions import ProducerIdentity, TransactionCoordinator

NODE_ID = 1
CLUSTER_ID = "usp-embedded-broker"


@dataclass(frozen=True)
class Clock:
    """Where the time comes from: `monotonic` in seconds, `wall_ms` in Unix milliseconds."""

    monotonic: Callable[[], float] = time.monotonic
    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000


class Node:
    """The state of the one broker: topics, groups, transactions.

    **Arguments:**

    - `clock`: the source of time.
    - `auto_create_partitions`: partitions of a topic made by asking for it; 0 turns that off.
    """

    def __init__(self, clock: Clock, auto_create_partitions: int = 0) -> None:
        self.clock = clock
        self.auto_create_partitions = auto_create_partitions
        self.host = ""
        self.port = 0
        self.topics = Topics()
        self.groups: dict[str, Group] = {}
        self.transactions = TransactionCoordinator(self._write_marker, self._end_offsets)

    def group(self, group_id: str) -> Group:
        """The group of this name, made if it does not exist."""
        return self.groups.setdefault(group_id, Group(group_id))

    def delete_group(self, group_id: str) -> None:
        del self.groups[group_id]

    def _write_marker(
        self, topic: str, partition: int, producer: ProducerIdentity, commit: bool
    ) -> None:
        log = self.topics.log(topic, partition)
        if log is not None:  # the topic may have been deleted meanwhile
            log.end_transaction(producer.producer_id, producer.epoch, commit, self.clock.wall_ms())

    def _end_offsets(self, group_id: str, producer_id: int, commit: bool) -> None:
        if group_id in self.groups:
            self.groups[group_id].end_transaction(producer_id, commit)

    def expire(self) -> None:
        """Act on every time-out that has passed."""
        now = self.clock.monotonic()
        for group in self.groups.values():
            group.expire(now)
        self.transactions.expire(now)

    async def clean(self) -> None:
        """Apply retention and compaction; gives way to requests between batches."""
        for topic in self.topics:
            retention = topic.retention
            for log in topic.partitions:
                if retention != (-1, -1):
                    log.expire(*retention, self.clock.wall_ms())
                if topic.is_compacted and log.needs_compaction():
                    await self._compact(log)

    async def _compact(self, log: PartitionLog) -> None:
        for batch in log.compactable():
            if not batch.has_been_searched and not batch.is_control:
                batch.find_keys()
                await asyncio.sleep(0)
        log.compact()
