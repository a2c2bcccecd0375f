"""What the commands share: options, the configuration, consoles, JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.config import Config
    from pipeline.sources import SourceOptions

DEFAULT_FILE = Path("config.toml")
INTERRUPTED = 130
"""What a shell reports of a command ended by Ctrl-C."""
PIPE_WIDTH = 200
"""Columns of a table that is written to a file or a pipe."""

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Configuration; config.toml where it exists. USP__SECTION__KEY variables win over it.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")]

Command = TypeVar("Command", bound=Callable[..., None])


def command(app: typer.Typer, name: str | None = None) -> Callable[[Command], Command]:
    """Register a command whose help is its docstring, refilled to the terminal's width.

    Lines that begin with `$ ` are examples and keep their own lines.
    """

    def register(function: Command) -> Command:
        app.command(name, help=_refilled(function.__doc__ or ""))(function)
        return function

    return register


def _refilled(text: str) -> str:
    paragraphs = []
    for paragraph in text.strip().split("\n\n"):
        lines = [line.strip() for line in paragraph.splitlines()]
        examples = all(line.startswith("$ ") for line in lines)
        paragraphs.append(("\n" if examples else " ").join(lines))
    return "\n\n".join(paragraphs)


def load_config(path: Path | None) -> Config:
    """The configuration of a command. Raises `ConfigError`."""
    from pipeline.config import load

    return load(path if path is not None or not DEFAULT_FILE.is_file() else DEFAULT_FILE)


def show_json(value: Any) -> None:
    """One JSON document on standard output; NaN, which JSON has not, becomes null."""
    sys.stdout.write(json.dumps(without_nan(value), ensure_ascii=False) + "\n")


def without_nan(value: Any) -> Any:
    """The value with null in the place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    if isinstance(value, float) and value - value != 0.0:
        return None
    return value


def console(*, stderr: bool = False) -> Console:
    """A console; colours and live displays only on a terminal, and no cut lines off one."""
    from rich.console import Console

    found = Console(stderr=stderr, highlight=False)
    return found if found.is_terminal else Console(stderr=stderr, highlight=False, width=PIPE_WIDTH)


class Format(StrEnum):
    """`--format`."""

    CSV = "csv"
    PARQUET = "parquet"
    JSONL = "jsonl"


class Unit(StrEnum):
    """`--time-unit`."""

    AUTO = "auto"
    S = "s"
    MS = "ms"
    US = "us"
    NS = "ns"


_PANEL = "How to read the file"


def _source_option(*names: str, **settings: Any) -> Any:
    return typer.Option(*names, rich_help_panel=_PANEL, **settings)


FormatOption = Annotated[
    Format | None, _source_option("--format", help="File format.", show_default="by extension")
]
AssetColumn = Annotated[
    str | None,
    _source_option(metavar="NAME", help="Column of series names.", show_default="asset, symbol, …"),
]
ValueColumn = Annotated[
    str | None,
    _source_option(
        metavar="NAME", help="Column of observations.", show_default="magnitude, value, close, …"
    ),
]
TimeColumn = Annotated[
    str | None,
    _source_option(metavar="NAME", help="Column of event times.", show_default="time, date, …"),
]
TimeUnit = Annotated[Unit, _source_option(help="Unit of numeric times; auto judges by their size.")]
TimeFormat = Annotated[
    str | None,
    _source_option(metavar="FORMAT", help="As in strptime: %d/%m/%Y.", show_default="ISO 8601"),
]
NoTime = Annotated[
    bool, _source_option("--no-time", help="No time column: count rows, one second apart.")
]
Asset = Annotated[
    str | None,
    _source_option(
        metavar="NAME", help="Name of the series of a file that has one.", show_default="file name"
    ),
]
Wide = Annotated[bool, _source_option("--wide", help="Every column but the time is a series.")]
SkipBad = Annotated[
    bool, _source_option("--skip-bad", help="Leave out rows that make no sense, and count them.")
]


def source_options(
    *,
    format: Format | None,
    asset_column: str | None,
    value_column: str | None,
    time_column: str | None,
    time_unit: Unit,
    time_format: str | None,
    no_time: bool,
    asset: str | None,
    wide: bool,
    skip_bad: bool,
) -> SourceOptions:
    """The options of one command line as `pipeline.sources` takes them."""
    from pipeline.sources import SourceOptions

    return SourceOptions(
        format=format.value if format else None,
        asset_column=asset_column,
        value_column=value_column,
        time_column=time_column,
        time_unit=time_unit.value,
        time_format=time_format,
        asset=asset,
        wide=wide,
        has_time=not no_time,
        skip_bad=skip_bad,
    )
