"""`usp`: the command line. Commands import what they need when they run, so that help is fast."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from pipeline import cli_backtest, cli_config, cli_produce, cli_topics, cli_watch
from pipeline.cli_common import INTERRUPTED, ConfigFile, Json, command, load_config, show_json
from pipeline.errors import ExitCode, UserError

EXIT_CODES = """
Exit codes: 0 ok, 1 the result is a failure, 2 usage, 3 configuration, 4 preflight (broker,
topic or registry), 5 fenced by another worker, 6 authentication, 7 data-loss policy.
"""

app = typer.Typer(
    name="usp",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=" ".join(EXIT_CODES.split()),
    help=(
        "Kafka ticks in, calibrated one-step-ahead forecasts out, exactly once.\n\n"
        "Start with [bold]usp demo[/bold]: no Kafka, no Docker, no account. "
        "With a Kafka: [bold]usp topics apply[/bold], [bold]usp run[/bold], "
        "[bold]usp produce FILE[/bold], [bold]usp watch[/bold]. "
        "Without one: [bold]usp backtest FILE[/bold]."
    ),
)


@command(app)
def demo(
    assets: Annotated[int, typer.Option(min=1, help="Series of each process.")] = 4,
    ticks: Annotated[int, typer.Option(min=150, help="Ticks of each series.")] = 600,
    seconds: Annotated[float, typer.Option(min=1.0, help="Time over which they are fed.")] = 20.0,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a live table.")] = False,
    as_json: Json = False,
) -> None:
    """Show everything at work on this machine, with one kill −9 of the worker in the middle.

    An embedded broker (for demos and tests: one process, nothing replicated), synthetic ticks of
    known processes and the real worker. At the end, offset by offset: nothing lost, nothing
    twice, and the accuracy against persistence.

    $ usp demo
    $ usp demo --assets 10 --ticks 1000 --json

    Exit codes: 0 when nothing was lost or repeated, 1 otherwise.
    """
    from pipeline.demo import run_demo

    raise typer.Exit(run_demo(assets, ticks, seconds, plain, as_json))


@command(app)
def run(config_file: ConfigFile = None) -> None:
    """Run one worker until SIGTERM: read ticks, write forecasts, exactly once.

    More workers with the same kafka.application_id and different kafka.instance_id share the
    partitions. SIGTERM finishes, commits and ends within 25 s.

    $ usp run
    $ USP__KAFKA__INSTANCE_ID=worker-2 usp run --config prod.toml

    Exit codes: 0 after SIGTERM, 3 configuration, 4 broker, topics or registry not there, 5 another
    worker took this kafka.instance_id, 6 authentication, 7 offsets and states disagree.
    """
    import signal

    # Until the worker's own handler is there, nothing has begun that would have to be finished.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    config = load_config(config_file)
    from pipeline.process import run_worker

    raise typer.Exit(run_worker(config))


@command(app)
def broker(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 9092,
    topic: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:PARTITIONS[:compact]", help="Topic to create; repeatable."),
    ] = None,
) -> None:
    """Run the embedded broker alone, for demos and tests only: nothing is kept, nothing replicated.

    It speaks the Kafka protocol with real transactions, holds everything in memory and forgets it
    at the end. Its first line of output is its address. For real work use Apache Kafka
    (scripts/kafka start).

    $ usp broker
    $ usp broker --port 0 --topic ticks:4 --topic states:4:compact

    Exit codes: 0 after SIGTERM or Ctrl-C, 4 when the port is taken.
    """
    import argparse
    import asyncio

    from pipeline.broker.__main__ import parse_topic, serve

    try:
        topics = [parse_topic(text) for text in topic or ()]
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--topic: {error}", ExitCode.USAGE) from None
    typer.echo("usp broker: for demos and tests; in memory, nothing is replicated", err=True)
    wanted = argparse.Namespace(host=host, port=port, topic=topics, auto_create=0)
    try:
        asyncio.run(serve(wanted))
    except ValueError as error:
        raise UserError(f"--topic: {error}", ExitCode.USAGE) from None
    except OSError as error:
        raise UserError(
            f"--port: cannot listen on {host}:{port} ({error.strerror or error}); choose another "
            "one, 0 takes a free one",
            ExitCode.PREFLIGHT,
        ) from None


bench_app = typer.Typer(no_args_is_help=True, help="Measure what the machine can do.")
app.add_typer(bench_app, name="bench")


@command(bench_app, "step")
def bench_step(
    config_file: ConfigFile = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time per batch size.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Measure what one tick costs in the numerical core, by batch size; no Kafka.

    $ usp bench step
    $ usp bench step --json > step.json
    """
    config = load_config(config_file)
    from pipeline.bench import measure, print_step_table

    report = measure(config, seconds)
    if as_json:
        show_json(report)
    else:
        print_step_table(report)


for module in (cli_produce, cli_watch, cli_backtest, cli_topics, cli_config):
    module.add_to(app)


def run_command(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code. Errors are one line on standard error."""
    try:
        code = app(args=list(arguments), prog_name="usp", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except UserError as error:
        return _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe (`usp watch | head`) has what it wanted.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except Exception as error:
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    # The parser's own errors have no public base class; their messages are for the user.
    if hasattr(error, "format_message"):
        context = getattr(error, "ctx", None)
        command_path = context.command_path if context is not None else "usp"
        said = error.format_message().strip().rstrip(".")
        return _fail(f"{said}; see {command_path} --help", ExitCode.USAGE) if said else 2
    # Loading the configuration loads the numerical core; whoever raised this has it loaded.
    configuration = sys.modules.get("pipeline.config")
    if configuration is not None and isinstance(error, configuration.ConfigError):
        return _fail(str(error), ExitCode.CONFIGURATION)
    if os.environ.get("USP_DEBUG"):
        raise error
    text = f"internal error, {type(error).__name__}: {error}; USP_DEBUG=1 shows where"
    return _fail(text, ExitCode.FAILED)


def _fail(message: str, code: int) -> int:
    line = " ".join(message.split())
    sys.stderr.write(f"usp: {line}\n")
    return int(code)


def main() -> None:
    """Entry point of `usp`."""
    sys.exit(run_command(sys.argv[1:]))
