"""Questions about offsets: what a group has committed, where a log begins and truly ends.

They are asked without waiting: the answer to each partition arrives by itself, so that one
partition whose answer is held back (an open transaction, a leader that is away) holds up no other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from consumers.events import ConsumerFailed, Located
from consumers.failures import AUTHENTICATION_CODES, failure
from consumers.settings import Settings, consuming, make_client

REQUEST_SECONDS = 5.0
"""After which a request that got no answer counts as failed and may be asked again."""

Answer = TypeVar("Answer")
Client = TypeVar("Client")


class Unanswered(Exception):
    """The broker did not answer in time; ask again later."""


class Question(Generic[Answer]):
    """Something asked about some partitions, whose answers come one by one."""

    def __init__(
        self,
        asked: Mapping[int, Future[Any]],
        read: Callable[[int, Any], Answer],
        refused: Callable[[], None],
    ) -> None:
        self._asked = dict(asked)
        self._read = read
        self._refused = refused
        self.refusals: dict[int, str] = {}
        """Why a partition got no answer, by partition; ask again."""

    def forget(self, partition: int) -> None:
        """The answer about a partition is of no interest any more."""
        self._asked.pop(partition, None)
        self.refusals.pop(partition, None)

    def asks(self, partition: int) -> bool:
        """Whether the answer about a partition is still to come."""
        return partition in self._asked

    @property
    def pending(self) -> bool:
        """Whether any answer is still to come."""
        return bool(self._asked)

    def arrived(self) -> dict[int, Answer]:
        """Answers that have come since the last call.

        **Failure:** `ConsumerFailed` where the cluster refuses the credentials.
        """
        answers = {}
        for partition, future in list(self._asked.items()):
            if not future.done():
                continue
            del self._asked[partition]
            try:
                answers[partition] = self._read(partition, future.result())
            except KafkaException as error:
                self.refusals[partition] = _text_of(error.args[0])
                self._refused()
        return answers


class _Asker(Generic[Client]):
    """A client for questions, replaced once one of them was refused.

    A client may not recover from an outage: of the admin client the questions keep the leader
    epoch from before it, of a consumer they may never find the coordinator again.

    A client that was replaced is kept until its last question is answered, and ended here. Were it
    left to the garbage collector, that could run in the thread in which librdkafka brings an
    answer to this very client, and librdkafka ends the process where a client is destroyed there.
    """

    def __init__(self, make: Callable[[], Client], end: Callable[[Client], object]) -> None:
        self._make = make
        self._end = end
        self._client: Client | None = make()
        self._asked: list[tuple[Client, Future[Any]]] = []
        self._replaced: list[Client] = []

    def ask(
        self,
        question: Callable[[Client], Mapping[int, Future[Any]]],
        read: Callable[[int, Any], Answer],
    ) -> Question[Answer]:
        """Ask some partitions with the client of the hour."""
        self._end_replaced()
        if self._client is None:
            self._client = self._make()
        client = self._client
        futures = question(client)
        self._asked += [(client, future) for future in futures.values()]
        return Question(futures, read, lambda: self._replace(client))

    def _replace(self, client: Client) -> None:
        if self._client is client:
            self._client = None
            self._replaced.append(client)

    def _end_replaced(self) -> None:
        self._asked = [(client, future) for client, future in self._asked if not future.done()]
        busy = [client for client, _ in self._asked]
        for client in [each for each in self._replaced if each not in busy]:
            self._replaced.remove(client)
            self._end(client)

    def close(self) -> None:
        """End all clients once their questions are answered or have run out of time."""
        if self._client is not None:
            self._replace(self._client)
        wait([future for _, future in self._asked])
        self._end_replaced()


class Offsets:
    """Asks about the offsets of one group and of logs; it never joins and never commits."""

    def __init__(self, base: Settings, group: str, partitions: int) -> None:
        asking = consuming(base, group, partitions)
        self._members = _Asker[Consumer](
            lambda: make_client(Consumer, asking), lambda client: client.close()
        )
        self._admins = _Asker[AdminClient](
            lambda: make_client(AdminClient, base), lambda client: client.__exit__(None, None, None)
        )

    def ask_committed(self, topic: str, partitions: Iterable[int]) -> Question[Located]:
        """Stable committed offsets with metadata; a partition with one pending is refused."""
        # Not by the admin client: librdkafka ends the process with a failed assertion where the
        # group's coordinator goes away in the middle of its request.
        return self._members.ask(
            lambda client: {p: _committed(client, TopicPartition(topic, p)) for p in partitions},
            lambda _, answer: answer,
        )

    def ask_true_ends(self, topic: str, partitions: Iterable[int]) -> Question[int]:
        """High watermarks, open transactions included (the last stable offset may be lower)."""
        return self._ask_offsets(topic, partitions, OffsetSpec.latest())

    def ask_log_starts(self, topic: str, partitions: Iterable[int]) -> Question[int]:
        """First offsets that still exist."""
        return self._ask_offsets(topic, partitions, OffsetSpec.earliest())

    def _ask_offsets(self, topic: str, partitions: Iterable[int], spec: Any) -> Question[int]:
        wanted = {TopicPartition(topic, partition): spec for partition in partitions}

        def ask(client: AdminClient) -> dict[int, Future[Any]]:
            answers = client.list_offsets(
                wanted,
                isolation_level=IsolationLevel.READ_UNCOMMITTED,
                request_timeout=REQUEST_SECONDS,
            )
            return {tp.partition: future for tp, future in answers.items()}

        return self._admins.ask(ask, lambda _, answer: int(answer.offset))

    def committed(
        self, topic: str, partitions: list[int], timeout_seconds: float
    ) -> dict[int, Located]:
        """Committed offsets of all these partitions, waited for; `Unanswered` without them."""
        deadline = time.monotonic() + timeout_seconds
        found: dict[int, Located] = {}
        why = "no answer in time"
        while (left := deadline - time.monotonic()) > 0:
            question = self.ask_committed(topic, [p for p in partitions if p not in found])
            while question.pending and time.monotonic() < deadline:
                found |= question.arrived()
                time.sleep(0.002)
            if len(found) == len(partitions):
                return found
            why = next(iter(question.refusals.values()), why)
            time.sleep(min(0.02, left))
        raise Unanswered(why)

    def close(self) -> None:
        """Free the clients; waits for the questions that are still open."""
        self._members.close()
        self._admins.close()


def _committed(client: Consumer, wanted: TopicPartition) -> Future[Located]:
    """One partition's committed offset: one that is held back holds up no other."""
    answer: Future[Located] = Future()

    def ask() -> None:
        try:
            (found,) = client.committed([wanted], timeout=REQUEST_SECONDS)
            if found.error is not None:
                raise KafkaException(found.error)
        except Exception as error:
            answer.set_exception(error)
        else:
            offset = found.offset if found.offset >= 0 else None
            answer.set_result(Located(offset, found.metadata or ""))

    threading.Thread(target=ask, name=f"committed-{wanted.partition}", daemon=True).start()
    return answer


def _text_of(error: KafkaError) -> str:
    """The text of an error that time heals; raises where it does not."""
    if error.code() in AUTHENTICATION_CODES:
        raise failure(error) or ConsumerFailed("authentication", error.str())
    return str(error.str())
