"""`exprl config`: look at configs."""

from __future__ import annotations

import typer

from exprl.cli.options import ConfigFile, Overrides

commands = typer.Typer(no_args_is_help=True, help="Look at configs.")


@commands.command("schema")
def config_schema() -> None:
    """Print the JSON schema of the config, for editors."""
    from exprl import config

    typer.echo(config.json_schema())


@commands.command("show")
def config_show(config_file: ConfigFile, overrides: Overrides = None) -> None:
    """Print the resolved config: preset, file and overrides laid over the defaults."""
    from exprl import config

    typer.echo(config.to_toml(config.load(config_file, overrides or ())), nl=False)
