"""`usp backtest`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import cli_common as common
from pipeline.cli_common import ConfigFile, Json, command, console, load_config, show_json
from pipeline.errors import ExitCode, UserError

if TYPE_CHECKING:
    from pipeline.backtest import Score

PICTURES = (".png", ".svg", ".pdf", ".html", ".htm")


def add_to(parent: typer.Typer) -> None:
    """Register the command."""
    command(parent)(backtest)


def backtest(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, Parquet or JSON Lines.")],
    plot: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PICTURE",
            help="Where the picture goes: .png, .svg, .pdf, or .html with everything inside. "
            "May be given several times.",
            show_default="<name>-backtest.png and .html",
        ),
    ] = None,
    no_plot: Annotated[bool, typer.Option("--no-plot", help="No picture.")] = False,
    limit: Annotated[int, typer.Option(min=0, help="Most ticks; 0 is all.")] = 0,
    config_file: ConfigFile = None,
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
    """Forecast recorded series tick by tick and compare with persistence; no Kafka.

    Every forecast knows only what came before it. Persistence is the last value as forecast: a
    ratio below 1 is better than that, and so is a skill above 0 (1 is never wrong). The first
    min(200, a quarter) ticks of a series are not scored. Ticks are sorted by time within each
    asset.

    $ usp backtest prices.csv
    $ usp backtest sensors.parquet --asset-column sensor --plot sensors.html
    $ usp backtest wide.csv --wide --json --no-plot

    Exit codes: 0, 2 file or options, 3 configuration.
    """
    for picture in plot or ():
        if picture.suffix.lower() not in PICTURES:
            raise UserError(
                f"--plot {picture}: the picture's extension is one of {', '.join(PICTURES)}",
                ExitCode.USAGE,
            )
    config = load_config(config_file)
    from pipeline.sources import TickFile
    from pipeline.ticks import limited

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
    from pipeline import backtest as engine
    from pipeline import device

    device.configure(config.device)
    series = engine.collect(limited(source.batches(), limit))
    with _progress(sum(len(each.magnitudes) for each in series)) as progress:
        forecasts = engine.run(config.predictor, series, progress)
    scores = [engine.score(each) for each in forecasts]
    total = engine.overall(scores)
    unanswered = sum(each.unanswered for each in forecasts)
    name = f"{file.name.split('.')[0]}-backtest"
    pictures = [] if no_plot else plot or [Path(f"{name}.png"), Path(f"{name}.html")]
    for picture in pictures:
        from pipeline.backtest_plot import save

        try:
            save(picture, forecasts, scores, f"{file.name}: one step ahead")
        except OSError as error:
            raise UserError(
                f"--plot {picture}: cannot be written ({error.strerror})", ExitCode.USAGE
            ) from None
    if as_json:
        show_json(
            {
                "file": str(file),
                "overall": total,
                "assets": [each._asdict() for each in scores],
                "missing_values": source.missing,
                "skipped_rows": source.bad,
                "repeated_ticks": unanswered,
                "plots": [str(picture) for picture in pictures],
            }
        )
        return
    _show(scores, total)
    notes = [
        f"{count:,} {what}"
        for count, what in (
            (source.missing, "missing values left out"),
            (source.bad, "bad rows skipped"),
            (unanswered, "exact repetitions of a tick left out"),
        )
        if count
    ]
    if notes:
        typer.echo(", ".join(notes))
    for picture in pictures:
        typer.echo(f"picture: {picture}")


MOST_ROWS = 40


def _show(scores: Sequence[Score], total: dict[str, float]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(
        title="One step ahead; ÷p: over that of persistence, below 1 is better",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        show_footer=len(scores) > 1,
    )
    rows = {
        "asset": ([score.asset for score in scores], "all"),
        "scored": ([f"{s.scored:,}" for s in scores], f"{total['scored']:,}"),
        "RMSE": ([_number(s.rmse) for s in scores], ""),
        "skill": ([_form(s.skill) for s in scores], _form(total["skill"])),
        "RMSE÷p": ([_form(s.rmse_ratio) for s in scores], _form(total["rmse_ratio"])),
        "MAE÷p": ([_form(s.mae_ratio) for s in scores], _form(total["mae_ratio"])),
        "inside": ([_share(s.coverage) for s in scores], _share(total["coverage"])),
        "width": ([_number(s.mean_width) for s in scores], ""),
        "Winkler÷p": ([_form(s.winkler_ratio) for s in scores], _form(total["winkler_ratio"])),
        "alarms‰": (
            [_form(s.alarms_per_1000, ".1f") for s in scores],
            _form(total["alarms_per_1000"], ".1f"),
        ),
    }
    for heading, (_, footer) in rows.items():
        if heading == "asset":
            table.add_column(heading, footer, overflow="fold")
        else:
            table.add_column(heading, footer, justify="right", no_wrap=True)
    for cells in list(zip(*(cells for cells, _ in rows.values()), strict=True))[:MOST_ROWS]:
        table.add_row(*cells)
    console().print(table)
    if len(scores) > MOST_ROWS:
        typer.echo(f"and {len(scores) - MOST_ROWS:,} more assets (--json shows all)")


def _form(value: float, form: str = ".3f") -> str:
    return format(value, form) if value == value else "–"


def _share(value: float) -> str:
    return _form(value, ".1%")


def _number(value: float) -> str:
    return _form(value, ".4g")


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, if that is a terminal."""
    stderr = console(stderr=True)
    if not stderr.is_terminal:
        yield lambda count: None
        return
    from rich.progress import Progress

    with Progress(console=stderr, transient=True) as bar:
        task = bar.add_task("forecasting", total=total)
        yield lambda count: bar.advance(task, count)
