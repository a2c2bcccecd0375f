"""`usp demo`: everything real on one machine, with one kill −9 of the worker in the middle.

An embedded broker and the worker run in processes of their own; this process feeds ticks of
known processes, reads what a read_committed consumer sees, kills the worker once, and
compares offsets at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition
from rich.console import Console
from rich.live import Live
from rich.table import Table

from pipeline.config import Config, load
from pipeline.errors import ExitCode, UserError
from pipeline.scoreboard import Scoreboard, Source
from pipeline.synthetic import PROCESSES
from pipeline.topics import apply
from schemas.codec import Framing, TickEncoder, decode_record

DEMO_PROCESSES = (
    "random_walk",
    "ar1",
    "ou",
    "local_level",
    "seasonal",
    "regime",
    "jump_diffusion",
    "logistic_map",
)
PARTITIONS = 4
SEED = 7
START_NS = 1_700_000_000_000_000_000
SECOND_NS = 1_000_000_000
GIVE_UP_SECONDS = 75.0
PLAIN_EVERY_SECONDS = 3.0
IN_FLIGHT_SECONDS = 0.5
SERVICE_START_SECONDS = 20.0


@dataclass
class _Progress:
    produced: list[Source] = field(default_factory=list)
    failed: int = 0
    total: int = 0
    began: float = 0.0
    killed_at: float | None = None
    killed_after: int = 0
    back_after: float | None = None
    worker: str = "starting"
    notes: list[str] = field(default_factory=list)


class Demo:
    """One run; `assets` series of each process with `ticks` ticks each, fed over `seconds`."""

    def __init__(self, assets: int, ticks: int, seconds: float, console: Console) -> None:
        self._assets = assets
        self._ticks = ticks
        self._seconds = seconds
        self._console = console
        self._progress = _Progress(total=assets * ticks * len(DEMO_PROCESSES))
        self._scores = Scoreboard(lambda asset: asset.rpartition("-")[0])
        self._stop = threading.Event()

    def run(self, live: bool) -> dict[str, Any]:
        """Run to the end and return the report."""
        with (
            tempfile.TemporaryDirectory(prefix="usp-demo-") as folder,
            self._broker(Path(folder)) as address,
        ):
            return self._with_broker(address, Path(folder), live)

    # -- processes ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def _broker(self, folder: Path) -> Iterator[str]:
        with (folder / "broker.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.broker", "--port", "0"],
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
            )
            try:
                assert process.stdout is not None
                address = process.stdout.readline().decode().strip()
                if not address:
                    raise UserError(
                        "the embedded broker did not start: "
                        + (folder / "broker.log").read_text().strip()[-300:],
                        ExitCode.PREFLIGHT,
                    )
                yield address
            finally:
                process.terminate()
                process.wait(SERVICE_START_SECONDS)

    def _start_worker(self, config: Config, folder: Path) -> subprocess.Popen[bytes]:
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("USP__")},
            "USP__KAFKA__BOOTSTRAP_SERVERS": config.kafka.bootstrap_servers,
            "USP__KAFKA__APPLICATION_ID": config.kafka.application_id,
            "USP__KAFKA__INSTANCE_ID": "demo",
        }
        with (folder / "worker.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "pipeline", "run"],
                stdout=log,
                stderr=log,
                cwd=folder,
                env=environment,
            )

    # -- the run -----------------------------------------------------------------------------

    def _with_broker(self, address: str, folder: Path, live: bool) -> dict[str, Any]:
        environment = {
            "USP__KAFKA__BOOTSTRAP_SERVERS": address,
            "USP__KAFKA__APPLICATION_ID": "usp-demo",
        }
        config = load(None, environment)
        apply(config, partitions=PARTITIONS)
        self._progress.began = time.monotonic()
        worker = self._start_worker(config, folder)
        feeder = threading.Thread(target=self._feed, args=(config,), name="feeder", daemon=True)
        feeder.start()
        reader = self._reader(config)
        display = _LiveDisplay(self._console) if live else _PlainDisplay(self._console)
        try:
            with display:
                while not self._finished():
                    self._read(reader, config)
                    worker = self._keep_alive(worker, config, folder)
                    worker = self._kill_once(worker, config, folder)
                    display.show(self._progress, self._scores)
                    if time.monotonic() - self._progress.began > GIVE_UP_SECONDS:
                        break
                display.show(self._progress, self._scores)
        finally:
            self._stop.set()
            feeder.join(SERVICE_START_SECONDS)
            worker.send_signal(signal.SIGTERM)
            code = worker.wait(SERVICE_START_SECONDS + 10)
        for _ in range(5):
            self._read(reader, config)
        reader.close()
        return self._report(code)

    def _finished(self) -> bool:
        progress = self._progress
        return (
            len(progress.produced) + progress.failed >= progress.total
            and self._scores.answered >= len(progress.produced)
            and progress.killed_at is not None
            and progress.back_after is not None
        )

    def _feed(self, config: Config) -> None:
        """Produce the ticks of all series in turn, at an even pace."""
        rng = np.random.default_rng(SEED)
        names, columns = [], []
        for process in DEMO_PROCESSES:
            for number in range(self._assets):
                names.append(f"{process}-{number:02d}")
                columns.append(PROCESSES[process].generate(rng, self._ticks))
        table = np.stack(columns, axis=1)
        producer = Producer(
            {
                "bootstrap.servers": config.kafka.bootstrap_servers,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "enable.idempotence": True,
            }
        )
        encoder = TickEncoder(Framing.single_object())

        def delivered(error: Any, message: Any) -> None:
            if error is not None:
                self._progress.failed += 1
            else:
                self._progress.produced.append((message.partition(), message.offset()))

        began = time.monotonic()
        for row in range(self._ticks):
            if row == self._ticks * 3 // 4:
                # However late the first worker began, there is something left for the second.
                began += self._wait_for_the_kill(producer)
            values = encoder.encode(
                {
                    "asset_id": names,
                    "magnitude": table[row],
                    "timestamp_ns": np.full(len(names), START_NS + row * SECOND_NS),
                    "dispersion_proxy": None,
                    "state_tag": None,
                    "reference": None,
                    "request_id": None,
                },
                len(names),
            )
            for name, value in zip(names, values, strict=True):
                producer.produce(config.topics.ticks, value, name, on_delivery=delivered)
            producer.poll(0)
            ahead = began + self._seconds * (row + 1) / self._ticks - time.monotonic()
            if ahead > 0 and self._stop.wait(ahead):
                break
        producer.flush(SERVICE_START_SECONDS)

    def _wait_for_the_kill(self, producer: Producer) -> float:
        """Return how many seconds it took."""
        began = time.monotonic()
        while self._progress.killed_at is None and not self._stop.is_set():
            producer.poll(0.05)
        return time.monotonic() - began

    def _reader(self, config: Config) -> Consumer:
        reader = Consumer(
            {
                "bootstrap.servers": config.kafka.bootstrap_servers,
                "group.id": "usp-demo-reader",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20,
            }
        )
        topics = config.topics
        wanted = (topics.predictions, topics.events, topics.dead_letters)
        reader.assign([TopicPartition(t, p, 0) for t in wanted for p in range(PARTITIONS)])
        return reader

    def _read(self, reader: Consumer, config: Config) -> None:
        for message in reader.consume(2000, 0.1):
            if message.error() is not None:
                continue
            if message.topic() == config.topics.predictions:
                self._scores.prediction(decode_record("prediction", message.value()))
                self._note_return()
            elif message.topic() == config.topics.dead_letters:
                headers: dict[str, Any] = dict(message.headers() or [])
                self._scores.answer(
                    (int(headers["usp.dlq.partition"]), int(headers["usp.dlq.offset"]))
                )
            else:
                event = decode_record("event", message.value())
                if event["kind"] == "OUT_OF_ORDER":
                    self._scores.answer((event["source_partition"], event["source_offset"]))

    # -- the kill ----------------------------------------------------------------------------

    def _kill_once(
        self, worker: subprocess.Popen[bytes], config: Config, folder: Path
    ) -> subprocess.Popen[bytes]:
        progress = self._progress
        if progress.killed_at is not None or self._scores.answered < progress.total // 2:
            return worker
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        progress.killed_at = time.monotonic()
        progress.killed_after = self._scores.answered
        progress.worker = "killed with -9, restarted"
        progress.notes.append(f"kill -9 of the worker after {progress.killed_after:,} forecasts")
        return self._start_worker(config, folder)

    def _note_return(self) -> None:
        progress = self._progress
        if progress.killed_at is None:
            progress.worker = "forecasting"
            return
        # What was committed before the kill may still be on its way to this reader.
        elapsed = time.monotonic() - progress.killed_at
        if progress.back_after is None and elapsed > IN_FLIGHT_SECONDS:
            progress.back_after = elapsed
            progress.worker = "forecasting again"
            progress.notes.append(f"first forecast of the restarted worker {elapsed:.1f} s later")

    def _keep_alive(
        self, worker: subprocess.Popen[bytes], config: Config, folder: Path
    ) -> subprocess.Popen[bytes]:
        if worker.poll() is None:
            return worker
        tail = (folder / "worker.log").read_text(errors="replace").strip().splitlines()[-3:]
        raise UserError(
            f"the worker ended with exit code {worker.returncode}: {' | '.join(tail)}",
            ExitCode.PREFLIGHT,
        )

    def _report(self, worker_exit: int) -> dict[str, Any]:
        progress = self._progress
        verdict = self._scores.verdict(progress.produced)
        unsent = progress.total - len(progress.produced)
        complete = progress.back_after is not None and unsent == 0
        passed = complete and verdict.lost == 0 and verdict.duplicated == 0 and worker_exit == 0
        return {
            "ticks": len(progress.produced),
            "predictions": verdict.answered,
            "lost": verdict.lost,
            "duplicated": verdict.duplicated,
            "unsent": unsent,
            "killed_after": progress.killed_after,
            "seconds_until_back": progress.back_after,
            "worker_exit": worker_exit,
            "seconds": round(time.monotonic() - progress.began, 1),
            "passed": passed,
            "processes": [accuracy._asdict() for accuracy in self._scores.accuracies()],
        }


# -- display ------------------------------------------------------------------------------------


def _rows(scores: Scoreboard) -> list[tuple[str, str, str, str]]:
    def shown(value: float, form: str) -> str:
        return format(value, form) if value == value else "-"

    return [
        (a.group, f"{a.answered:,}", shown(a.rmse_ratio, ".3f"), shown(a.coverage, ".1%"))
        for a in scores.accuracies()
    ]


HEADINGS = ("process", "forecasts", "RMSE / persistence", "inside 95 %")


def _table(scores: Scoreboard, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for position, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if position == 0 else "right")
    for row in _rows(scores):
        table.add_row(*row)
    return table


def _status(progress: _Progress, scores: Scoreboard) -> str:
    elapsed = time.monotonic() - progress.began
    return (
        f"{elapsed:5.1f} s  worker: {progress.worker}  produced {len(progress.produced):,}"
        f" of {progress.total:,}  answered {scores.answered:,}"
    )


class _LiveDisplay:
    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> _LiveDisplay:
        self._live.__enter__()
        return self

    def __exit__(self, *details: Any) -> None:
        self._live.__exit__(*details)

    def show(self, progress: _Progress, scores: Scoreboard) -> None:
        table = _table(scores, _status(progress, scores))
        table.caption = progress.notes[-1] if progress.notes else ""
        self._live.update(table)


class _PlainDisplay:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0
        self._told = 0

    def __enter__(self) -> _PlainDisplay:
        return self

    def __exit__(self, *details: Any) -> None:
        return None

    def show(self, progress: _Progress, scores: Scoreboard) -> None:
        for note in progress.notes[self._told :]:
            self._console.print(f"        {note}", highlight=False, soft_wrap=True)
        self._told = len(progress.notes)
        if time.monotonic() >= self._next:
            self._console.print(_status(progress, scores), highlight=False, soft_wrap=True)
            self._next = time.monotonic() + PLAIN_EVERY_SECONDS


def run_demo(
    assets: int = 4,
    ticks: int = 600,
    seconds: float = 20.0,
    plain: bool = False,
    as_json: bool = False,
) -> int:
    """Run the demo and print its verdict; 0 when nothing was lost or repeated, else 1."""
    console = Console(stderr=as_json)
    live = console.is_terminal and not plain
    console.print(
        "An embedded Kafka-protocol broker (one process, in memory, for demos and tests),\n"
        "the worker in a process of its own, and ticks of known processes.\n"
        "The first start on a machine compiles the step, which takes some seconds.",
        highlight=False,
        soft_wrap=True,
    )
    report = Demo(assets, ticks, seconds, console).run(live)
    if as_json:
        print(json.dumps(report), flush=True)  # noqa: T201
    else:
        _print_verdict(console, report)
    return 0 if report["passed"] else 1


def _print_verdict(console: Console, report: dict[str, Any]) -> None:
    table = Table(
        title="RMSE of the forecasts over persistence (below 1 is better)", title_justify="left"
    )
    for position, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if position == 0 else "right")
    for row in report["processes"]:
        table.add_row(
            row["group"],
            f"{row['answered']:,}",
            f"{row['rmse_ratio']:.3f}",
            f"{row['coverage']:.1%}",
        )
    console.print(table)
    back = report["seconds_until_back"]
    console.print(
        f"worker killed with -9 after {report['killed_after']:,} forecasts, back after {back:.1f} s"
        if back is not None
        else "the worker did not come back",
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"{report['ticks']:,} ticks in, {report['predictions']:,} answered, compared offset by "
        f"offset: {report['lost']} lost, {report['duplicated']} duplicated",
        highlight=False,
        soft_wrap=True,
        style="bold green" if report["passed"] else "bold red",
    )
    console.print(
        "\nNext: .venv/bin/usp backtest FILE on a CSV of yours; the README on a real Kafka;\n"
        "docs/architecture.md for how it works.",
        highlight=False,
        soft_wrap=True,
    )
