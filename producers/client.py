"""The transactional producer: effects as calls, errors as what to do next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from producers.errors import (
    Abortable,
    AuthenticationFailed,
    Fenced,
    OutcomeUnknown,
    ProducerLost,
    SettingsRefused,
    Unreachable,
    reaction,
)

__all__ = [
    "Abortable",
    "AuthenticationFailed",
    "Fenced",
    "Headers",
    "OutcomeUnknown",
    "Outgoing",
    "ProducerLost",
    "SettingsRefused",
    "TransactionalProducer",
    "Unreachable",
]

SHARE_OF_OFFSETS = 0.6
"""Of the time for a commit; the commit itself must not find it all used up."""

GRACE_SECONDS = 0.5
"""Time beyond its own timeout that a call gets to come back by itself."""

Headers = list[tuple[str, str | bytes | None]]


class Outgoing(NamedTuple):
    """One record to write; `timestamp_ms` of 0 or less lets the client take the wall clock."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: Headers


class TransactionalProducer:
    """One transaction at a time under a stable identity.

    Every call raises one of the exceptions of `producers.errors`, named for the reaction, and
    nothing else. Calls that the broker asks to repeat are repeated until `deadline_seconds`.
    """

    def __init__(
        self,
        base: Mapping[str, Any],
        transactional_id: str,
        transaction_timeout_ms: int,
        maximum_bytes: int,
    ) -> None:
        # What only tunes can be overridden by `base`; what exactly-once rests on cannot.
        self._settings = {
            "linger.ms": 5,
            # A broker that still writes the markers of the last commit answers "concurrent
            # transactions"; the default back-off of 100 ms would then be every commit's cost.
            "retry.backoff.ms": 5,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 500_000,
            "queue.buffering.max.kbytes": 262_144,
            **base,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": transaction_timeout_ms,
            "partitioner": "murmur2_random",
            "message.max.bytes": maximum_bytes,
        }
        self._timeout_seconds = transaction_timeout_ms / 1000.0
        self._producer: Producer | None = None
        self._began = 0.0
        self.open = False

    def initialise(self, deadline_seconds: float) -> None:
        """Take the identity: fences an older holder and aborts what it left open.

        After `Unreachable` it may be called again and goes on where it was.
        """
        if self._producer is None:
            try:
                self._producer = Producer(self._settings)
            except (KafkaException, ValueError, TypeError) as error:
                reason = error.args[0]
                text = reason.str() if isinstance(reason, KafkaError) else str(error)
                raise SettingsRefused(text) from None
        self.open = False
        try:
            self._repeat(
                lambda left: self._client.init_transactions(left), deadline_seconds, Unreachable
            )
        except ProducerLost:
            self.abandon()
            raise

    @property
    def _client(self) -> Producer:
        if self._producer is None:
            raise RuntimeError("initialise the producer first")
        return self._producer

    def begin(self) -> None:
        """Open a transaction unless one is open."""
        if not self.open:
            self._guard(self._client.begin_transaction)
            self.open = True
            self._began = time.monotonic()

    def produce(self, records: Iterable[Outgoing], deadline_seconds: float) -> None:
        """Queue records inside the open transaction; waits while the queue is full."""
        client = self._client
        deadline = time.monotonic() + deadline_seconds
        for record in records:
            while True:
                try:
                    client.produce(
                        record.topic,
                        value=record.value,
                        key=record.key,
                        partition=record.partition,
                        timestamp=max(record.timestamp_ms, 0),
                        headers=record.headers,
                    )
                    break
                except BufferError:
                    if time.monotonic() > deadline:
                        raise Abortable("the broker takes no more records") from None
                    self._guard(lambda: client.poll(0.05))
                except KafkaException as error:
                    cause = self._cause(error.args[0])
                    # What failed is the transaction, earlier; the call that ends it says why.
                    if cause.code() == KafkaError._STATE:
                        raise Abortable("the transaction has failed already") from None
                    raise self._reaction(cause) from None
        self._guard(lambda: client.poll(0))

    def commit(
        self,
        topic: str,
        offsets: Mapping[int, tuple[int, str]],
        group_metadata: Any,
        deadline_seconds: float,
    ) -> None:
        """Send offsets with their metadata and commit."""
        positions = [
            TopicPartition(topic, partition, offset, metadata=metadata)
            for partition, (offset, metadata) in sorted(offsets.items())
        ]
        deadline = time.monotonic() + deadline_seconds
        client = self._client
        self._repeat(
            lambda left: _within(
                left, lambda: client.send_offsets_to_transaction(positions, group_metadata, left)
            ),
            SHARE_OF_OFFSETS * deadline_seconds,
            Abortable,
        )
        self._repeat(
            lambda left: self._client.commit_transaction(left),
            deadline - time.monotonic(),
            OutcomeUnknown,
        )
        self.open = False

    def abort(self, deadline_seconds: float) -> None:
        """Abort the open transaction, if any."""
        if not self.open:
            return
        deadline = time.monotonic() + deadline_seconds
        # What is queued is delivered first, though it is void. Dropping it from outside leaves a
        # gap in the sequence numbers, on which the next transaction breaks; leaving it to the
        # abort lets the end overtake the transaction's registration at the coordinator, which
        # is fatal (librdkafka issue 4849).
        self._guard(lambda: self._client.flush(deadline_seconds / 2))
        self._repeat(
            lambda left: self._client.abort_transaction(left),
            max(deadline - time.monotonic(), 0.1),
            OutcomeUnknown,
        )
        self.open = False

    def confirm(self, record: Outgoing, deadline_seconds: float) -> None:
        """Ask the broker whether this is the newest producer of its identity: `Fenced` where not.

        The question is a transaction with this record, which is aborted, with whatever was open.
        """
        deadline = time.monotonic() + deadline_seconds
        self.begin()
        self.produce([record], deadline_seconds / 2)
        self.abort(max(deadline - time.monotonic(), 0.1))

    def abandon(self) -> None:
        """Give up on the client without waiting for it; `initialise` makes another."""
        # Destroying waits for the client's own threads. It happens in a thread of its own, or in
        # the call that is still inside of the client, whichever lets go last.
        held, self._producer = [self._producer], None
        threading.Thread(target=held.clear, name="dispose", daemon=True).start()
        self.open = False

    def _guard(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except KafkaException as error:
            raise self._classified(error) from None

    def _repeat(
        self,
        call: Callable[[float], Any],
        deadline_seconds: float,
        when_silent: type[Exception],
    ) -> None:
        deadline = time.monotonic() + deadline_seconds
        while True:
            left = max(deadline - time.monotonic(), 0.1)
            try:
                call(left)
                return
            except KafkaException as error:
                kafka_error = error.args[0]
                if kafka_error.retriable() and time.monotonic() < deadline:
                    time.sleep(0.01)
                    continue
                if kafka_error.retriable() or kafka_error.code() == KafkaError._TIMED_OUT:
                    raise when_silent(kafka_error.str()) from None
                raise self._classified(error) from None

    def _classified(self, error: KafkaException) -> Exception:
        return self._reaction(self._cause(error.args[0]))

    def _reaction(self, cause: KafkaError) -> Exception:
        # The broker fences a producer for two reasons: another one took its identity, or its
        # own transaction outlived the timeout. Only the first must end this worker.
        wanted = reaction(cause)
        expired = self.open and time.monotonic() - self._began > 0.9 * self._timeout_seconds
        if isinstance(wanted, Fenced) and expired:
            return ProducerLost(str(wanted))
        return wanted

    def _cause(self, error: KafkaError) -> KafkaError:
        """The error behind `_FATAL`, which some calls put in its place, and behind `_STATE`, by
        which records are refused too while a transaction fails for good."""
        refused = error.code() == KafkaError._STATE and self.open
        if error.code() == KafkaError._FATAL or refused:
            try:
                # Never succeeds after a fatal error, which it names, or in an open transaction.
                self._client.begin_transaction()
            except KafkaException as named:
                if not refused or named.args[0].fatal():
                    return named.args[0]
        return error


def _within(seconds: float, call: Callable[[], Any]) -> None:
    """Run a call that may ignore its own timeout (librdkafka issue 5456: it waits for a group
    coordinator for ever); `ProducerLost` when it has not returned in time."""
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            call()
            outcome.set_result(None)
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="send-offsets", daemon=True).start()
    try:
        outcome.result(seconds + GRACE_SECONDS)
    except TimeoutError:
        raise ProducerLost("the group coordinator does not answer") from None
