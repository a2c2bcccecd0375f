"""`usp topics`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli_common import ConfigFile, DryRun, Json, command, console, load_config, show_json

if TYPE_CHECKING:
    from pipeline.topics import Step

Partitions = Annotated[
    int | None,
    typer.Option(
        min=1, help="Partitions of the input where it has to be created.", show_default="4"
    ),
]

app = typer.Typer(no_args_is_help=True, help="Create and check the topics.")


def add_to(parent: typer.Typer) -> None:
    """Register the commands."""
    parent.add_typer(app, name="topics")


@command(app)
def plan(
    config_file: ConfigFile = None, partitions: Partitions = None, as_json: Json = False
) -> None:
    """Show what `usp topics apply` would create, change or refuse.

    $ usp topics plan
    $ usp topics plan --json

    Exit codes: 0, 4 when the cluster does not answer or a topic cannot be mended.
    """
    config = load_config(config_file)
    from pipeline.cluster import Cluster
    from pipeline.topics import plan as plan_topics
    from pipeline.topics import refuse_if_refused

    steps = plan_topics(config, Cluster(config), partitions)
    _show(steps, None, as_json)
    refuse_if_refused(steps)


@command(app)
def apply(
    config_file: ConfigFile = None,
    partitions: Partitions = None,
    replication: Annotated[
        int | None,
        typer.Option(min=1, help="Copies of new topics.", show_default="3, or one per broker"),
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Create the topics that are missing, mend settings, register schemas; safe to repeat.

    Outputs get as many partitions as the input. With schemas.registry_url the Avro schemas are
    registered as well. Nothing is ever deleted, and no partition count is changed.

    $ usp topics apply --partitions 12
    $ usp topics apply --dry-run --json

    Exit codes: 0, 3 configuration, 4 cluster or registry does not answer, or a topic cannot be
    mended (nothing is changed then), 6 authentication.
    """
    config = load_config(config_file)
    from pipeline.topics import apply as apply_topics

    steps, ids = apply_topics(config, partitions, replication, dry_run)
    _show(steps, ids, as_json, done=not dry_run)


_DONE = {"keep": "kept", "create": "created", "alter": "altered", "refuse": "refused"}


def _show(
    steps: list[Step], ids: dict[str, int] | None, as_json: bool, *, done: bool = False
) -> None:
    if as_json:
        document: dict[str, Any] = {
            "topics": [
                {
                    "topic": step.topic,
                    "action": step.action,
                    "detail": step.detail,
                    "partitions": step.partitions,
                    "settings": dict(step.settings),
                }
                for step in steps
            ]
        }
        if ids is not None:
            document["subjects"] = ids
            document["dry_run"] = not done
        show_json(document)
        return
    from rich.table import Table

    table = Table("topic", "action", "detail")
    for step in steps:
        table.add_row(step.topic, _DONE[step.action] if done else step.action, step.detail)
    console().print(table)
    for subject, schema_id in (ids or {}).items():
        typer.echo(f"subject {subject}: schema id {schema_id}")
