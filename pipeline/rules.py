"""Settings that are each admissible and cannot go together, with the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from consumers.settings import dotted
from predictor.settings import value_at

if TYPE_CHECKING:
    from pipeline.config import Config

TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")

OWN_FIELDS = {
    "bootstrap.servers": "kafka.bootstrap_servers",
    "client.id": "kafka.instance_id",
    "group.id": "kafka.application_id",
    "group.instance.id": "kafka.instance_id",
    "group.protocol": "kafka.group_protocol",
    "partition.assignment.strategy": "kafka.assignment",
    "session.timeout.ms": "kafka.session_timeout_ms",
    "transactional.id": "kafka.application_id and kafka.instance_id",
    "transaction.timeout.ms": "kafka.transaction_timeout_ms",
}
"""librdkafka settings that have a field of their own."""

FIXED = {
    "acks": "all copies have to have a record before it counts",
    "auto.offset.reset": "a gap in the log is refused, not skipped (kafka.start is for new groups)",
    "check.crcs": "damaged records must not be stepped",
    "enable.auto.commit": "offsets are committed with what they cause",
    "enable.auto.offset.store": "offsets are committed with what they cause",
    "enable.idempotence": "a record that is sent again must not appear twice",
    "enable.partition.eof": "recovery has to see the end of a log",
    "heartbeat.interval.ms": "it follows from kafka.session_timeout_ms",
    "isolation.level": "what was aborted must not be read",
    "max.poll.interval.ms": "it has to exceed the longest step",
    "message.max.bytes": "it follows from the dead-letter topic's max.message.bytes",
    "partitioner": "assets have to lie where Java producers put them",
}
"""librdkafka settings on which exactly-once rests, and why each is not free."""

ORDERED = (
    ("fusion.learning_rate_minimum", "fusion.learning_rate_maximum"),
    ("markov.entropy_gamma_min", "markov.entropy_gamma_default"),
    ("markov.entropy_gamma_default", "markov.entropy_gamma_max"),
    ("markov.entropy_volatility_low_threshold", "markov.entropy_volatility_high_threshold"),
)
"""Pairs of fields of which the first must not exceed the second."""


def contradictions(config: Config) -> Iterator[str]:
    """One line for each rule that the configuration breaks, naming fields and remedy."""
    yield from _times(config)
    yield from _extra(config)
    yield from _names(config)
    if config.history.topic_ticks and config.kafka.start == "earliest":
        yield (
            "history.topic_ticks: there is nothing before kafka.start = earliest; leave it out, or "
            'write kafka.start = "latest"'
        )
    for low, high in ORDERED:
        below, above = (value_at(config, tuple(path.split("."))) for path in (low, high))
        if below > above:
            yield f"{low}: {below:g} must not exceed {high} ({above:g})"


def _times(config: Config) -> Iterator[str]:
    interval, linger = config.worker.commit_interval_ms, config.worker.linger_ms
    timeout = config.kafka.transaction_timeout_ms
    # The commit itself takes its time too, and a transaction that expires is undone for ever.
    if 2 * interval > timeout:
        yield (
            f"worker.commit_interval_ms: {interval} ms is more than half of "
            f"kafka.transaction_timeout_ms ({timeout} ms), so that the broker would abort "
            f"transactions before they are committed; write at most {timeout // 2}, or raise "
            f"kafka.transaction_timeout_ms to {2 * interval} or more"
        )
    if linger > interval:
        yield (
            f"worker.linger_ms: {linger} ms is longer than worker.commit_interval_ms "
            f"({interval} ms), the longest time that a forecast may wait; write at most "
            f"{interval}, or raise worker.commit_interval_ms"
        )


def _extra(config: Config) -> Iterator[str]:
    for key in config.kafka.extra:
        name = dotted(key)
        if name in OWN_FIELDS:
            yield f"kafka.extra.{key}: has a field of its own; set {OWN_FIELDS[name]} instead"
        if name in FIXED:
            yield f"kafka.extra.{key}: is not free, {FIXED[name]}; remove it"


def _names(config: Config) -> Iterator[str]:
    names = list(msgspec.structs.asdict(config.topics).items())
    for index, (key, value) in enumerate(names):
        if not TOPIC_NAME.fullmatch(value) or value in (".", ".."):
            yield (
                f"topics.{key}: {value!r} is no name of a topic; write 1 to 249 letters, digits, "
                "dots, hyphens or underscores"
            )
        for other, taken in names[:index]:
            if value == taken:
                yield f"topics.{key}: {value!r} is already topics.{other}; name another topic"
    for url in filter(None, config.schemas.registry_url.split(",")):
        if not re.match(r"https?://.", url.strip()):
            yield (
                "schemas.registry_url: each address begins with http:// or https://; write "
                "http://host:port, or nothing for no registry"
            )
