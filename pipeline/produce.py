"""Ticks into the input topic: keyed by asset, at a chosen pace.

The producer is idempotent and not transactional: a tick is written once per send, in order
per asset. Its partitioner is that of Java producers, so that both place an asset alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from consumers.settings import common
from pipeline.cluster import REFUSED_CREDENTIALS, make_client
from pipeline.config import Config
from pipeline.produce_checks import (
    NANOSECONDS_PER_MILLISECOND,
    RecordTime,
    check_times,
    check_topic,
    framing,
)
from pipeline.ticks import TickBatch
from schemas.codec import TickEncoder

DELIVERY_SECONDS = 60.0
"""A record that has not reached the broker after this is counted as failed."""
SLICE = 512
"""Most ticks between two looks at the clock and at delivery reports."""
IDLE_SECONDS = 0.05


class Pace(NamedTuple):
    """How fast ticks leave.

    - `rate`: ticks per second; 0 is as fast as possible.
    - `speed`: event time per wall time, 1 is as it happened; 0 is off. Not with a rate.
    """

    rate: float = 0.0
    speed: float = 0.0


@dataclass
class Production:
    """What has been produced so far.

    - `failed`: of the `ticks`, those that did not reach the broker; `reason` is the first one's.
    - `interrupted`: by Ctrl-C, before the end.
    - `back_in_time`: ticks whose event time is earlier than the one before of their asset.
    """

    ticks: int = 0
    failed: int = 0
    back_in_time: int = 0
    interrupted: bool = False
    reason: str = ""
    refused: bool = False
    latest: dict[str, int] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def note(self, batch: TickBatch) -> None:
        """Count ticks that have been queued."""
        self.ticks += len(batch)
        latest = self.latest
        for asset, stamp in zip(batch.asset_ids, batch.timestamps_ns.tolist(), strict=True):
            if latest.get(asset, stamp) > stamp:
                self.back_in_time += 1
            else:
                latest[asset] = stamp

    def summary(self) -> dict[str, Any]:
        """Counts, seconds, and delivered ticks per second."""
        seconds = time.monotonic() - self.began
        delivered = self.ticks - self.failed
        return {
            "ticks": delivered,
            "assets": len(self.latest),
            "seconds": round(seconds, 3),
            "rate": round(delivered / seconds, 1) if seconds > 0 else 0.0,
            "failed": self.failed,
            "back_in_time": self.back_in_time,
        }


def produce(
    config: Config,
    batches: Iterable[TickBatch],
    pace: Pace,
    record_time: RecordTime,
    progress: Callable[[int], None],
) -> Production:
    """Write the ticks and wait until the broker has them.

    **Arguments:**

    - `record_time`: what becomes the Kafka timestamp: the time of production, or the event time.
    - `progress`: called with the count of ticks sent since the last call.

    Ctrl-C drops what is not on its way yet and returns with `interrupted`.

    **Failure:** `UserError` where the broker or the topic is missing, where the registry does
    not hold the schema, and where event times cannot be kept; delivery failures are counted.
    """
    limits = check_topic(config, record_time)
    encoder = TickEncoder(framing(config))
    sender = _Sender(config, record_time, progress)
    schedule = Schedule(pace, time.monotonic())
    try:
        for batch in batches:
            if record_time == "event":
                check_times(batch, limits, config.topics.ticks, time.time() * 1000.0)
            sender.send(batch, encode(encoder, batch), schedule)
        sender.flush()
    except KeyboardInterrupt:
        sender.give_up()
    return sender.done


def encode(encoder: TickEncoder, batch: TickBatch) -> list[bytes]:
    """Values of a batch."""
    columns = {
        "asset_id": batch.asset_ids,
        "magnitude": batch.magnitudes,
        "timestamp_ns": batch.timestamps_ns,
        "dispersion_proxy": None,
        "state_tag": None,
        "reference": None,
        "request_id": None,
    }
    return encoder.encode(columns, len(batch))


class Schedule:
    """When each tick is due, in seconds of the monotonic clock; nothing waits for the past."""

    def __init__(self, pace: Pace, now: float) -> None:
        self._pace = pace
        self._began = now
        self._sent = 0
        self._first_ns: int | None = None

    def due(self, batch: TickBatch) -> np.ndarray[Any, Any] | None:
        """Due times of the batch's ticks; None: all at once."""
        count = len(batch)
        if self._pace.rate > 0.0:
            due = self._began + np.arange(self._sent, self._sent + count) / self._pace.rate
        elif self._pace.speed > 0.0 and count:
            if self._first_ns is None:
                self._first_ns = int(batch.timestamps_ns[0])
            elapsed = (batch.timestamps_ns - self._first_ns) / 1e9
            # A tick that lies back in event time leaves right after the one before it.
            due = np.maximum.accumulate(self._began + elapsed / self._pace.speed)
        else:
            return None
        self._sent += count
        return due


class _Sender:
    """The Kafka producer behind `produce`."""

    def __init__(
        self, config: Config, record_time: RecordTime, progress: Callable[[int], None]
    ) -> None:
        self.done = Production()
        self._topic = config.topics.ticks
        self._event_time = record_time == "event"
        self._progress = progress
        settings = common(config.kafka.bootstrap_servers, config.instance, config.kafka.extra)
        self._producer: Producer = make_client(
            config,
            Producer,
            {
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "compression.type": "lz4",
                "linger.ms": 5,
                "message.timeout.ms": int(DELIVERY_SECONDS * 1000),
                "queue.buffering.max.messages": 200_000,
                **settings,
                "on_delivery": self._delivered,
                "delivery.report.only.error": True,
            },
        )

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            return
        self.done.failed += 1
        self.done.refused |= error.code() in REFUSED_CREDENTIALS
        self.done.reason = self.done.reason or f"{error.name()}: {error.str()}"

    def send(self, batch: TickBatch, values: list[bytes], schedule: Schedule) -> None:
        """Queue a batch as it becomes due."""
        due = schedule.due(batch)
        times = batch.timestamps_ns // NANOSECONDS_PER_MILLISECOND if self._event_time else None
        position = 0
        while position < len(values):
            stop = min(position + SLICE, len(values))
            if due is not None:
                now = time.monotonic()
                stop = min(stop, int(np.searchsorted(due, now, side="right")))
                if stop <= position:
                    self._producer.poll(min(float(due[position]) - now, IDLE_SECONDS))
                    self._progress(0)
                    continue
            for index in range(position, stop):
                stamp = 0 if times is None else int(times[index])
                self._queue(values[index], batch.asset_ids[index], stamp)
            self.done.note(batch.part(position, stop))
            self._producer.poll(0)
            self._progress(stop - position)
            position = stop

    def _queue(self, value: bytes, key: str, timestamp_ms: int) -> None:
        while True:
            try:
                self._producer.produce(self._topic, value, key, timestamp=timestamp_ms)
                return
            except BufferError:
                self._producer.poll(IDLE_SECONDS)
                self._progress(0)
            except KafkaException as error:
                self.done.failed += 1
                self.done.reason = self.done.reason or error.args[0].str()
                return

    def flush(self) -> None:
        """Wait for the broker's answer about everything that was queued."""
        while self._producer.flush(IDLE_SECONDS):
            self._progress(0)

    def give_up(self) -> None:
        """Keep what is on its way, drop what waits."""
        self.done.interrupted = True
        self._producer.purge(in_queue=True, in_flight=False)
        self._producer.flush(1.0)
