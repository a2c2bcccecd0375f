"""`usp watch`."""

from __future__ import annotations

import contextlib
from enum import StrEnum
from typing import Annotated

import typer

from pipeline.cli_common import ConfigFile, Json, command, console, load_config


class Sort(StrEnum):
    """`--sort`."""

    ASSET = "asset"
    LATEST = "latest"
    WORST = "worst"
    BUSIEST = "busiest"


def add_to(parent: typer.Typer) -> None:
    """Register the command."""
    command(parent)(watch)


def watch(
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Start with the oldest prediction.")
    ] = False,
    limit: Annotated[int, typer.Option(min=0, help="End after so many; 0 goes on.")] = 0,
    timeout: Annotated[
        float, typer.Option(min=0.0, help="End after so many seconds of silence; 0 waits.")
    ] = 0.0,
    sort: Annotated[Sort, typer.Option(help="Order of the rows.")] = Sort.ASSET,
    top: Annotated[int, typer.Option(min=0, help="Most rows; 0 is all.")] = 20,
    config_file: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Show predictions as they are committed: a live table, or one line each off a terminal.

    Accuracy is against persistence (the last value as forecast): a ratio below 1 is better. The
    bars are the weights of the four kernels, hilbert, markov, levy, signature. Nothing is
    committed, so watching disturbs nobody.

    $ usp watch
    $ usp watch --from-beginning --sort worst --top 10
    $ usp watch --from-beginning --timeout 5 --json > predictions.jsonl

    Exit codes: 0, 4 broker or topic not there, 6 authentication.
    """
    config = load_config(config_file)
    from pipeline.watch_topic import View
    from pipeline.watch_topic import watch as watch_topic

    view = View(from_beginning, limit, timeout, sort.value, top)
    with contextlib.suppress(KeyboardInterrupt):  # the usual end of watching
        watch_topic(config, view, as_json, console())
