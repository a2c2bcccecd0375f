"""The group member: poll results and rebalance callbacks as values and calls, no decisions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from consumers.events import ConsumerFailed, Polled, Record
from consumers.settings import Settings, consuming

SEEK_TIMEOUT_SECONDS = 10.0


class RebalanceHandlers(NamedTuple):
    """Called inside `poll` with partition numbers; `lost` means another member may own them."""

    assigned: Callable[[tuple[int, ...]], None]
    revoked: Callable[[tuple[int, ...]], None]
    lost: Callable[[tuple[int, ...]], None]


class Membership(NamedTuple):
    """How this member takes part in its group."""

    group: str
    partitions: int
    instance_id: str | None
    protocol: str
    assignment: str
    session_timeout_ms: int
    max_poll_interval_ms: int


class TickConsumer:
    """A member of the consumer group on the input topic.

    New partitions are assigned paused; nothing of them is delivered before `resume_at`.
    """

    def __init__(
        self, base: Settings, membership: Membership, topic: str, handlers: RebalanceHandlers
    ) -> None:
        self._topic = topic
        self._handlers = handlers
        self._incremental = (
            membership.protocol == "consumer" or membership.assignment == "cooperative-sticky"
        )
        settings = consuming(base, membership.group, membership.partitions)
        if membership.protocol == "consumer":
            settings["group.protocol"] = "consumer"
        else:
            settings["partition.assignment.strategy"] = membership.assignment
            settings["session.timeout.ms"] = membership.session_timeout_ms
            settings["heartbeat.interval.ms"] = max(200, membership.session_timeout_ms // 12)
            if membership.instance_id is not None:
                settings["group.instance.id"] = membership.instance_id
        settings["max.poll.interval.ms"] = max(
            membership.max_poll_interval_ms, membership.session_timeout_ms
        )
        self._consumer = Consumer(settings)

    @property
    def incremental(self) -> bool:
        """Whether partitions come and go one by one rather than all at once."""
        return self._incremental

    def subscribe(self) -> None:
        """Join the group."""
        self._consumer.subscribe(
            [self._topic],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    def poll(self, limit: int, wait_seconds: float, linger_seconds: float) -> Polled:
        """Up to `limit` records: wait for the first, then at most the linger for the rest."""
        first = self._consumer.poll(wait_seconds)
        if first is None:
            return Polled([], {})
        messages = [first]
        if limit > 1:
            messages += self._consumer.consume(limit - 1, 0)
            if linger_seconds > 0 and len(messages) < limit:
                deadline = time.monotonic() + linger_seconds
                while len(messages) < limit and (left := deadline - time.monotonic()) > 0:
                    more = self._consumer.poll(left)
                    if more is None:
                        break
                    messages.append(more)
                    messages += self._consumer.consume(limit - len(messages), 0)
        return _sort(messages)

    def pause(self, partitions: Iterable[int]) -> None:
        """Deliver nothing more of the partitions."""
        wanted = self._mine(partitions)
        if wanted:
            self._consumer.pause(wanted)

    def resume_at(self, partition: int, offset: int) -> None:
        """Deliver from `offset` on; earlier and prefetched records are discarded."""
        self.rewind(partition, offset)
        self._consumer.resume([TopicPartition(self._topic, partition)])

    def rewind(self, partition: int, offset: int) -> None:
        """Move the position without changing whether the partition is paused."""
        target = TopicPartition(self._topic, partition, offset)
        deadline = time.monotonic() + SEEK_TIMEOUT_SECONDS
        while True:
            try:
                self._consumer.seek(target)
                return
            except KafkaException as error:
                # Right after an assignment the partition may not have started to fetch yet.
                if error.args[0].code() != KafkaError._STATE or time.monotonic() > deadline:
                    raise
                time.sleep(0.005)

    def assignment(self) -> frozenset[int]:
        """Partitions that the client holds now."""
        return frozenset(tp.partition for tp in self._consumer.assignment())

    def group_metadata(self) -> Any:
        """Member and generation for the transaction; read it after each poll."""
        return self._consumer.consumer_group_metadata()

    def close(self) -> None:
        """Leave; callbacks may run inside."""
        self._consumer.close()

    def _mine(self, partitions: Iterable[int]) -> list[TopicPartition]:
        held = self.assignment()
        return [TopicPartition(self._topic, p) for p in partitions if p in held]

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Logical offset: the true position is set when the state is restored, and a fetch
        # that slips in before the pause cannot fall out of range.
        start = [TopicPartition(tp.topic, tp.partition, OFFSET_END) for tp in partitions]
        if self._incremental:
            consumer.incremental_assign(start)
        else:
            consumer.assign(start)
        if start:
            consumer.pause([TopicPartition(tp.topic, tp.partition) for tp in partitions])
        self._handlers.assigned(tuple(sorted(tp.partition for tp in partitions)))

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._handlers.revoked(tuple(sorted(tp.partition for tp in partitions)))
        self._release(consumer, partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._handlers.lost(tuple(sorted(tp.partition for tp in partitions)))
        self._release(consumer, partitions)

    def _release(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._incremental:
            consumer.incremental_unassign(partitions)
        else:
            consumer.unassign()


def _sort(messages: list[Any]) -> Polled:
    records: list[Record] = []
    ends: dict[int, int] = {}
    for message in messages:
        error = message.error()
        if error is None:
            records.append(
                Record(
                    message.partition(),
                    message.offset(),
                    message.timestamp()[1],
                    message.key(),
                    message.value(),
                    message.headers(),
                )
            )
        elif error.code() == KafkaError._PARTITION_EOF:
            ends[message.partition()] = message.offset()
        else:
            _raise_unless_transient(error, message)
    return Polled(records, ends)


def _raise_unless_transient(error: KafkaError, message: Any) -> None:
    code = error.code()
    if code == KafkaError.FENCED_INSTANCE_ID:
        raise ConsumerFailed(
            "fenced",
            "another worker joined the group with this instance id; give each its own "
            "kafka.instance_id",
        )
    if code in (
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
    ):
        raise ConsumerFailed("authentication", f"{error.str()}; check kafka.extra and the ACLs")
    if code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
        raise ConsumerFailed(
            "offset_out_of_range",
            f"{message.topic()}/{message.partition()}: the position is outside of the log "
            f"({error.str()}); raise the topic's retention, or accept the gap by resetting the "
            "group's offsets",
        )
    if error.fatal():
        raise ConsumerFailed("fatal", error.str())
    # Everything else heals while the worker keeps polling, or comes back as one of the above.
