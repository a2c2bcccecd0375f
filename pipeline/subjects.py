"""The schemas of the topics in a registry, one subject `<topic>-value` each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from pipeline.config import Config
from pipeline.errors import ExitCode, UserError
from pipeline.registry import (
    INPUT_COMPATIBILITY,
    OUTPUT_COMPATIBILITY,
    Compatibility,
    Refused,
    Registry,
    Unavailable,
    subject_of,
)
from schemas.codec import RecordName, schema_text

OUTPUT_RECORDS: dict[str, RecordName] = {
    "predictions": "prediction",
    "telemetry": "telemetry",
    "events": "event",
}
"""Record by name in `[topics]`; the other outputs are not Avro."""


def subjects(config: Config) -> list[tuple[str, RecordName, Compatibility]]:
    """Subject, record and compatibility of every Avro topic."""
    topics: dict[str, str] = msgspec.structs.asdict(config.topics)
    wanted: list[tuple[str, RecordName, Compatibility]] = [
        (subject_of(config.topics.ticks), "tick", INPUT_COMPATIBILITY)
    ]
    for name, record in OUTPUT_RECORDS.items():
        wanted.append((subject_of(topics[name]), record, OUTPUT_COMPATIBILITY))
    return wanted


def register(config: Config) -> Iterator[tuple[str, int]]:
    """Register every schema and yield subject and id; nothing without a registry.

    **Failure:** `UserError`, exit 4, or 6 where the registry refuses the credentials.
    """
    if not config.schemas.registry_url:
        return
    registry = Registry(config.schemas.registry_url)
    for subject, record, compatibility in subjects(config):
        answer: Any = registry.register(subject, schema_text(record), compatibility)
        if isinstance(answer, Refused):
            raise UserError(
                f"subject {subject}: the registry refuses the schema ({answer.detail}); an earlier "
                "version there is incompatible, so name another topic or delete the subject",
                ExitCode.PREFLIGHT,
            )
        if isinstance(answer, Unavailable):
            raise registry_unavailable(config, answer)
        yield subject, answer


def registry_unavailable(config: Config, answer: Unavailable) -> UserError:
    """The registry gave no usable answer."""
    if answer.status in (401, 403):
        return UserError(
            f"schemas.registry_url: the registry refuses this client ({answer.detail}); check the "
            "credentials in the address",
            ExitCode.AUTHENTICATION,
        )
    return UserError(
        f"schemas.registry_url: {without_credentials(config.schemas.registry_url)} does not answer "
        f"({answer.detail}); start the registry or correct the address",
        ExitCode.PREFLIGHT,
    )


def without_credentials(url: str) -> str:
    """The address with the part between `//` and `@` masked."""
    return ",".join(
        f"{head}//********@{rest.rpartition('@')[2]}" if "@" in rest else each
        for each in url.split(",")
        for head, _, rest in [each.partition("//")]
    )
