"""`usp produce`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline import cli_common as common
from pipeline.cli_common import ConfigFile, DryRun, Json, command, console, load_config, show_json
from pipeline.errors import ExitCode, UserError

if TYPE_CHECKING:
    from pipeline.sources import TickFile
    from pipeline.ticks import TickBatch


class RecordTime(StrEnum):
    """`--record-time`."""

    PRODUCTION = "production"
    EVENT = "event"


_SYNTHETIC = "Synthetic ticks"
_PACE = "Pace"
SYNTHETIC_INTERVAL_SECONDS = 0.001


def add_to(parent: typer.Typer) -> None:
    """Register the command."""
    command(parent)(produce)


def produce(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="CSV, Parquet or JSON Lines.")
    ] = None,
    synthetic: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Instead of a file: random_walk, ar1, ou, seasonal, regime, garch, …, or all.",
            rich_help_panel=_SYNTHETIC,
        ),
    ] = None,
    assets: Annotated[
        int, typer.Option(min=1, help="Series of each process.", rich_help_panel=_SYNTHETIC)
    ] = 4,
    ticks: Annotated[
        int, typer.Option(min=1, help="Ticks of each series.", rich_help_panel=_SYNTHETIC)
    ] = 1000,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the values.", rich_help_panel=_SYNTHETIC)
    ] = 7,
    rate: Annotated[
        float,
        typer.Option(
            min=0.0, help="Ticks per second; 0 is as fast as possible.", rich_help_panel=_PACE
        ),
    ] = 0,
    speed: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Replay by event time: 1 as it happened, 60 a minute per second; 0 is off.",
            rich_help_panel=_PACE,
            show_default=False,
        ),
    ] = 0.0,
    limit: Annotated[
        int,
        typer.Option(
            min=0, help="Most ticks; 0 is all.", rich_help_panel=_PACE, show_default=False
        ),
    ] = 0,
    record_time: Annotated[
        RecordTime,
        typer.Option(help="What the records' Kafka timestamp is; event needs retention.ms=-1."),
    ] = RecordTime.PRODUCTION,
    config_file: ConfigFile = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    format: common.FormatOption = None,
    asset_column: common.AssetColumn = None,
    value_column: common.ValueColumn = None,
    time_column: common.TimeColumn = None,
    time_unit: common.TimeUnit = common.Unit.AUTO,
    time_format: common.TimeFormat = None,
    no_time: common.NoTime = False,
    asset: common.Asset = None,
    wide: common.Wide = False,
    skip_bad: common.SkipBad = False,
) -> None:
    """Write ticks into the input topic, from a file or from synthetic processes.

    Ticks are keyed by their asset and placed as Java producers place them. Event times may lie in
    any year; the Kafka timestamp is the time of production unless --record-time event, since Kafka
    deletes by it. Missing values are left out and counted.

    $ usp produce prices.csv --asset-column ticker --value-column close
    $ usp produce history.parquet --speed 3600
    $ usp produce --synthetic ar1,random_walk --assets 100 --rate 5000
    $ usp produce sensors.csv --wide --dry-run

    Exit codes: 0, 1 when records were not delivered, 2 file or options, 4 broker, topic or
    registry not there, 6 authentication.
    """
    if (file is None) == (synthetic is None):
        raise UserError("FILE or --synthetic NAMES: one of them is wanted", ExitCode.USAGE)
    if rate and speed:
        raise UserError("--rate and --speed exclude each other; leave one out", ExitCode.USAGE)
    config = load_config(config_file)
    from pipeline.ticks import limited

    source: TickFile | None = None
    if file is not None:
        from pipeline.sources import TickFile

        options = common.source_options(
            format=format,
            asset_column=asset_column,
            value_column=value_column,
            time_column=time_column,
            time_unit=time_unit,
            time_format=time_format,
            no_time=no_time,
            asset=asset,
            wide=wide,
            skip_bad=skip_bad,
        )
        source = TickFile(file, options)
        batches, total = source.batches(), limit or None
    else:
        assert synthetic is not None
        batches, total = _synthetic(synthetic, assets, ticks, seed, rate)
        total = min(total, limit) if limit else total
    batches = limited(batches, limit)
    if dry_run:
        _show(_dry(batches), source, as_json, "would produce")
        return
    from pipeline.produce import Pace
    from pipeline.produce import produce as produce_ticks

    with _progress(total) as progress:
        done = produce_ticks(config, batches, Pace(rate, speed), record_time.value, progress)
    _show(done.summary(), source, as_json, "produced")
    if done.interrupted:
        raise typer.Exit(common.INTERRUPTED)
    if done.failed:
        raise UserError(
            f"{done.failed:,} ticks were not delivered ({done.reason}); the others are in the "
            "topic",
            ExitCode.AUTHENTICATION if done.refused else ExitCode.FAILED,
        )


def _synthetic(
    names: str, assets: int, ticks: int, seed: int, rate: float
) -> tuple[Iterator[TickBatch], int]:
    """Series whose event times end now, or run with the clock where there is a rate."""
    from pipeline.synthetic import PROCESSES, series

    chosen = list(PROCESSES) if names == "all" else [name.strip() for name in names.split(",")]
    unknown = [name for name in chosen if name not in PROCESSES]
    if unknown:
        raise UserError(
            f"--synthetic: no process {unknown[0]!r}; there are {', '.join(PROCESSES)}, all",
            ExitCode.USAGE,
        )
    count = assets * len(chosen)
    interval_ns = round((count / rate if rate else SYNTHETIC_INTERVAL_SECONDS) * 1e9)
    start_ns = time.time_ns() - (0 if rate else ticks * interval_ns)
    batches = series(chosen, assets, ticks, seed, start_ns, interval_ns)
    return batches, count * ticks


def _dry(batches: Iterator[TickBatch]) -> dict[str, Any]:
    import numpy as np

    count = 0
    names: set[str] = set()
    first, last = None, None
    for batch in batches:
        count += len(batch)
        names.update(batch.asset_ids)
        low, high = int(batch.timestamps_ns.min()), int(batch.timestamps_ns.max())
        first = low if first is None else min(first, low)
        last = high if last is None else max(last, high)

    def shown(nanoseconds: int | None) -> str | None:
        return None if nanoseconds is None else f"{np.datetime64(nanoseconds, 'ns')}Z"

    return {"ticks": count, "assets": len(names), "first": shown(first), "last": shown(last)}


def _show(summary: dict[str, Any], source: TickFile | None, as_json: bool, verb: str) -> None:
    if source is not None:
        summary |= {"missing_values": source.missing, "skipped_rows": source.bad}
    if as_json:
        show_json(summary)
        return
    line = f"{verb} {_plural(summary['ticks'], 'tick')} of {_plural(summary['assets'], 'asset')}"
    if "seconds" in summary:
        line += f" in {summary['seconds']:.1f} s ({summary['rate']:,.0f} ticks/s)"
    if summary.get("first"):
        line += f", {summary['first'][:19]} to {summary['last'][:19]} UTC"
    if summary.get("missing_values"):
        line += f", {_plural(summary['missing_values'], 'missing value')} left out"
    if summary.get("skipped_rows"):
        line += f", {_plural(summary['skipped_rows'], 'bad row')} skipped"
    if summary.get("back_in_time"):
        line += (
            f"\nback in time within the asset: {_plural(summary['back_in_time'], 'tick')}, "
            "which the worker answers with OUT_OF_ORDER; sort the file by time if that is not meant"
        )
    typer.echo(line)


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


@contextlib.contextmanager
def _progress(total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar with the rate on standard error, if that is a terminal."""
    stderr = console(stderr=True)
    if not stderr.is_terminal:
        yield lambda count: None
        return
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed or 0.0:,.0f} ticks/s")

    with Progress(
        TextColumn("producing"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}"),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr,
        transient=True,
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)
