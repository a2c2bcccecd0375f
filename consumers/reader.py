"""Reading logs outside of the group: snapshots, replays, committed offsets, the true end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from consumers.client import _sort
from consumers.events import Located, Polled
from consumers.settings import Settings, consuming

__all__ = ["BEGINNING", "LogReader", "Unanswered"]

BEGINNING = OFFSET_BEGINNING


class Unanswered(Exception):
    """The broker did not answer in time; ask again later."""


class LogReader:
    """A read_committed reader without membership, and the questions around it.

    It uses the group's id so that it can read the group's committed offsets; it never joins
    and never commits.
    """

    def __init__(self, base: Settings, group: str, partitions: int) -> None:
        self._consumer = Consumer({**consuming(base, group, partitions), "fetch.wait.max.ms": 10})
        self._admin = AdminClient(base)

    def warm(self, timeout_seconds: float) -> None:
        """Fetch the cluster's metadata now; saves half a second on the first read."""
        self._consumer.list_topics(timeout=timeout_seconds)

    def committed(
        self, topic: str, partitions: list[int], timeout_seconds: float
    ) -> dict[int, Located]:
        """Stable committed offsets with metadata; raises `Unanswered` while one is pending."""
        wanted = [TopicPartition(topic, partition) for partition in partitions]
        try:
            answer = self._consumer.committed(wanted, timeout=timeout_seconds)
        except KafkaException as error:
            raise Unanswered(error.args[0].str()) from None
        out = {}
        for tp in answer:
            if tp.error is not None:
                raise Unanswered(tp.error.str())
            out[tp.partition] = Located(tp.offset if tp.offset >= 0 else None, tp.metadata or "")
        return out

    def true_ends(
        self, topic: str, partitions: list[int], timeout_seconds: float
    ) -> dict[int, int]:
        """High watermarks, open transactions included (the last stable offset may be lower)."""
        return self._offsets(topic, partitions, OffsetSpec.latest(), timeout_seconds)

    def log_starts(
        self, topic: str, partitions: list[int], timeout_seconds: float
    ) -> dict[int, int]:
        """First offsets that still exist."""
        return self._offsets(topic, partitions, OffsetSpec.earliest(), timeout_seconds)

    def _offsets(
        self, topic: str, partitions: list[int], spec: Any, timeout_seconds: float
    ) -> dict[int, int]:
        wanted = {TopicPartition(topic, partition): spec for partition in partitions}
        answers = self._admin.list_offsets(
            wanted,
            isolation_level=IsolationLevel.READ_UNCOMMITTED,
            request_timeout=timeout_seconds,
        )
        try:
            return {tp.partition: future.result().offset for tp, future in answers.items()}
        except KafkaException as error:
            raise Unanswered(error.args[0].str()) from None

    def assign(self, topic: str, starts: Mapping[int, int]) -> None:
        """Read these partitions from these offsets, and nothing else."""
        self._consumer.assign(
            [TopicPartition(topic, partition, offset) for partition, offset in starts.items()]
        )

    def poll(self, limit: int, wait_seconds: float) -> Polled:
        """Up to `limit` records and the ends that were reached."""
        return _sort(self._consumer.consume(limit, wait_seconds))

    def unassign(self) -> None:
        """Stop reading."""
        self._consumer.unassign()

    def close(self) -> None:
        """Free the client."""
        self._consumer.close()
