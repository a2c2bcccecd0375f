"""From the client's messages to values, and what the client has to be told first."""

from __future__ import annotations

import contextlib
import operator
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException

from consumers.events import Polled, Record
from consumers.failures import failure

LEADERS_SECONDS = 1.0
"""Longest wait for the answer; without it the client goes on with what it knows."""


def refresh_leaders(consumer: Consumer, topic: str) -> None:
    """Let a client know the leaders of now before it asks one of them for an end of the log.

    The question carries the leader's epoch, and librdkafka repeats one that was refused for an
    epoch from before an election for ever, with the same epoch.
    """
    with contextlib.suppress(KafkaException):
        consumer.list_topics(topic, timeout=LEADERS_SECONDS)


def sort(messages: list[Any], complaints: dict[str, str]) -> Polled:
    """Records, ends and complaints of one turn; `ConsumerFailed` for what does not heal."""
    records: list[Record] = []
    ends: dict[int, int] = {}
    for message in messages:
        error = message.error()
        if error is None:
            records.append(_record(message))
        elif error.code() == KafkaError._PARTITION_EOF:
            ends[message.partition()] = message.offset()
        else:
            ended = failure(error, f"{message.topic()}/{message.partition()}")
            if ended is not None:
                raise ended
            complaints[error.name()] = error.str()
    return Polled(records, ends, complaints)


# A header whose name is not UTF-8 makes the client return a list with null pointers in it *and* an
# exception. The interpreter's fast path for method calls does not look for that combination, and
# would hand out the list; this way of calling does look, and raises SystemError.
_headers_of = operator.methodcaller("headers")


def _record(message: Any) -> Record:
    headers, lost = None, False
    try:
        headers = _headers_of(message)  # once only: a second call returns the broken list
    except (UnicodeDecodeError, SystemError):
        lost = True
    return Record(
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key(),
        message.value(),
        headers,
        lost,
    )
