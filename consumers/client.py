"""The group member: poll results and rebalance callbacks as values and calls, no decisions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from consumers.events import Polled
from consumers.failures import failure, raised
from consumers.fetcher import Fetcher
from consumers.messages import sort
from consumers.settings import Settings, consuming, make_client

METADATA_SECONDS = 1.0
"""Longest wait for the cluster's metadata before the group is joined."""

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


class TickConsumer:
    """A member of the consumer group on the input topic.

    Two clients: the member owns partitions and fetches none, the fetcher reads those that have been
    given an offset. So a partition can belong to this member long before it is known where to
    read on, under every protocol alike, and nothing of it is delivered before `resume_at`.

    Everything raises `ConsumerFailed` for what does not heal, and nothing else of the clients.

    A static member is fenced when its name joins again: by another worker, by an older one that
    was frozen and comes back, or by itself, whose request to join is on its way twice when a
    coordinator comes back. The group cannot tell these apart. Whoever owns the name by another
    authority answers by `join_again`, which fences the other one in turn.
    """

    def __init__(
        self, base: Settings, membership: Membership, topic: str, handlers: RebalanceHandlers
    ) -> None:
        self._topic = topic
        self._handlers = handlers
        self._held: set[int] = set()
        self._complaints: dict[str, str] = {}
        self._incremental = (
            membership.protocol == "consumer" or membership.assignment == "cooperative-sticky"
        )
        settings = consuming(base, membership.group, membership.partitions)
        self._fetcher = Fetcher({**settings, "error_cb": self._complain})
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
        self._member: Consumer = make_client(Consumer, self._settings)

    def _complain(self, error: KafkaError) -> None:
        self._complaints[error.name()] = error.str()

    @property
    def incremental(self) -> bool:
        """Whether partitions come and go one by one rather than all at once."""
        return self._incremental

    def subscribe(self) -> None:
        """Join the group."""
        self._fetcher.warm(METADATA_SECONDS)
        self._join()

    def _join(self) -> None:
        self._member.subscribe(
            [self._topic],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    def poll(self, limit: int, wait_seconds: float, linger_seconds: float) -> Polled:
        """Up to `limit` records: wait for the first, then at most the linger for the rest.

        The handlers are called before any record is fetched, never between fetching and returning.
        """
        self._attend(wait_seconds if self._fetcher.idle else 0.0)
        fetching_seconds = 0.0 if self._fetcher.idle else wait_seconds
        fetched = self._fetcher.poll(limit, fetching_seconds, linger_seconds)
        for polled in fetched.values():
            self._complaints |= polled.complaints
        mine = fetched.get(self._topic, Polled([], {}, {}))
        told, self._complaints = self._complaints, {}
        return mine._replace(complaints=told)

    def _attend(self, wait_seconds: float) -> None:
        """Take part in the group; the handlers run inside."""
        try:
            message = self._member.poll(wait_seconds)
        except KafkaException as error:
            ended = failure(error.args[0])
            if ended is not None:
                raise ended from None
            self._complain(error.args[0])
        else:
            if message is not None:
                self._complaints |= sort([message]).complaints

    def join_again(self) -> None:
        """Join by a new client once this one is fenced; what it held is lost first."""
        held = tuple(sorted(self._held))
        self._let_go(held)
        if held:  # the fenced client drops them without a word
            self._handlers.lost(held)
        old, self._member = [self._member], make_client(Consumer, self._settings)
        threading.Thread(target=old.clear, name="dispose", daemon=True).start()
        self._join()

    def pause(self, partitions: Collection[int]) -> None:
        """Deliver nothing more of the partitions."""
        for partition in partitions:
            self._fetcher.stop(self._topic, partition)

    def resume_at(self, partition: int, offset: int) -> None:
        """Deliver from `offset` on; earlier and prefetched records are discarded."""
        self._fetcher.start(self._topic, partition, offset)

    def rewind(self, partition: int, offset: int) -> None:
        """Move the position of a partition, unless it is paused."""
        if self._fetcher.reads(self._topic, partition):
            self._fetcher.start(self._topic, partition, offset)

    def assignment(self) -> frozenset[int]:
        """Partitions that belong to this member now."""
        return frozenset(self._held)

    def group_metadata(self) -> Any:
        """Member and generation for the transaction; read it after each poll."""
        return self._sure(self._member.consumer_group_metadata)

    def close(self) -> None:
        """Leave; callbacks may run inside."""
        self._sure(self._member.close)
        self._fetcher.close()

    # The protocol wants every callback answered by an assignment, and takes an empty one: what the
    # group thinks of the member is not what the client fetches.

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = _numbers(partitions)
        self._sure(
            lambda: consumer.incremental_assign([]) if self._incremental else consumer.assign([])
        )
        self._held.update(numbers)
        self._handlers.assigned(numbers)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._handlers.revoked(_numbers(partitions))
        self._release(consumer, partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._handlers.lost(_numbers(partitions))
        self._release(consumer, partitions)

    def _release(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._let_go(_numbers(partitions))
        self._sure(
            lambda: consumer.incremental_unassign([]) if self._incremental else consumer.unassign()
        )

    def _let_go(self, partitions: Collection[int]) -> None:
        self._held.difference_update(partitions)
        self.pause(partitions)

    def _sure(self, call: Callable[[], Answer]) -> Answer:
        """A call that works unless the client has given up."""
        try:
            return call()
        except KafkaException as error:
            raise raised(error) from None


def _numbers(partitions: list[TopicPartition]) -> tuple[int, ...]:
    return tuple(sorted(tp.partition for tp in partitions))
