"""`exprl config`: look at configs."""

from __future__ import annotations

import typer

from exprl.cli.options import TAKES_OVERRIDES, ConfigFile, Overrides, read_overrides

commands = typer.Typer(no_args_is_help=True, help="Look at configs.")


@commands.command("schema")
def config_schema() -> None:
    """Print the JSON schema of the config, for editors."""
    from exprl import config

    typer.echo(config.json_schema())


@commands.command("show", context_settings=TAKES_OVERRIDES)
def config_show(config_file: ConfigFile, overrides: Overrides = None) -> None:
    """Print the resolved config: preset, file and overrides laid over the defaults."""
    from exprl import config

    typer.echo(config.to_toml(config.load(config_file, read_overrides(overrides))), nl=False)
