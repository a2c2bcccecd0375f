"""The shell of `usp watch`: a reader of the predictions topic and the live table."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    TopicPartition,
)
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from consumers.settings import common, consuming
from pipeline.cli_common import show_json
from pipeline.cluster import REFUSED_CREDENTIALS, Cluster, make_client
from pipeline.config import Config
from pipeline.errors import ExitCode, UserError
from pipeline.watch import Order, Row, Watch, flags, line, summary, time_text
from predictor.types import KERNEL_NAMES
from schemas.codec import Malformed, RecordDecoder

POLL_SECONDS = 0.1
REDRAWS_PER_SECOND = 4
BARS = " ▁▂▃▄▅▆▇█"


class View(NamedTuple):
    """What to read and show.

    - `limit`: predictions after which to end; 0 is never.
    - `idle_seconds`: silence after which to end; 0 is never.
    - `top`: most rows of the table; 0 is all.
    """

    from_beginning: bool
    limit: int
    idle_seconds: float
    order: Order
    top: int


def follow(config: Config, view: View) -> Iterator[list[bytes]]:
    """Values of the predictions topic as they are committed; an empty list when none came.

    Reads outside of any group and commits nothing.

    **Failure:** `UserError` where the broker does not answer or the topic does not exist.
    """
    topic = config.topics.predictions
    partitions = Cluster(config).topics(config.worker.startup_timeout_seconds).get(topic)
    if partitions is None:
        raise UserError(
            f"topics.predictions = {topic!r}: no such topic; run `usp topics apply`",
            ExitCode.PREFLIGHT,
        )
    base = common(config.kafka.bootstrap_servers, config.instance, config.kafka.extra)
    settings = {
        **consuming(base, f"{config.kafka.application_id}.watch", partitions),
        "auto.offset.reset": "earliest",  # what retention has taken meanwhile is skipped
        "enable.partition.eof": False,
        "fetch.wait.max.ms": 50,
    }
    consumer = make_client(config, Consumer, settings)
    start = OFFSET_BEGINNING if view.from_beginning else OFFSET_END
    consumer.assign([TopicPartition(topic, number, start) for number in range(partitions)])
    try:
        while True:
            messages = consumer.consume(1000, POLL_SECONDS)
            for message in messages:
                _raise_if_refused(message.error())
            yield [message.value() for message in messages if message.error() is None]
    finally:
        consumer.close()


def _raise_if_refused(error: KafkaError | None) -> None:
    # Everything else heals by itself: a broker that restarts, a leader that moves.
    if error is not None and error.code() in REFUSED_CREDENTIALS:
        raise UserError(
            f"kafka.extra: the cluster refuses this client ({error.str()}); check the credentials "
            "and ACLs",
            ExitCode.AUTHENTICATION,
        )


def watch(config: Config, view: View, as_json: bool, console: Console) -> None:
    """Show predictions until the limit, the silence or Ctrl-C."""
    state = Watch()
    if as_json:
        _run(config, view, state, lambda score: show_json(summary(score)), sys.stdout.flush)
    elif console.is_terminal:
        with Live(console=console, refresh_per_second=REDRAWS_PER_SECOND, screen=False) as live:

            def draw() -> None:
                live.update(table(state, view, console.width))

            draw()
            _run(config, view, state, lambda score: None, _Redraw(draw))
            draw()
    else:
        _run(config, view, state, lambda score: print(line(score)), sys.stdout.flush)  # noqa: T201


class _Redraw:
    """Calls at most as often as an eye can follow."""

    def __init__(self, draw: Callable[[], None]) -> None:
        self._draw = draw
        self._next = 0.0

    def __call__(self) -> None:
        if time.monotonic() >= self._next:
            self._draw()
            self._next = time.monotonic() + 1.0 / REDRAWS_PER_SECOND


def _run(
    config: Config,
    view: View,
    state: Watch,
    tell: Callable[[Any], None],
    after_batch: Callable[[], None],
) -> None:
    decoder = RecordDecoder("prediction")
    heard = time.monotonic()
    for values in follow(config, view):
        for value in values:
            try:
                record = decoder.decode(value)
            except Malformed:
                state.unreadable += 1
                continue
            tell(state.add(record))
            if view.limit and state.predictions >= view.limit:
                after_batch()
                return
        after_batch()
        now = time.monotonic()
        if values:
            heard = now
        elif view.idle_seconds and now - heard >= view.idle_seconds:
            return


def table(state: Watch, view: View, width: int) -> Table:
    """The live table, with as many columns as fit."""
    rows = state.rows(view.order, view.top)
    hidden = len(state.assets) - len(rows)
    shown = Table(
        title=_title(state),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        caption=f"and {hidden:,} more assets (--top 0 shows all)" if hidden else None,
        caption_justify="left",
    )
    columns = _columns(width)
    for name in columns:
        left = name in ("asset", "time, UTC", KERNEL_HEADING, "flags")
        shown.add_column(name, justify="left" if left else "right", no_wrap=name != "flags")
    for row in rows:
        cells = _cells(row, width >= WIDTH_OF_DATES)
        shown.add_row(*(cells[name] for name in columns))
    return shown


WIDTH_OF_TIMES, WIDTH_OF_INTERVALS, WIDTH_OF_DATES = 90, 112, 124
"""Columns of a terminal from which these find room."""
KERNEL_HEADING = "".join(name[0] for name in KERNEL_NAMES)


def _title(state: Watch) -> str:
    if not state.assets:
        return "waiting for predictions; is a worker running (usp run), are ticks coming in?"
    title = f"{state.predictions:,} predictions of {len(state.assets):,} assets"
    total = state.total
    if total is not None:
        title += f", RMSE / persistence {total.ratio:.3f}, coverage {total.coverage:.1%}"
    return title + (f", {state.unreadable:,} unreadable" if state.unreadable else "")


def _columns(width: int) -> list[str]:
    interval = ["95 % interval"] if width >= WIDTH_OF_INTERVALS else []
    time_column = ["time, UTC"] if width >= WIDTH_OF_TIMES else []
    front = ["asset", *time_column, "value", "next", *interval]
    return [*front, "RMSE÷p", "inside", KERNEL_HEADING, "flags"]


def _cells(row: Row, with_date: bool) -> dict[str, str | Text]:
    score = row.score
    said = score.latest
    mode = said["operating_mode"]
    words = [*([] if mode == "inference" else [mode]), *flags(said)]
    date, moment = time_text(said["timestamp_ns"]).split(" ")
    return {
        "asset": said["asset_id"],
        "time, UTC": f"{date} {moment}" if with_date else _shorter(date, moment),
        "value": _number(said["magnitude"]),
        "next": _number(said["reference_prediction"]),
        "95 % interval": (
            f"{_number(said['confidence_lower'])} … {_number(said['confidence_upper'])}"
        ),
        "RMSE÷p": Text(_score(score.ratio, ".3f"), style=_ratio_style(score.ratio)),
        "inside": _score(score.coverage, ".1%"),
        KERNEL_HEADING: "".join(bar(weight) for weight in said["weights"]),
        "flags": Text(" ".join(words), style="red" if mode == "diagnostic" else "yellow"),
    }


def _shorter(date: str, moment: str) -> str:
    """The time of day, or the day of a daily series."""
    return date if moment == "00:00:00" else moment


def bar(share: float) -> str:
    """A share from 0 to 1 as a bar of one character."""
    if not math.isfinite(share):
        return "?"
    return BARS[min(round(share * (len(BARS) - 1)), len(BARS) - 1)]


def _number(value: float) -> str:
    return f"{value:.5g}"


def _score(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "–"


def _ratio_style(ratio: float) -> str:
    if not math.isfinite(ratio):
        return "dim"
    return "green" if ratio < 0.995 else "red" if ratio > 1.05 else ""
