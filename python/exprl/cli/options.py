"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import typer

from exprl.errors import ConfigError

T = TypeVar("T")

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells have it."""

ConfigFile = Annotated[Path, typer.Argument(help="TOML file, see configs/", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="settings that replace those of the file, e.g. optim.lr=3e-6 train.steps=50",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="a setting that replaces the config's; may repeat"
    ),
]
Ks = Annotated[list[int] | None, typer.Option("-k", min=1, help="pass@k to print; may repeat")]
Steps = Annotated[
    str | None, typer.Option(help="training steps of the run to read, such as 12 or 1-10")
]
ApiKeyEnv = Annotated[str | None, typer.Option(help="environment variable that holds the key")]


def one_of(option: str, value: str, allowed: tuple[T, ...]) -> T:
    """The allowed value that is written `value`; a ConfigError names all of them."""
    for one in allowed:
        if one == value:
            return one
    raise ConfigError(f"{option} = {value!r}; use one of {', '.join(map(str, allowed))}")
