"""`usp config`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli_common import ConfigFile, Json, command, load_config, show_json

app = typer.Typer(no_args_is_help=True, help="Check and show the configuration.")


def add_to(parent: typer.Typer) -> None:
    """Register the commands."""
    parent.add_typer(app, name="config")


@command(app)
def check(config_file: ConfigFile = None, as_json: Json = False) -> None:
    """Validate file and environment, and print the hash of what can change a forecast.

    $ usp config check
    $ usp config check --config prod.toml

    Exit codes: 0, 3 with one line that names the field and the remedy.
    """
    config = load_config(config_file)
    from predictor.config import config_hash

    digest = config_hash(config.predictor)
    if as_json:
        show_json({"ok": True, "config_hash": digest})
    else:
        typer.echo(f"ok, config hash {digest}")


@command(app)
def show(
    config_file: ConfigFile = None,
    comments: Annotated[bool, typer.Option(help="Meaning, unit and kind of every field.")] = True,
    as_json: Json = False,
) -> None:
    """Print the effective configuration: defaults, file and environment together.

    Secrets are masked. Without --json it is a complete config.toml.

    $ usp config show
    $ usp config show --no-comments > config.toml
    """
    config = load_config(config_file)
    import msgspec

    from pipeline.config import as_json_tree, as_toml
    from pipeline.subjects import without_credentials

    url = without_credentials(config.schemas.registry_url)
    config = msgspec.structs.replace(
        config, schemas=msgspec.structs.replace(config.schemas, registry_url=url)
    )
    if as_json:
        show_json(as_json_tree(config))
    else:
        typer.echo(as_toml(config, with_comments=comments), nl=False)
