"""Connections of a worker: everything is there and answers, or one line says what is not."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from consumers.fetcher import Fetcher
from consumers.offsets import Offsets
from consumers.settings import consuming
from pipeline.cluster import unreachable
from pipeline.config import Config
from pipeline.errors import ExitCode, UserError
from pipeline.outputs import Framings
from pipeline.registry import NotFound, Registry, Unavailable, subject_of
from pipeline.topics import preflight
from producers.client import TransactionalProducer, Unreachable
from schemas.codec import Framing, RecordName, schema_text

RECORD_BYTES = 16 * 1024 * 1024
"""Largest record that the producer takes where no topic asks for more."""

MAXIMUM_RECORD_BYTES = 128 * 1024 * 1024
"""Largest record that the producer takes at all: a fraction of its queue."""

RESTORE_FETCH_WAIT_MS = 10
"""Longest wait of the broker for more to send to a restore, which reads what is there."""


class Connection(NamedTuple):
    """Clients that have answered once; `fetcher` is the one for restores.

    `largest_dead_letter`: bytes of a record that topic and producer take.
    """

    producer: TransactionalProducer
    offsets: Offsets
    fetcher: Fetcher
    framings: Framings
    registry: Registry | None
    partitions: int
    largest_dead_letter: int


def connect(config: Config, settings: dict[str, Any]) -> Connection:
    """Check topics, take the producer's identity, look up the schemas of the outputs.

    **Failure:** `UserError` with exit code 4 after `worker.startup_timeout_seconds`.
    """
    deadline = time.monotonic() + config.worker.startup_timeout_seconds
    topics = preflight(config, config.worker.startup_timeout_seconds)
    record_bytes = min(max(topics.largest_dead_letter, RECORD_BYTES), MAXIMUM_RECORD_BYTES)
    producer = TransactionalProducer(
        settings, config.transactional_id, config.kafka.transaction_timeout_ms, record_bytes
    )
    try:
        producer.initialise(max(deadline - time.monotonic(), 1.0))
    except Unreachable as error:
        raise UserError(
            f"kafka.bootstrap_servers: {config.kafka.bootstrap_servers} gave no producer identity "
            f"within {config.worker.startup_timeout_seconds:g} s ({error}); check the cluster",
            ExitCode.PREFLIGHT,
        ) from None
    group = (config.kafka.application_id, topics.partitions)
    fetcher = Fetcher({**consuming(settings, *group), "fetch.wait.max.ms": RESTORE_FETCH_WAIT_MS})
    if not fetcher.warm(max(deadline - time.monotonic(), 1.0)):
        raise unreachable(config.kafka.bootstrap_servers, config.worker.startup_timeout_seconds)
    registry = Registry(config.schemas.registry_url) if config.schemas.registry_url else None
    framings = _framings(config, registry, deadline)
    return Connection(
        producer,
        Offsets(settings, *group),
        fetcher,
        framings,
        registry,
        topics.partitions,
        min(topics.largest_dead_letter, record_bytes),
    )


def _framings(config: Config, registry: Registry | None, deadline: float) -> Framings:
    names: tuple[tuple[RecordName, str], ...] = (
        ("prediction", config.topics.predictions),
        ("telemetry", config.topics.telemetry),
        ("event", config.topics.events),
    )
    if registry is None:
        return Framings(*(Framing.single_object() for _ in names))
    return Framings(*(_registered(config, registry, *pair, deadline) for pair in names))


def _registered(
    config: Config, registry: Registry, name: RecordName, topic: str, deadline: float
) -> Framing:
    subject = subject_of(topic)
    while True:
        answer = registry.schema_id(subject, schema_text(name))
        if isinstance(answer, int):
            return Framing.confluent(answer)
        if isinstance(answer, NotFound):
            raise UserError(
                f"schemas.registry_url: subject {subject} does not hold this version's schema; "
                "run `usp topics apply`",
                ExitCode.PREFLIGHT,
            )
        if time.monotonic() > deadline:
            assert isinstance(answer, Unavailable)
            raise UserError(
                f"schemas.registry_url: {config.schemas.registry_url} does not answer "
                f"({answer.detail}); start the registry or correct the address",
                ExitCode.PREFLIGHT,
            )
        time.sleep(0.2)
