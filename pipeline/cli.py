"""The `usp` command. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.errors import ExitCode, UserError

if TYPE_CHECKING:
    from pipeline.config import Config

EXIT_CODES = (
    "Exit codes: 0 ok, 2 usage, 3 configuration, 4 preflight (broker, topics, registry), 5 fenced "
    "by another worker, 6 authentication, 7 offsets, snapshots and log disagree."
)

app = typer.Typer(
    name="usp",
    help=(
        "Turn a Kafka topic of ticks into a topic of calibrated one-step-ahead forecasts, exactly "
        "once.\n\nStart with `usp demo`: it needs no Kafka, no Java and no account. " + EXIT_CODES
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
topics_app = typer.Typer(
    help="Create and check the topics of this application.", no_args_is_help=True
)
config_app = typer.Typer(help="Check and show the configuration.", no_args_is_help=True)
bench_app = typer.Typer(help="Measure what the parts cost on this machine.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")
app.add_typer(config_app, name="config")
app.add_typer(bench_app, name="bench")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Configuration file; without it config.toml of this folder if there is one. "
        "USP__SECTION__KEY in the environment overrides it.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def _load(path: Path | None) -> Config:
    from pipeline.config import ConfigError, load

    default = Path("config.toml")
    try:
        return load(path if path is not None else default if default.exists() else None)
    except ConfigError as error:
        raise UserError(str(error), ExitCode.CONFIGURATION) from None


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value))


@app.command()
def demo(
    assets: Annotated[int, typer.Option(min=1, help="Series of each process.")] = 4,
    ticks: Annotated[int, typer.Option(min=150, help="Ticks of each series.")] = 600,
    seconds: Annotated[float, typer.Option(min=1.0, help="Time over which they are fed.")] = 20.0,
    plain: Annotated[bool, typer.Option(help="Plain lines instead of a live table.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run everything on this machine once, with one kill -9 of the worker in the middle.

    An embedded broker, the real worker in its own process, ticks of known processes. At the end
    every input offset is compared with the answers: nothing lost, nothing twice.
    """
    from pipeline.demo import run_demo

    raise typer.Exit(run_demo(assets, ticks, seconds, plain, as_json))


@app.command(epilog=EXIT_CODES)
def run(config: ConfigOption = None) -> None:
    """Run one worker until SIGTERM or SIGINT.

    Start more of them with the same kafka.application_id and different kafka.instance_id to share
    the partitions. Logs are JSON lines on standard error.
    """
    loaded = _load(config)
    from pipeline.worker import run_worker

    raise typer.Exit(run_worker(loaded))


@app.command()
def broker(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 9092,
    topic: Annotated[
        list[str] | None,
        typer.Option(help="Topic to create, NAME:PARTITIONS or NAME:PARTITIONS:compact."),
    ] = None,
) -> None:
    """Run the embedded Kafka-protocol broker, for demos and tests.

    One process, in memory: nothing is replicated and nothing survives its end. Its transactions
    are real. Prints the address once it listens.
    """
    from pipeline.broker.__main__ import main as run_broker

    arguments = ["--host", host, "--port", str(port)]
    for each in topic or []:
        arguments += ["--topic", each]
    typer.echo(
        "embedded broker for demos and tests: one process, in memory, nothing replicated", err=True
    )
    raise typer.Exit(run_broker(arguments) or 0)


def _print_steps(steps: list[Any], subjects: dict[str, int], as_json: bool) -> None:
    if as_json:
        rows = [
            {
                "topic": s.topic,
                "action": s.action,
                "detail": s.detail,
                "partitions": s.partitions,
                "settings": dict(s.settings),
            }
            for s in steps
        ]
        _print_json({"topics": rows, "subjects": subjects})
        return
    width = max(len(step.topic) for step in steps)
    for step in steps:
        typer.echo(f"{step.action:<7} {step.topic:<{width}}  {step.detail}")
    for subject, schema_id in subjects.items():
        typer.echo(f"schema  {subject}  id {schema_id}")


@topics_app.command("plan")
def topics_plan(
    config: ConfigOption = None,
    partitions: Annotated[
        int | None, typer.Option(min=1, help="Partitions of the input topic, if it is created.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the topics with what they must be; changes nothing."""
    loaded = _load(config)
    from pipeline.topics import Cluster, plan

    steps = plan(loaded, Cluster(loaded), partitions)
    _print_steps(steps, {}, as_json)
    if any(step.action == "refuse" for step in steps):
        raise typer.Exit(ExitCode.PREFLIGHT)


@topics_app.command("apply", epilog=EXIT_CODES)
def topics_apply(
    config: ConfigOption = None,
    partitions: Annotated[
        int | None,
        typer.Option(min=1, help="Partitions of the input topic, if it is created (4)."),
    ] = None,
    replication: Annotated[
        int | None,
        typer.Option(min=1, help="Copies of new topics; default: up to 3, as brokers there are."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan only.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Create what is missing and mend what can be mended; repeat it at will.

    With schemas.registry_url it also registers the schemas under <topic>-value; the worker never
    does.
    """
    loaded = _load(config)
    from pipeline.topics import apply

    steps, subjects = apply(loaded, partitions, replication, dry_run)
    _print_steps(steps, subjects, as_json)


@config_app.command("check", epilog=EXIT_CODES)
def config_check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Validate the file and the environment; says ok or what is wrong and what to write."""
    loaded = _load(config)
    from predictor.config import config_hash

    digest = config_hash(loaded.predictor)
    if as_json:
        _print_json({"ok": True, "config_hash": digest})
    else:
        typer.echo(f"ok, config_hash {digest}")


@config_app.command("show")
def config_show(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print the configuration in force, with every default; secrets are masked."""
    loaded = _load(config)
    from pipeline.config import as_json_tree, as_toml

    if as_json:
        _print_json(as_json_tree(loaded))
    else:
        typer.echo(as_toml(loaded), nl=False)


@bench_app.command("step")
def bench_step(
    config: ConfigOption = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time per case.")] = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Time the compiled step by batch size: microseconds per tick and core, state bytes."""
    loaded = _load(config)
    from pipeline.bench import measure, print_step_table

    report = measure(loaded, seconds)
    if as_json:
        _print_json(report)
    else:
        print_step_table(report)


def main() -> None:
    """Entry point: every failure that a user can mend is one line on standard error."""
    # Until a command takes over, SIGTERM ends with success: nothing was begun.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        app()
    except UserError as error:
        typer.echo(f"usp: {error}", err=True)
        sys.exit(int(error.exit_code))
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
