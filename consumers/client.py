"""The group member: poll results and rebalance callbacks as values and calls, no decisions."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from consumers.events import ConsumerFailed, Polled
from consumers.failures import failure, raised
from consumers.messages import refresh_leaders, sort
from consumers.settings import Settings, consuming, make_client

MOVE_POLL_SECONDS = 0.005
"""Longest wait for records while a partition still has to be moved."""

WAKE_SECONDS = 30.0
"""For how long after the assignment that follows an outage a fence counts as its echo."""

Answer = TypeVar("Answer")


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


class _Move(NamedTuple):
    offset: int
    resume: bool


class TickConsumer:
    """A member of the consumer group on the input topic.

    Nothing of a new partition is delivered before `resume_at`. Everything raises `ConsumerFailed`
    for what does not heal, and nothing else of the client.

    A new partition starts at its end, and is moved only once it has shown, by a first message or
    by that end, that it has started. A seek that overtakes the start's question for the end
    succeeds and is undone half a second later: librdkafka takes the answer for outdated, asks
    again, and jumps to the end, over all records in between.

    A static member can fence itself: its request to join is on its way twice when a coordinator
    comes back. So a fence in the wake of an outage is answered, once, by joining again. Where
    another worker did take the identity, that one is fenced then: one of the two goes on.
    """

    def __init__(
        self, base: Settings, membership: Membership, topic: str, handlers: RebalanceHandlers
    ) -> None:
        self._topic = topic
        self._handlers = handlers
        self._held: set[int] = set()
        self._starting: set[int] = set()
        self._placed: set[int] = set()
        self._moves: dict[int, _Move] = {}
        self._complaints: dict[str, str] = {}
        self._wake_ends: float | None = None
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
        self._settings: Settings = {**settings, "error_cb": self._complain}
        self._consumer: Consumer = make_client(Consumer, self._settings)

    def _complain(self, error: KafkaError) -> None:
        self._complaints[error.name()] = error.str()
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._wake_ends = float("inf")

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
        try:
            return self._polled(limit, wait_seconds, linger_seconds)
        except ConsumerFailed as error:
            in_wake = self._wake_ends is not None and time.monotonic() < self._wake_ends
            if error.kind != "fenced" or not in_wake:
                raise
        self._join_again()
        return Polled([], {}, {"FENCED_INSTANCE_ID": "fenced after an outage; joined again"})

    def _join_again(self) -> None:
        self._wake_ends = None
        if self._held:  # the fenced client drops them without a word
            self._handlers.lost(tuple(sorted(self._held)))
        self._held.clear()
        self._starting.clear()
        self._placed.clear()
        self._moves.clear()
        old, self._consumer = [self._consumer], make_client(Consumer, self._settings)
        threading.Thread(target=old.clear, name="dispose", daemon=True).start()
        self.subscribe()

    def _polled(self, limit: int, wait_seconds: float, linger_seconds: float) -> Polled:
        self._make_moves()
        if self._moves:
            wait_seconds = min(wait_seconds, MOVE_POLL_SECONDS)
        messages = self._poll(limit, wait_seconds, linger_seconds)
        polled = sort(messages, {**self._complaints})
        self._complaints.clear()
        if self._starting:
            self._note_started({r.partition for r in polled.records} | polled.ends.keys())
        if not self._moves and self._placed == self.assignment():
            return polled
        # Whatever comes before a partition has been moved is not what follows its position.
        placed = self._placed - self._moves.keys()
        return Polled(
            [record for record in polled.records if record.partition in placed],
            {number: end for number, end in polled.ends.items() if number in placed},
            polled.complaints,
        )

    def _note_started(self, heard: set[int]) -> None:
        started = self._mine(self._starting & heard)
        if started:
            self._starting -= heard
            self._sure(lambda: self._consumer.pause(started))

    def _poll(self, limit: int, wait_seconds: float, linger_seconds: float) -> list[Any]:
        messages: list[Any] = []
        try:
            first = self._consumer.poll(wait_seconds)
            if first is None:
                return messages
            messages.append(first)
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
        except KafkaException as error:
            # The records in hand stay valid: the client goes on behind them.
            ended = failure(error.args[0])
            if ended is not None:
                raise ended from None
            self._complain(error.args[0])
        return messages

    def pause(self, partitions: Collection[int]) -> None:
        """Deliver nothing more of the partitions."""
        for partition, move in self._moves.items():
            if partition in partitions:
                self._moves[partition] = move._replace(resume=False)
        wanted = self._mine(p for p in partitions if p not in self._starting)
        if wanted:
            self._sure(lambda: self._consumer.pause(wanted))

    def resume_at(self, partition: int, offset: int) -> None:
        """Deliver from `offset` on; earlier and prefetched records are discarded."""
        self._moves[partition] = _Move(offset, resume=True)
        self._make_moves()

    def rewind(self, partition: int, offset: int) -> None:
        """Move the position without changing whether the partition is paused."""
        pending = self._moves.get(partition)
        self._moves[partition] = _Move(offset, pending is not None and pending.resume)
        self._make_moves()

    def _make_moves(self) -> None:
        """Seek where that was asked for and is possible; the rest is tried at the next poll."""
        for partition, move in list(self._moves.items()):
            if partition in self._starting:
                continue
            try:
                self._consumer.seek(TopicPartition(self._topic, partition, move.offset))
            except KafkaException as error:
                if error.args[0].code() != KafkaError._STATE:
                    raise raised(error) from None
                continue
            if move.resume:
                wanted = [TopicPartition(self._topic, partition)]
                self._sure(functools.partial(self._consumer.resume, wanted))
            self._placed.add(partition)
            del self._moves[partition]

    def assignment(self) -> frozenset[int]:
        """Partitions that the client holds now."""
        return frozenset(tp.partition for tp in self._sure(self._consumer.assignment))

    def group_metadata(self) -> Any:
        """Member and generation for the transaction; read it after each poll."""
        return self._sure(self._consumer.consumer_group_metadata)

    def close(self) -> None:
        """Leave; callbacks may run inside."""
        self._sure(self._consumer.close)

    def _mine(self, partitions: Iterable[int]) -> list[TopicPartition]:
        held = self.assignment()
        return [TopicPartition(self._topic, p) for p in partitions if p in held]

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # The end, since any other place may fall out of the log's range, which ends the partition.
        start = [TopicPartition(tp.topic, tp.partition, OFFSET_END) for tp in partitions]
        assign = consumer.incremental_assign if self._incremental else consumer.assign
        self._forget(partitions)
        if self._wake_ends is not None:
            refresh_leaders(consumer, self._topic)
            self._wake_ends = min(self._wake_ends, time.monotonic() + WAKE_SECONDS)
        self._held.update(tp.partition for tp in partitions)
        self._starting.update(tp.partition for tp in partitions)
        self._sure(lambda: assign(start))
        self._handlers.assigned(tuple(sorted(tp.partition for tp in partitions)))

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._handlers.revoked(tuple(sorted(tp.partition for tp in partitions)))
        self._release(consumer, partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._handlers.lost(tuple(sorted(tp.partition for tp in partitions)))
        self._release(consumer, partitions)

    def _release(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._forget(partitions)
        if self._incremental:
            self._sure(lambda: consumer.incremental_unassign(partitions))
        else:
            self._sure(consumer.unassign)

    def _forget(self, partitions: list[TopicPartition]) -> None:
        for tp in partitions:
            self._held.discard(tp.partition)
            self._starting.discard(tp.partition)
            self._placed.discard(tp.partition)
            self._moves.pop(tp.partition, None)

    def _sure(self, call: Callable[[], Answer]) -> Answer:
        """A call that works unless the client has given up."""
        try:
            return call()
        except KafkaException as error:
            raise raised(error) from None
