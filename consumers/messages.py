"""From the client's messages to values."""

from __future__ import annotations

import operator
from typing import Any

from confluent_kafka import KafkaError

from consumers.events import Polled, Record
from consumers.failures import failure


def sort(messages: list[Any]) -> Polled:
    """Records, ends and complaints of one turn; `ConsumerFailed` for what does not heal."""
    records: list[Record] = []
    ends: dict[int, int] = {}
    complaints: dict[str, str] = {}
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
