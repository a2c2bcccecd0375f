"""librdkafka settings of every consumer of the worker, with why they differ from the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from consumers.events import ConsumerFailed

Settings = dict[str, Any]

FETCH_BUDGET_KILOBYTES = 65_536
"""Bound on prefetched records of one consumer; the client's own bound is per partition."""

SMALLEST_FETCH_KILOBYTES = 1024


SPELT_WITH_UNDERSCORES = frozenset({"log_level"})


def dotted(name: str) -> str:
    """librdkafka's own name of a setting that may be written with underscores for dots."""
    return name if name in SPELT_WITH_UNDERSCORES else name.replace("_", ".")


def common(bootstrap_servers: str, client_id: str, extra: Mapping[str, str]) -> Settings:
    """What all clients share: address, name, and the operator's own settings last."""
    own = {dotted(key): value for key, value in extra.items()}
    return {
        "bootstrap.servers": bootstrap_servers,
        "client.id": client_id,
        "log_level": 2,  # the shells report errors themselves, once and with the remedy
        "reconnect.backoff.max.ms": 1000,
        # A re-bootstrap forgets the group's coordinator while requests to it are waiting, and
        # nothing wakes them up again (librdkafka issue 5511). Brokers keep their addresses over
        # an outage, or are replaced one by one.
        "metadata.recovery.strategy": "none",
        **own,
    }


def consuming(base: Settings, group: str, partitions: int) -> Settings:
    """Reading committed records of up to `partitions` without ever committing by itself.

    What only tunes can be overridden by `base`; what exactly-once rests on cannot.
    """
    return {
        "fetch.wait.max.ms": 20,
        # After a full queue the default back-off of a second halves the throughput.
        "fetch.queue.backoff.ms": 10,
        "queued.max.messages.kbytes": max(
            FETCH_BUDGET_KILOBYTES // max(partitions, 1), SMALLEST_FETCH_KILOBYTES
        ),
        **base,
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": "read_committed",
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        "check.crcs": True,
    }


def make_client(kind: Any, settings: Settings) -> Any:
    """A client of the kind; `ConsumerFailed` naming the setting that librdkafka refuses."""
    try:
        return kind(settings)
    except (KafkaException, ValueError, TypeError) as error:
        reason = error.args[0]
        text = reason.str() if isinstance(reason, KafkaError) else str(error)
        raise ConsumerFailed("settings", text) from None
