"""What became of a transaction: attempts, aborts, and asking until the cluster has said it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from consumers.offsets import Offsets, Unanswered
from pipeline import core
from pipeline.log import Log
from pipeline.patience import Patience
from pipeline.transaction import Transactor
from producers.client import (
    Abortable,
    OutcomeUnknown,
    Outgoing,
    ProducerLost,
    TransactionalProducer,
    Unreachable,
)

COMMIT_SECONDS = 5.0
"""Budget of a commit or abort where the transaction timeout allows it."""

RECONNECT_SECONDS = 5.0


class StoppedWithoutBroker(Exception):
    """Asked to stop while the broker is away: nothing is lost, the next start replays."""


class Settlement:
    """Calls of the producer, with what their failures mean for the core.

    A commit gets less time than the transaction timeout, so that an expired one is noticed.
    """

    def __init__(
        self,
        producer: TransactionalProducer,
        transactor: Transactor,
        offsets: Offsets,
        topic: str,
        transaction_timeout_ms: int,
        patience: Patience,
        log: Log,
    ) -> None:
        self._producer = producer
        self._transactor = transactor
        self._offsets = offsets
        self._topic = topic
        self._patience = patience
        self._log = log
        self._commit_seconds = min(COMMIT_SECONDS, transaction_timeout_ms / 2000)

    def attempt(
        self, call: Callable[[float], None], partitions: Callable[[], Iterable[int]]
    ) -> core.Event | None:
        """Run a call with the seconds that it may take; the event for the core where it failed.

        **Arguments:** `partitions` whose offsets say what became of a commit without an answer.

        **Failure:** `Fenced`, `AuthenticationFailed`, `SettingsRefused`, `StoppedWithoutBroker`.
        """
        try:
            call(self._patience.part(self._commit_seconds))
            return None
        except Abortable as error:
            self._log.warning("transaction_aborted", reason=str(error))
            return core.CommitRefused()
        except (OutcomeUnknown, ProducerLost) as error:
            reason = str(error)
        # Outside of the handler, whose traceback would keep the abandoned client alive.
        self._log.warning("producer_replaced", reason=reason)
        self._replace_producer()
        return core.ProducerReplaced(self._offsets_at_broker(sorted(partitions())))

    def abort(self) -> None:
        """End the open transaction at the broker, if need be by a new producer."""
        self._or_replaced(self._producer.abort)

    def confirm_identity(self, record: Outgoing) -> None:
        """`Fenced` where a newer worker has this one's identity; `record` is written, and aborted
        with whatever is open."""
        self._or_replaced(lambda seconds: self._producer.confirm(record, seconds))

    def _or_replaced(self, call: Callable[[float], None]) -> None:
        try:
            call(self._patience.part(self._commit_seconds))
            return
        except (Abortable, OutcomeUnknown, ProducerLost) as error:
            reason = str(error)
        self._log.warning("producer_replaced", reason=reason)
        self._replace_producer()

    def drain(self, offsets: Mapping[int, int], reserve_seconds: float) -> None:
        """Snapshot what is uncovered in these partitions, so that whoever comes next replays
        nothing: oldest first, in bounded transactions, up to `reserve_seconds` before the end."""
        try:
            while self._patience.left() > reserve_seconds:
                seconds = self._patience.part(self._commit_seconds)
                if not self._transactor.snapshot_oldest(offsets, seconds):
                    return
            reason, lost = "no time is left", False
        except Abortable as error:
            reason, lost = str(error), False
        except (OutcomeUnknown, ProducerLost) as error:
            reason, lost = str(error), True
        # Without these snapshots the next owner replays more; nothing is lost.
        self._log.warning("drain_ended_early", reason=reason)
        self._transactor.forget()
        if lost:
            self._replace_producer()
        else:
            self.abort()

    def _replace_producer(self) -> None:
        """A new producer under the same identity: it ends whatever the old one left open."""
        self._producer.abandon()
        while True:
            try:
                self._producer.initialise(self._again_seconds())
                return
            except (Unreachable, ProducerLost, Abortable) as error:
                self._log.warning("broker_away", reason=str(error))
                self._give_up_if_stopping("the broker is away")

    def _offsets_at_broker(self, partitions: list[int]) -> Mapping[int, int]:
        while True:
            try:
                located = self._offsets.committed(self._topic, partitions, self._again_seconds())
            except Unanswered as error:
                self._log.warning("broker_away", reason=str(error))
                self._give_up_if_stopping("the committed offsets cannot be read")
                continue
            return {p: found.offset for p, found in located.items() if found.offset is not None}

    def _again_seconds(self) -> float:
        # There is nothing else to do than to ask again, unless the worker has to stop.
        stopping = self._patience.stopping
        return self._patience.part(RECONNECT_SECONDS) if stopping else RECONNECT_SECONDS

    def _give_up_if_stopping(self, why: str) -> None:
        if self._patience.pause(0.2):
            raise StoppedWithoutBroker(why)
