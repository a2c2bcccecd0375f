"""Whether ticks can be produced as asked: topic, record time, schema."""

from __future__ import annotations

import math
import time
from typing import Literal, NamedTuple

import numpy as np

from pipeline.cluster import Cluster
from pipeline.config import Config
from pipeline.errors import ExitCode, UserError
from pipeline.registry import NotFound, Registry, Unavailable, subject_of
from pipeline.subjects import registry_unavailable
from pipeline.ticks import TickBatch
from pipeline.topics import FOR_EVER, NO_LIMIT
from schemas.codec import Framing, schema_text

RecordTime = Literal["production", "event"]
"""What becomes the Kafka timestamp."""

NANOSECONDS_PER_MILLISECOND = 1_000_000


class TimestampLimits(NamedTuple):
    """How far from its own clock a broker accepts the timestamp of a record, in ms."""

    before: float
    after: float


def check_topic(config: Config, record_time: RecordTime) -> TimestampLimits:
    """The topic is there, and keeps event times if these are asked for."""
    topic = config.topics.ticks
    cluster = Cluster(config)
    if topic not in cluster.topics(config.worker.startup_timeout_seconds):
        raise UserError(
            f"topics.ticks = {topic!r}: no such topic; run `usp topics apply`", ExitCode.PREFLIGHT
        )
    if record_time == "production":
        return TimestampLimits(math.inf, math.inf)
    settings = cluster.settings([topic])[topic]
    if settings.get("message.timestamp.type") == "LogAppendTime":
        raise UserError(
            f"--record-time event: topic {topic} stamps records itself (message.timestamp.type is "
            "LogAppendTime); set it to CreateTime, or leave the option out",
            ExitCode.PREFLIGHT,
        )
    if settings.get("retention.ms") != FOR_EVER:
        raise UserError(
            f"--record-time event: topic {topic} keeps records {settings.get('retention.ms')} ms, "
            "so that Kafka would delete old event times within minutes; set its retention.ms to "
            "-1 and run `usp topics apply`, or leave the option out",
            ExitCode.PREFLIGHT,
        )
    return TimestampLimits(
        float(settings.get("message.timestamp.before.max.ms", NO_LIMIT)),
        float(settings.get("message.timestamp.after.max.ms", NO_LIMIT)),
    )


def check_times(batch: TickBatch, limits: TimestampLimits, topic: str, now_ms: float) -> None:
    """`UserError` where the broker would refuse an event time as a record's time."""
    if not len(batch):
        return
    times = batch.timestamps_ns // NANOSECONDS_PER_MILLISECOND
    oldest, newest = int(times.min()), int(times.max())
    remedy = "or leave out --record-time event"
    if oldest <= 0:
        raise UserError(
            f"--record-time event: a tick of {_shown(oldest)} lies before 1970, where Kafka has no "
            f"timestamps; {remedy}",
            ExitCode.PREFLIGHT,
        )
    for name, distance, limit, each in (
        ("before", now_ms - oldest, limits.before, oldest),
        ("after", newest - now_ms, limits.after, newest),
    ):
        if distance > limit:
            raise UserError(
                f"--record-time event: topic {topic} refuses a record of {_shown(each)} "
                f"(message.timestamp.{name}.max.ms is {limit:.0f}); raise that limit, {remedy}",
                ExitCode.PREFLIGHT,
            )


def _shown(milliseconds: int) -> str:
    return f"{np.datetime64(milliseconds, 'ms')}Z"


def framing(config: Config) -> Framing:
    """How values are marked: by a registry id where a registry is configured."""
    if not config.schemas.registry_url:
        return Framing.single_object()
    registry = Registry(config.schemas.registry_url)
    subject = subject_of(config.topics.ticks)
    deadline = time.monotonic() + config.worker.startup_timeout_seconds
    while True:
        answer = registry.schema_id(subject, schema_text("tick"))
        if isinstance(answer, int):
            return Framing.confluent(answer)
        if isinstance(answer, NotFound):
            raise UserError(
                f"schemas.registry_url: subject {subject} does not hold the tick schema; run "
                "`usp topics apply`",
                ExitCode.PREFLIGHT,
            )
        credentials = isinstance(answer, Unavailable) and answer.status in (401, 403)
        if credentials or time.monotonic() > deadline:
            raise registry_unavailable(config, answer)
        time.sleep(0.2)
