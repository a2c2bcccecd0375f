"""The transaction coordinator: producer ids, epochs, and the life of each transaction.

Without I/O: what ends a transaction outside this file (markers in the logs, offsets in the
groups) is done by the two functions given to the coordinator, and time is an argument (`now`,
seconds of a monotonic clock). Since both take effect at once here, the states between an
open and a completed transaction, which Kafka needs, do not occur, and CONCURRENT_TRANSACTIONS is
never answered.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from .protocol import ErrorCode

LARGEST_TIMEOUT_SECONDS = 900.0
"""Kafka's `transaction.max.timeout.ms`."""

_LARGEST_EPOCH = 2**15 - 2  # one is left for the fence
NO_EPOCH = -1


class TransactionState(Enum):
    EMPTY = auto()
    ONGOING = auto()
    COMMITTED = auto()
    ABORTED = auto()


class ProducerIdentity(NamedTuple):
    producer_id: int
    epoch: int


NOBODY = ProducerIdentity(-1, NO_EPOCH)


@dataclass(slots=True, eq=False)
class Transaction:
    """What the coordinator knows of one transactional id."""

    producer_id: int
    epoch: int
    timeout: float
    last_epoch: int = NO_EPOCH  # the epoch before, if its owner may have missed the change
    state: TransactionState = TransactionState.EMPTY
    partitions: set[tuple[str, int]] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    deadline: float = float("inf")


class TransactionCoordinator:
    """All transactional ids of the broker.

    **Arguments:**

    - `write_marker(topic, partition, producer, commit)`: ends the transaction in one partition.
    - `end_offsets(group_id, producer_id, commit)`: publishes or drops the offsets it holds.
    """

    def __init__(
        self,
        write_marker: Callable[[str, int, ProducerIdentity, bool], None],
        end_offsets: Callable[[str, int, bool], None],
    ) -> None:
        self._write_marker = write_marker
        self._end_offsets = end_offsets
        self._transactions: dict[str, Transaction] = {}
        self._producer_ids = itertools.count(1000)

    def init_producer(
        self,
        transactional_id: str | None,
        timeout: float,
        expected: ProducerIdentity = NOBODY,
    ) -> tuple[ErrorCode, ProducerIdentity]:
        """Give a producer its id and epoch.

        With a transactional id the epoch rises, which fences every older instance, and what such
        an instance has left open is aborted. A producer that recovers from an error names the
        identity it had (`expected`); if that is no longer the newest, it is itself fenced.
        """
        if transactional_id is None:
            return ErrorCode.NONE, ProducerIdentity(next(self._producer_ids), 0)
        if not transactional_id:
            return ErrorCode.INVALID_REQUEST, NOBODY
        if not 0 < timeout <= LARGEST_TIMEOUT_SECONDS:
            return ErrorCode.INVALID_TRANSACTION_TIMEOUT, NOBODY
        known = self._transactions.get(transactional_id)
        if known is None:
            known = Transaction(next(self._producer_ids), NO_EPOCH, timeout)
            self._transactions[transactional_id] = known
        elif expected != NOBODY and expected != (known.producer_id, known.epoch):
            if expected == (known.producer_id, known.last_epoch):  # the first reply was lost
                return ErrorCode.NONE, ProducerIdentity(known.producer_id, known.epoch)
            return ErrorCode.PRODUCER_FENCED, NOBODY
        known.timeout = timeout
        if known.state is TransactionState.ONGOING:
            self._fence(known)
        self._raise_epoch(known, expected.epoch)
        known.state = TransactionState.EMPTY
        return ErrorCode.NONE, ProducerIdentity(known.producer_id, known.epoch)

    def _raise_epoch(self, transaction: Transaction, last_epoch: int) -> None:
        if transaction.epoch >= _LARGEST_EPOCH:
            transaction.producer_id, transaction.epoch = next(self._producer_ids), NO_EPOCH
            last_epoch = NO_EPOCH
        transaction.last_epoch = last_epoch
        transaction.epoch += 1

    def _fence(self, transaction: Transaction) -> None:
        """Abort under a higher epoch, so that the logs refuse what the owner still sends."""
        transaction.epoch += 1
        transaction.last_epoch = NO_EPOCH
        self._finish(transaction, commit=False)

    def add_partitions(
        self,
        transactional_id: str,
        producer: ProducerIdentity,
        partitions: set[tuple[str, int]],
        now: float,
    ) -> ErrorCode:
        """Make partitions part of the open transaction; the first ones open it."""
        transaction, error = self._find(transactional_id, producer)
        if transaction:
            self._open(transaction, now)
            transaction.partitions |= partitions
        return error

    def add_group(
        self, transactional_id: str, producer: ProducerIdentity, group_id: str, now: float
    ) -> ErrorCode:
        """Make a group's offsets part of the open transaction."""
        transaction, error = self._find(transactional_id, producer)
        if transaction:
            self._open(transaction, now)
            transaction.groups.add(group_id)
        return error

    def _find(
        self, transactional_id: str, producer: ProducerIdentity
    ) -> tuple[Transaction | None, ErrorCode]:
        transaction = self._transactions.get(transactional_id)
        if transaction is None or transaction.producer_id != producer.producer_id:
            return None, ErrorCode.INVALID_PRODUCER_ID_MAPPING
        if transaction.epoch != producer.epoch:
            return None, ErrorCode.PRODUCER_FENCED
        return transaction, ErrorCode.NONE

    def _open(self, transaction: Transaction, now: float) -> None:
        if transaction.state is not TransactionState.ONGOING:
            transaction.state = TransactionState.ONGOING
            transaction.deadline = now + transaction.timeout
            transaction.partitions.clear()
            transaction.groups.clear()

    def write_error(
        self, transactional_id: str, producer: ProducerIdentity, partition: tuple[str, int]
    ) -> ErrorCode:
        """Whether this producer may write to this partition in its open transaction."""
        transaction, error = self._find(transactional_id, producer)
        if error is ErrorCode.PRODUCER_FENCED:
            return ErrorCode.INVALID_PRODUCER_EPOCH  # what Kafka's logs answer
        if transaction and not (
            transaction.state is TransactionState.ONGOING and partition in transaction.partitions
        ):
            return ErrorCode.INVALID_TXN_STATE
        return error

    def offsets_error(
        self, transactional_id: str, producer: ProducerIdentity, group_id: str
    ) -> ErrorCode:
        """Whether this producer may put offsets of this group into its open transaction."""
        transaction, error = self._find(transactional_id, producer)
        if error is ErrorCode.PRODUCER_FENCED:
            return ErrorCode.INVALID_PRODUCER_EPOCH
        if transaction and not (
            transaction.state is TransactionState.ONGOING and group_id in transaction.groups
        ):
            return ErrorCode.INVALID_TXN_STATE
        return error

    def end(self, transactional_id: str, producer: ProducerIdentity, commit: bool) -> ErrorCode:
        """Commit or abort; asking the same again is answered the same."""
        transaction, error = self._find(transactional_id, producer)
        if transaction is None:
            return error
        if transaction.state is TransactionState.ONGOING:
            self._finish(transaction, commit)
            return ErrorCode.NONE
        same = TransactionState.COMMITTED if commit else TransactionState.ABORTED
        return ErrorCode.NONE if transaction.state is same else ErrorCode.INVALID_TXN_STATE

    def _finish(self, transaction: Transaction, commit: bool) -> None:
        producer = ProducerIdentity(transaction.producer_id, transaction.epoch)
        for topic, partition in sorted(transaction.partitions):
            self._write_marker(topic, partition, producer, commit)
        for group_id in sorted(transaction.groups):
            self._end_offsets(group_id, transaction.producer_id, commit)
        transaction.state = TransactionState.COMMITTED if commit else TransactionState.ABORTED
        transaction.deadline = float("inf")

    def expire(self, now: float) -> None:
        """Abort the transactions that have been open for too long, and fence their owners."""
        for transaction in self._transactions.values():
            if now >= transaction.deadline:
                self._fence(transaction)
