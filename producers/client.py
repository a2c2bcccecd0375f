"""The transactional producer: effects as calls, errors as what to do next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

Headers = list[tuple[str, str | bytes | None]]


class Outgoing(NamedTuple):
    """One record to write; `timestamp_ms` of 0 or less lets the client take the wall clock."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: Headers


class Abortable(Exception):
    """The transaction cannot commit: abort, undo, rewind, go on."""


class OutcomeUnknown(Exception):
    """A commit or abort got no answer: make a new producer and look at the offsets."""


class ProducerLost(Exception):
    """The producer's epoch expired without another worker: make a new one, undo, go on."""


class Fenced(Exception):
    """Another worker runs under the same transactional id: exit."""


class AuthenticationFailed(Exception):
    """The cluster refuses the credentials or the ACLs: exit."""


class Unreachable(Exception):
    """The cluster did not answer in time: keep trying, not ready but alive."""


class TransactionalProducer:
    """One transaction at a time under a stable identity.

    Every call raises one of this module's exceptions, named for the reaction, and nothing
    else. Calls that the broker asks to repeat are repeated until `deadline_seconds`.
    """

    def __init__(
        self,
        base: Mapping[str, Any],
        transactional_id: str,
        transaction_timeout_ms: int,
        maximum_bytes: int,
    ) -> None:
        self._settings = {
            **base,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": transaction_timeout_ms,
            "linger.ms": 5,
            # A broker that still writes the markers of the last commit answers "concurrent
            # transactions"; the default back-off of 100 ms would then be every commit's cost.
            "retry.backoff.ms": 5,
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "message.max.bytes": maximum_bytes,
            "queue.buffering.max.messages": 500_000,
            "queue.buffering.max.kbytes": 262_144,
        }
        self._timeout_seconds = transaction_timeout_ms / 1000.0
        self._producer: Producer | None = None
        self._began = 0.0
        self.open = False

    def initialise(self, deadline_seconds: float) -> None:
        """Take the identity: fences an older holder and aborts what it left open."""
        self._producer = Producer(self._settings)
        self.open = False
        self._repeat(
            lambda left: self._client.init_transactions(left), deadline_seconds, Unreachable
        )

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

    def produce(self, records: Iterable[Outgoing]) -> None:
        """Queue records inside the open transaction; blocks while the queue is full."""
        client = self._client
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
                    self._guard(lambda: client.poll(0.05))
                except KafkaException as error:
                    raise self._classified(error) from None
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
            deadline_seconds,
            Abortable,
        )
        self._repeat(
            lambda left: self._client.commit_transaction(left),
            max(deadline - time.monotonic(), 1.0),
            OutcomeUnknown,
        )
        self.open = False

    def abort(self, deadline_seconds: float) -> None:
        """Abort the open transaction, if any."""
        if self.open:
            self._guard(lambda: self._client.purge(in_queue=True, in_flight=False, blocking=False))
            self._repeat(
                lambda left: self._client.abort_transaction(left), deadline_seconds, OutcomeUnknown
            )
            self.open = False

    def abandon(self) -> None:
        """Give up on the client without waiting for it; `initialise` makes another."""
        _ABANDONED.append(self._producer)
        self._producer = None
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
        # The broker fences a producer for two reasons: another one took its identity, or its
        # own transaction outlived the timeout. Only the first must end this worker.
        reaction = _reaction(error)
        expired = self.open and time.monotonic() - self._began > 0.9 * self._timeout_seconds
        if isinstance(reaction, Fenced) and expired:
            return ProducerLost(str(reaction))
        return reaction


_ABANDONED: list[Any] = []
"""Clients inside a call that never returns; destroying one would wait for that call."""

GRACE_SECONDS = 0.5


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


AUTHENTICATION_CODES = frozenset(
    {
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)


def _reaction(error: KafkaException) -> Exception:
    """What to do about a failed call."""
    kafka_error = error.args[0]
    text = f"{kafka_error.name()}: {kafka_error.str()}"
    if kafka_error.code() in AUTHENTICATION_CODES:
        return AuthenticationFailed(text)
    if kafka_error.code() in (
        KafkaError._FENCED,
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
    ):
        return Fenced(text)
    if kafka_error.code() in (
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
        KafkaError.UNKNOWN_PRODUCER_ID,
        KafkaError.INVALID_TXN_STATE,
    ):
        return ProducerLost(text)
    if kafka_error.txn_requires_abort():
        return Abortable(text)
    # Fatal, or neither retriable nor abortable: nothing can be concluded about the transaction.
    return ProducerLost(text)
