"""Reading partitions from given offsets on, without membership in a group."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from consumers.events import Polled
from consumers.failures import failure, raised
from consumers.messages import sort
from consumers.settings import Settings, make_client


class Fetcher:
    """Committed records of partitions that come and go one by one, each from a given offset.

    Offsets are numbers. To look up a beginning or an end, librdkafka asks the leader with the epoch
    that it knows: refused for an epoch from before an election, it repeats the same question for
    ever; where the partition is taken and given back meanwhile, it may drop the question, and the
    partition never starts. `consumers.offsets` asks without either.

    Everything raises `ConsumerFailed` for what does not heal, and nothing else of the client.
    """

    def __init__(self, settings: Settings) -> None:
        self._consumer: Consumer = make_client(Consumer, settings)
        self._reading: set[tuple[str, int]] = set()

    def warm(self, timeout_seconds: float) -> bool:
        """Whether the cluster's metadata came in time; saves half a second on the first read."""
        with contextlib.suppress(KafkaException):
            self._consumer.list_topics(timeout=timeout_seconds)
            return True
        return False

    @property
    def idle(self) -> bool:
        """Whether nothing is being read."""
        return not self._reading

    def reads(self, topic: str, partition: int) -> bool:
        """Whether a partition is being read."""
        return (topic, partition) in self._reading

    def start(self, topic: str, partition: int, offset: int) -> None:
        """Read a partition from an offset on; what was fetched of it before is discarded."""
        self.stop(topic, partition)
        wanted = [TopicPartition(topic, partition, offset)]
        self._sure(lambda: self._consumer.incremental_assign(wanted))
        self._reading.add((topic, partition))

    def stop(self, topic: str, partition: int) -> None:
        """Read a partition no more; does nothing where it is not being read."""
        if self.reads(topic, partition):
            self._reading.discard((topic, partition))
            wanted = [TopicPartition(topic, partition)]
            self._sure(lambda: self._consumer.incremental_unassign(wanted))

    def pause(self, topic: str, partition: int) -> None:
        """Deliver nothing more of a partition until `resume`."""
        self._sure(lambda: self._consumer.pause([TopicPartition(topic, partition)]))

    def resume(self, topic: str, partition: int) -> None:
        """Deliver on."""
        self._sure(lambda: self._consumer.resume([TopicPartition(topic, partition)]))

    def poll(
        self, limit: int, wait_seconds: float, linger_seconds: float = 0.0
    ) -> dict[str, Polled]:
        """Up to `limit` records and the ends that were reached, by topic; complaints about the
        client as a whole under the empty topic.

        Waits for the first record, then at most the linger for the rest.
        """
        by_topic: dict[str, list[Any]] = {}
        complaints: dict[str, str] = {}
        for message in self._messages(limit, wait_seconds, linger_seconds, complaints):
            topic = message.topic()
            if topic is None:
                complaints |= sort([message]).complaints
            elif self.reads(topic, message.partition()):
                by_topic.setdefault(topic, []).append(message)
        polled = {topic: sort(messages) for topic, messages in by_topic.items()}
        return {**polled, "": Polled([], {}, complaints)} if complaints else polled

    def _messages(
        self, limit: int, wait_seconds: float, linger_seconds: float, complaints: dict[str, str]
    ) -> list[Any]:
        messages: list[Any] = []
        try:
            first = self._consumer.poll(wait_seconds)
            if first is None:
                return messages
            messages.append(first)
            if limit > 1:
                messages += self._consumer.consume(limit - 1, 0)
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
            complaints[error.args[0].name()] = error.args[0].str()
        return messages

    def close(self) -> None:
        """Free the client."""
        self._sure(self._consumer.close)

    def _sure(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except KafkaException as error:
            raise raised(error) from None
