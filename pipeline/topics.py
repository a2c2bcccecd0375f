"""The topics: what they must be, what they are, and the steps between.

Outputs have as many partitions as the input, since every output goes to the partition number
of its tick. They carry the tick's own Kafka timestamp, which may lie far from the present, so
their limits on timestamps are lifted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from pipeline.cluster import Cluster
from pipeline.config import Config
from pipeline.errors import ExitCode, UserError
from pipeline.subjects import register

DEFAULT_PARTITIONS = 4
MOST_REPLICAS = 3

NO_LIMIT = str(2**63 - 1)
LONG_SEGMENT_MS = str(366 * 24 * 3600 * 1000)
"""A segment ends when its records span this much *record* time, so that a short one would be
rolled every few records where records carry event times."""
SNAPSHOT_SEGMENT_BYTES = str(64 * 1024 * 1024)
"""Only closed segments are compacted, and a restore reads what is not."""
DEAD_LETTER_HEADROOM_BYTES = 1_048_576
LEAST_HEADROOM_BYTES = 16 * 1024
"""What a dead letter's reason takes at most, beside the whole of the original."""
DEFAULT_RECORD_BYTES = 1_048_588
"""Kafka's own default of `max.message.bytes`."""
FOR_EVER = "-1"

APPEAR_SECONDS = 3.0
"""Time that topics get to appear before they count as missing."""

OUTPUTS = ("predictions", "telemetry", "events", "snapshots", "dead_letters")
"""Names in `[topics]` of all but the input."""

Action = Literal["keep", "create", "alter", "refuse"]


@dataclass(frozen=True)
class Step:
    """One topic of a plan.

    - `partitions`: as the topic has or will have them.
    - `settings`: those to be set.
    """

    topic: str
    action: Action
    detail: str
    partitions: int
    settings: Mapping[str, str]


@dataclass(frozen=True)
class Existing:
    """A topic as the cluster has it."""

    partitions: int
    settings: Mapping[str, str]


def wanted_settings(name: str, input_settings: Mapping[str, str]) -> dict[str, str]:
    """Settings of an output, given those of the input."""
    settings = {
        "cleanup.policy": "compact" if name == "snapshots" else "delete",
        "message.timestamp.type": "CreateTime",
        "message.timestamp.after.max.ms": NO_LIMIT,
        "message.timestamp.before.max.ms": NO_LIMIT,
        "segment.ms": LONG_SEGMENT_MS,
        # The producer fills its batches up to a little less, whatever the topic.
        "max.message.bytes": str(DEFAULT_RECORD_BYTES),
    }
    if name == "snapshots":
        settings["segment.bytes"] = SNAPSHOT_SEGMENT_BYTES
    elif input_settings.get("retention.ms") == FOR_EVER:
        # Such an input may carry event times, of 1990 for example; any limit on age would
        # delete the answers to them within minutes.
        settings["retention.ms"] = FOR_EVER
    if name == "dead_letters":
        largest = _largest_record(input_settings) + DEAD_LETTER_HEADROOM_BYTES
        settings["max.message.bytes"] = str(largest)
    return settings


def _largest_record(settings: Mapping[str, str]) -> int:
    return int(settings.get("max.message.bytes") or DEFAULT_RECORD_BYTES)


_EXACT = ("cleanup.policy", "message.timestamp.type", "retention.ms")
_AT_LEAST = (
    "message.timestamp.after.max.ms",
    "message.timestamp.before.max.ms",
    "segment.ms",
    "max.message.bytes",
)


def differences(wanted: Mapping[str, str], existing: Mapping[str, str]) -> dict[str, str]:
    """Settings of an existing topic that have to change.

    Those that the broker does not report it does not know. Those that are neither exact nor a
    lower bound are chosen at creation and then the operator's.
    """
    changes = {}
    for name, value in wanted.items():
        found = existing.get(name)
        if not found:
            continue
        if (name in _EXACT and found != value) or (name in _AT_LEAST and int(found) < int(value)):
            changes[name] = value
    return changes


def plan(config: Config, cluster: Cluster, partitions: int | None = None) -> list[Step]:
    """What `apply` would do, the input first; `partitions` is for an input yet to be created.

    **Failure:** `UserError` where the cluster does not answer within
    `worker.startup_timeout_seconds`.
    """
    counts = cluster.topics(config.worker.startup_timeout_seconds)
    topics: dict[str, str] = msgspec.structs.asdict(config.topics)
    settings = cluster.settings(topic for topic in topics.values() if topic in counts)
    ticks = config.topics.ticks
    first = _input_step(ticks, counts.get(ticks), partitions)
    steps = [first]
    for name in OUTPUTS:
        topic = topics[name]
        existing = Existing(counts[topic], settings[topic]) if topic in counts else None
        wanted = wanted_settings(name, settings.get(ticks, {}))
        steps.append(_output_step(topic, first, wanted, existing))
    return steps


def _input_step(ticks: str, count: int | None, partitions: int | None) -> Step:
    if count is None:
        count = partitions or DEFAULT_PARTITIONS
        return Step(ticks, "create", f"{count} partitions", count, {})
    if partitions is not None and partitions != count:
        detail = (
            f"has {count} partitions, not {partitions}; more would move keys away from their "
            "states, so name another topic, or leave out --partitions"
        )
        return Step(ticks, "refuse", detail, count, {})
    return Step(ticks, "keep", "as it is", count, {})


def _output_step(
    topic: str, ticks: Step, wanted: dict[str, str], existing: Existing | None
) -> Step:
    if existing is None:
        detail = f"{ticks.partitions} partitions, {wanted['cleanup.policy']}"
        return Step(topic, "create", detail, ticks.partitions, wanted)
    if existing.partitions != ticks.partitions:
        detail = (
            f"has {existing.partitions} partitions, the input {ticks.topic} has "
            f"{ticks.partitions}; delete it and apply again, or name another topic"
        )
        return Step(topic, "refuse", detail, existing.partitions, {})
    changes = differences(wanted, existing.settings)
    if changes:
        detail = ", ".join(
            f"{name} {existing.settings[name]} → {value}" for name, value in changes.items()
        )
        return Step(topic, "alter", detail, ticks.partitions, changes)
    return Step(topic, "keep", "as it is", ticks.partitions, {})


def refuse_if_refused(steps: list[Step]) -> None:
    """`UserError` (exit 4) naming the topics that no change of settings can mend."""
    refused = [f"topic {step.topic}: {step.detail}" for step in steps if step.action == "refuse"]
    if refused:
        raise UserError("; ".join(refused), ExitCode.PREFLIGHT)


def apply(
    config: Config,
    partitions: int | None = None,
    replication: int | None = None,
    dry_run: bool = False,
) -> tuple[list[Step], dict[str, int]]:
    """Create and mend topics, then register the schemas; repeating it changes nothing.

    **Arguments:**

    - `partitions`: of the input where it does not exist; None is `DEFAULT_PARTITIONS`.
    - `replication`: copies of new topics; None is one per broker, at most `MOST_REPLICAS`.

    **Returns:** the steps, and the schema id by subject (empty without a registry).

    **Failure:** `UserError` (exit 4) naming the topics that cannot be mended; nothing is changed
    then.
    """
    cluster = Cluster(config)
    steps = plan(config, cluster, partitions)
    refuse_if_refused(steps)
    if dry_run:
        return steps, {}
    copies = replication or min(MOST_REPLICAS, cluster.brokers())
    for step in steps:
        if step.action == "create":
            cluster.create(step.topic, step.partitions, copies, step.settings)
        elif step.action == "alter":
            cluster.alter(step.topic, step.settings)
    return steps, dict(register(config))


@dataclass(frozen=True)
class Fitness:
    """What a worker has to know about topics that fit.

    - `partitions`: of the input, and so of every topic.
    - `largest_dead_letter`: bytes of a record that the dead-letter topic takes.
    """

    partitions: int
    largest_dead_letter: int


def preflight(config: Config, timeout_seconds: float) -> Fitness:
    """Check that every topic is there and fits.

    **Failure:** `UserError` with exit code 4 (6 for refused credentials) and one line that names
    field, topic and remedy.
    """
    cluster = Cluster(config)
    topics: dict[str, str] = msgspec.structs.asdict(config.topics)
    counts = _counts(cluster, topics, timeout_seconds)
    count = counts[config.topics.ticks]
    for key, topic in topics.items():
        if counts[topic] != count:
            raise UserError(
                f"topics.{key} = {topic!r}: has {counts[topic]} partitions, the input "
                f"{config.topics.ticks} has {count}; delete it and run `usp topics apply`, or name "
                "another topic",
                ExitCode.PREFLIGHT,
            )
    try:
        settings = cluster.settings(topics.values())
    except UserError as error:
        if error.exit_code != ExitCode.AUTHENTICATION:
            raise
        # A worker needs no right to read settings; `topics plan` tells its operator.
        return Fitness(count, DEFAULT_RECORD_BYTES)
    for name in OUTPUTS:
        fault = _unfit(name, settings[topics[name]], settings[config.topics.ticks])
        if fault:
            raise UserError(
                f"topics.{name} = {topics[name]!r}: {fault}; run `usp topics apply`",
                ExitCode.PREFLIGHT,
            )
    return Fitness(count, _largest_record(settings[config.topics.dead_letters]))


def _counts(cluster: Cluster, topics: Mapping[str, str], timeout_seconds: float) -> dict[str, int]:
    # A broker that has just started, or a topic that has just been made, takes a moment to settle.
    deadline = time.monotonic() + APPEAR_SECONDS
    while True:
        counts = cluster.topics(timeout_seconds)
        missing = [f"topics.{key} = {name!r}" for key, name in topics.items() if name not in counts]
        if not missing:
            return counts
        if time.monotonic() > deadline:
            raise UserError(
                f"{', '.join(missing)}: no such topic; run `usp topics apply`", ExitCode.PREFLIGHT
            )
        time.sleep(0.1)


def _unfit(name: str, output: Mapping[str, str], ticks: Mapping[str, str]) -> str | None:
    """Why transactions would sooner or later fail for ever on a topic, or lose what they wrote."""
    policy = output.get("cleanup.policy", "")
    if name == "snapshots" and policy not in ("", "compact"):
        return f"cleanup.policy is {policy}, which deletes states that are still needed"
    largest, why = DEFAULT_RECORD_BYTES, "which the producer's batches may have"
    if name == "dead_letters":
        largest = _largest_record(ticks) + LEAST_HEADROOM_BYTES
        why = "for the largest record of the input with the reason beside it"
    accepts_after = int(ticks.get("message.timestamp.after.max.ms") or 0)
    for setting, least, reason in (
        ("max.message.bytes", largest, why),
        ("message.timestamp.after.max.ms", accepts_after, "as the input accepts"),
        ("message.timestamp.before.max.ms", int(NO_LIMIT), "since answers keep their tick's time"),
    ):
        found = output.get(setting)
        if found and int(found) < least:
            return f"{setting} is {found}, less than {least}, {reason}"
    return None
