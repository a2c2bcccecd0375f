"""A rig around real worker processes: topics of its own, plain producers, read_committed eyes.

The producer is not ours in design: confluent-kafka and fastavro, key = asset.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import fastavro
import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from pipeline import device
from pipeline.config import load
from pipeline.log import Log
from pipeline.pool import StatePool
from pipeline.startup import connect
from pipeline.topics import wanted_settings
from pipeline.worker import Worker, client_settings
from predictor import FunctionalPredictor, Observation, PredictorConfig
from producers.client import TransactionalProducer
from schemas.codec import decode_record, load_schema

PARTITIONS = 4
PATIENCE_SECONDS = 240.0
"""Time for a start that finds no compiled step, beside other work; nothing sleeps for it."""
STOP_SECONDS = 25.0
"""What is promised of a stop, whatever the worker and its broker are doing."""

BASE_NS = 1_700_000_000_000_000_000
SECOND_NS = 1_000_000_000

TICK_SCHEMA = fastavro.parse_schema(load_schema("tick"))
SINGLE_OBJECT_HEADER = b"\xc3\x01" + bytes.fromhex(
    fastavro.schema.fingerprint(
        fastavro.schema.to_parsing_canonical_form(TICK_SCHEMA), "CRC-64-AVRO"
    )
)

Source = tuple[int, int]
Producing = TypeVar("Producing", bound=TransactionalProducer)

COMPARED_FIELDS = (
    "sequence",
    "reference_prediction",
    "confidence_lower",
    "confidence_upper",
    "location",
    "scale",
    "operating_mode",
    "mode",
    "weights",
    "kernel_predictions",
    "holder_exponent",
    "kurtosis",
    "cusum_drift",
    "adaptive_threshold",
    "distance_to_collapse",
    "free_energy",
    "degraded_inference_mode",
    "emergency_mode",
    "regime_change_detected",
    "outlier_rejected",
)
ENUMS = {
    "operating_mode": ("inference", "calibration", "diagnostic"),
    "mode": ("standard", "robust", "emergency"),
}


@dataclass(frozen=True)
class SentTick:
    """A good tick and where it landed."""

    asset: str
    magnitude: float
    timestamp_ns: int


def plain_tick(asset: str, magnitude: float, timestamp_ns: int) -> bytes:
    """A tick as any Avro producer writes it."""
    buffer = io.BytesIO()
    fastavro.schemaless_writer(
        buffer,
        TICK_SCHEMA,
        {"asset_id": asset, "magnitude": magnitude, "timestamp_ns": timestamp_ns},
    )
    return SINGLE_OBJECT_HEADER + buffer.getvalue()


def wait_for(condition: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Poll a condition with a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"no {what} within {seconds:g} s")
        time.sleep(0.02)


class WorkerProcess:
    """`usp run` as a process; `events` are its log lines so far."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipeline", "run"],
                env=environment,
                cwd=log.parent,
                stdout=stream,
                stderr=stream,
            )

    def kill(self) -> None:
        """kill −9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def ended(self) -> int:
        """The exit code of a worker that ends by itself, and may have to compile first."""
        return self.process.wait(PATIENCE_SECONDS)

    def terminate(self) -> int:
        """SIGTERM, and the exit code, which has to come in time."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    @property
    def text(self) -> str:
        """All it has written."""
        return self._log.read_text(errors="replace")

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log lines of one event."""
        lines = (line for line in self.text.splitlines() if line.startswith("{"))
        parsed = [json.loads(line) for line in lines]
        return [line for line in parsed if line["event"] == name]

    def wait_for_event(self, name: str, count: int = 1) -> None:
        """Until the log holds the event, or the process has ended."""

        def there() -> bool:
            if self.process.poll() is not None and len(self.events(name)) < count:
                raise AssertionError(f"the worker ended before {name}: {self.text[-2000:]}")
            return len(self.events(name)) >= count

        wait_for(there, f"{name} in the worker's log")


def in_process_worker(
    rig: Rig, producer_type: type[Producing], log: Log, **settings: str
) -> tuple[Worker, Producing]:
    """A worker of this process whose producer is watched or made to fail."""
    config = load(None, rig.environment("inside", **settings))
    device.configure(config.device)
    base = client_settings(config)
    connection = connect(config, base)
    producer = producer_type(
        base, config.transactional_id, config.kafka.transaction_timeout_ms, 8_000_000
    )
    producer.initialise(30.0)
    pool = StatePool(config.predictor, config.device.slab_assets)
    environment = device.environment_fingerprint(config)
    return Worker(config, pool, connection._replace(producer=producer), environment, log), producer


@contextlib.contextmanager
def running(worker: Worker) -> Iterator[None]:
    """Run a worker of this process in a thread, and stop it at the end."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            worker.run()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join(40)
    assert not thread.is_alive()
    assert failures == []


@dataclass
class Outputs:
    """What a read_committed consumer has seen."""

    predictions: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    dead_letters: list[Any] = field(default_factory=list)
    telemetry: list[dict[str, Any]] = field(default_factory=list)

    def answers(self) -> Counter[Source]:
        """How often each input offset was answered."""
        count: Counter[Source] = Counter()
        for record in self.predictions:
            count[record["source_partition"], record["source_offset"]] += 1
        for record in self.events:
            if record["kind"] == "OUT_OF_ORDER":
                count[record["source_partition"], record["source_offset"]] += 1
        for message in self.dead_letters:
            headers = dict(message.headers())
            partition, offset = headers["usp.dlq.partition"], headers["usp.dlq.offset"]
            count[int(partition), int(offset)] += 1
        return count


class Rig:
    """Topics, workers, a producer and a reader of one test."""

    def __init__(self, bootstrap: str, prefix: str, folder: Path, **settings: str) -> None:
        self.bootstrap = bootstrap
        self.folder = folder
        self.settings = settings
        self.application = prefix
        self.topics = {
            name: f"{prefix}.{name.replace('_', '-')}"
            for name in ("ticks", "predictions", "telemetry", "events", "snapshots", "dead_letters")
        }
        self.admin = AdminClient({"bootstrap.servers": bootstrap})
        self.create_topics()
        self.producer = Producer(
            {"bootstrap.servers": bootstrap, "linger.ms": 5, "partitioner": "murmur2_random"}
        )
        self.sent: dict[Source, SentTick] = {}
        self.offsets: set[Source] = set()
        self.learned: set[Source] = set()
        """Inputs before the start of their partition: folded, and answered by nobody."""
        self.past: dict[str, list[SentTick]] = {}
        """Ticks by asset that came from elsewhere, before all others."""
        self.outputs = Outputs()
        self.workers: dict[str, WorkerProcess] = {}
        self._reader: Consumer | None = None

    def create_topics(self) -> None:
        """The six topics, as `usp topics apply` would make them."""
        ticks = {"retention.ms": "-1"}
        wanted = []
        for name, topic in self.topics.items():
            config = ticks if name == "ticks" else wanted_settings(name, ticks)
            wanted.append(NewTopic(topic, PARTITIONS, 1, config=config))
        for future in self.admin.create_topics(wanted).values():
            future.result()
        wait_for(self._have_leaders, "leaders of the topics")

    def _have_leaders(self) -> bool:
        known = self.admin.list_topics(timeout=10).topics
        return all(
            topic in known and all(each.leader >= 0 for each in known[topic].partitions.values())
            for topic in self.topics.values()
        )

    # -- in ----------------------------------------------------------------------------------

    def environment(self, instance: str, **settings: str) -> dict[str, str]:
        """Environment of a worker of this rig."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("USP__")}
        topics = {f"USP__TOPICS__{name.upper()}": topic for name, topic in self.topics.items()}
        return {
            **inherited,
            "USP__KAFKA__BOOTSTRAP_SERVERS": self.bootstrap,
            "USP__KAFKA__APPLICATION_ID": self.application,
            "USP__KAFKA__INSTANCE_ID": instance,
            **topics,
            **self.settings,
            **settings,
        }

    def start(self, instance: str, **settings: str) -> WorkerProcess:
        """Start a worker under this instance id."""
        log = self.folder / f"{instance}-{len(list(self.folder.iterdir()))}.log"
        self.workers[instance] = WorkerProcess(self.environment(instance, **settings), log)
        return self.workers[instance]

    def send(self, asset: str, magnitude: float, timestamp_ns: int, **options: Any) -> None:
        """Queue a good tick."""
        tick = SentTick(asset, magnitude, timestamp_ns)

        def delivered(error: Any, message: Any) -> None:
            if error is not None:
                raise AssertionError(str(error))
            self.sent[message.partition(), message.offset()] = tick
            self.offsets.add((message.partition(), message.offset()))

        value = plain_tick(asset, magnitude, timestamp_ns)
        self.producer.produce(self.topics["ticks"], value, asset, on_delivery=delivered, **options)

    def send_raw(self, key: bytes | None, value: bytes | None, partition: int) -> None:
        """Queue arbitrary bytes."""

        def delivered(error: Any, message: Any) -> None:
            if error is not None:
                raise AssertionError(str(error))
            self.offsets.add((message.partition(), message.offset()))

        self.producer.produce(
            self.topics["ticks"], value, key, partition=partition, on_delivery=delivered
        )

    def send_walks(self, assets: int, ticks: int, seed: int, first: int = 0) -> None:
        """Random walks in random order of assets, with absurd values now and then."""
        rng = np.random.default_rng(seed)
        levels = rng.standard_normal(assets)
        for number in range(first, first + ticks):
            asset = int(rng.integers(assets))
            levels[asset] += rng.standard_normal()
            value = float(levels[asset])
            if rng.random() < 0.002:
                value = float(rng.choice([np.nan, np.inf, -np.inf, 1e9, -0.0, 5e-324]))
            self.send(f"asset-{asset}", value, BASE_NS + number * SECOND_NS)
            if number % 1000 == 0:
                self.producer.poll(0)
        self.producer.flush()

    # -- out ---------------------------------------------------------------------------------

    def read(self, seconds: float = 0.1) -> None:
        """Take in what has been committed."""
        if self._reader is None:
            self._reader = Consumer(
                {
                    "bootstrap.servers": self.bootstrap,
                    "group.id": f"{self.application}.eyes",
                    "isolation.level": "read_committed",
                    "enable.auto.commit": False,
                    "auto.offset.reset": "earliest",
                    "fetch.wait.max.ms": 20,
                }
            )
            names = ("predictions", "events", "dead_letters", "telemetry")
            self._reader.assign(
                [
                    TopicPartition(self.topics[name], partition, 0)
                    for name in names
                    for partition in range(PARTITIONS)
                ]
            )
        for message in self._reader.consume(5000, seconds):
            if message.error() is None:
                self._sort(message)

    def eyes(self, topic: str) -> list[Any]:
        """Everything committed on a topic, once its end is reached."""
        reader = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": f"{self.application}.more-eyes",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
            }
        )
        reader.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
        messages, ended = [], set()

        def done() -> bool:
            for message in reader.consume(1000, 0.1):
                if message.error() is None:
                    messages.append(message)
                else:
                    ended.add(message.partition())
            return len(ended) == PARTITIONS

        wait_for(done, f"end of {topic}")
        reader.close()
        return messages

    def _sort(self, message: Any) -> None:
        topic = message.topic()
        if topic == self.topics["predictions"]:
            self.outputs.predictions.append(decode_record("prediction", message.value()))
        elif topic == self.topics["events"]:
            self.outputs.events.append(decode_record("event", message.value()))
        elif topic == self.topics["telemetry"]:
            self.outputs.telemetry.append(decode_record("telemetry", message.value()))
        else:
            self.outputs.dead_letters.append(message)

    def read_until_answered(self, seconds: float = PATIENCE_SECONDS) -> None:
        """Until every delivered input has an answer."""

        def done() -> bool:
            self.read()
            return len(self.outputs.answers()) >= len(self.offsets - self.learned)

        wait_for(done, "answer to every input", seconds)

    def committed_end(self) -> bool:
        """Whether the group's offsets have reached the end of every partition."""
        reader = Consumer({"bootstrap.servers": self.bootstrap, "group.id": self.application})
        try:
            wanted = [TopicPartition(self.topics["ticks"], p) for p in range(PARTITIONS)]
            committed = {tp.partition: tp.offset for tp in reader.committed(wanted, timeout=10)}
            ends = {tp.partition: reader.get_watermark_offsets(tp, timeout=10)[1] for tp in wanted}
        finally:
            reader.close()
        return all(max(committed[p], 0) >= ends[p] for p in ends)

    def close(self) -> None:
        """End what is still running."""
        for worker in self.workers.values():
            if worker.process.poll() is None:
                worker.kill()
        if self._reader is not None:
            self._reader.close()

    # -- comparison --------------------------------------------------------------------------

    def assert_every_input_is_answered_once(self) -> None:
        """No input lost, none answered twice, no answer to nothing."""
        answers = self.outputs.answers()
        repeated = [source for source, count in answers.items() if count > 1]

        assert set(answers) == self.offsets - self.learned
        assert repeated == []

    def assert_sequences_never_skip(self) -> None:
        """Per asset and partition the sequence grows by one or repeats on a rejected tick."""
        last: dict[tuple[int, str], int] = {}
        for (partition, _), tick in self.sent.items():
            last[partition, tick.asset] = len(self.past.get(tick.asset, ()))
        for source in sorted(self.learned & self.sent.keys()):
            last[source[0], self.sent[source].asset] += 1
        for record in self.outputs.predictions:
            key = (record["source_partition"], record["asset_id"])
            expected = last[key] + (0 if record["outlier_rejected"] else 1)
            assert record["sequence"] == expected, record
            last[key] = record["sequence"]

    def assert_bits_equal_the_library(self, config: PredictorConfig | None = None) -> None:
        """Predictions equal `FunctionalPredictor.scan_batch` over the same ticks, bit by bit."""
        by_lane: dict[tuple[int, str], list[tuple[int, SentTick]]] = {}
        for (partition, offset), tick in sorted(self.sent.items()):
            lane = by_lane.setdefault((partition, tick.asset), [])
            if not lane:
                past = self.past.get(tick.asset, [])
                lane += [(number - len(past), each) for number, each in enumerate(past)]
            lane.append((offset, tick))
        lanes = sorted(by_lane)
        rows = max(len(ticks) for ticks in by_lane.values())
        predictor = FunctionalPredictor(config or PredictorConfig())
        # Whole tiles, so that few numbers of lanes have to be compiled for.
        padded = len(lanes) + -len(lanes) % predictor.config.tile
        magnitude = np.zeros((rows, padded))
        timestamp = np.zeros((rows, padded), np.int64)
        present = np.zeros((rows, padded), bool)
        place: dict[Source, tuple[int, int]] = {}
        for column, lane in enumerate(lanes):
            for row, (offset, tick) in enumerate(by_lane[lane]):
                magnitude[row, column] = tick.magnitude
                timestamp[row, column] = tick.timestamp_ns
                present[row, column] = True
                place[lane[0], offset] = (row, column)
        names = [asset for _, asset in lanes] + [""] * (padded - len(lanes))
        states = predictor.init_states(padded, names)
        _, oracle = predictor.scan_batch(states, Observation(magnitude, timestamp, present=present))
        said = {(r["source_partition"], r["source_offset"]): r for r in self.outputs.predictions}
        unpublished = self.learned | {source for source in place if source[1] < 0}
        expected = {source for source, at in place.items() if oracle.answered[at]} - unpublished

        assert said.keys() == expected
        sources = sorted(said)
        at = tuple(np.array([place[source] for source in sources], int).reshape(-1, 2).T)
        for name in COMPARED_FIELDS:
            told = [said[source][name] for source in sources]
            same = _same(name, told, getattr(oracle, name)[at])
            assert same.all(), (name, sources[int(np.argmin(same))])


def _same(name: str, said: list[Any], expected: np.ndarray) -> np.ndarray:
    """Which of the values `[n]` have the same bits; what is unknown is NaN here and null there."""
    if name in ENUMS:
        return np.array(said) == np.array(ENUMS[name])[expected.astype(int)]
    values = np.array([np.nan if value is None else value for value in said], np.float64)
    expected = np.asarray(expected, np.float64)
    same = values.view(np.int64) == expected.view(np.int64)
    same |= np.isnan(values) & np.isnan(expected)
    return same.all(axis=tuple(range(1, same.ndim)))


def reasons(messages: Iterable[Any]) -> Counter[str]:
    """Dead letters by reason."""
    return Counter(dict(m.headers())["usp.dlq.reason"].decode() for m in messages)
