"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
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
        help="settings that replace those of the file, e.g. optim.lr=3e-6 train.steps=50;"
        " --optim.lr 3e-6 means the same",
    ),
]
TAKES_OVERRIDES = {"ignore_unknown_options": True}
"""For a command with `Overrides`: options that it does not know are settings, too."""
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


def read_overrides(words: Sequence[str] | None) -> list[str]:
    """`--optim.lr 1e-6` and `--optim.lr=1e-6` as `optim.lr=1e-6`; what has that form stays.

    Raises:
        ConfigError: an option has no value, or is neither one of the command nor like a setting.
    """
    overrides, rest = [], iter(words or ())
    for word in rest:
        if word.startswith("-"):
            option, sign, value = word.partition("=")
            key = _read_key(option)
            value = value if sign else next(rest, "")
            if not value:
                raise ConfigError(f"{option} has no value; write {option} VALUE, or {key}=VALUE")
            overrides.append(f"{key}={value}")
        else:
            overrides.append(word)
    return overrides


def _read_key(option: str) -> str:
    """`--optim.max-grad-norm` as `optim.max_grad_norm`."""
    from exprl.config import Config
    from exprl.config.keys import every_key

    *sections, leaf = option.removeprefix("--").split(".")
    key = ".".join([*sections, leaf.replace("-", "_")])
    is_key = sections or any(key == known.rpartition(".")[2] for known, _ in every_key(Config))
    if not option.startswith("--") or not is_key:
        raise ConfigError(
            f"there is no option {option}, see --help; a setting has the form optim.lr=3e-6 or"
            " --optim.lr 3e-6"
        )
    return key


def one_of(option: str, value: str, allowed: tuple[T, ...]) -> T:
    """The allowed value that is written `value`; a ConfigError names all of them."""
    for one in allowed:
        if one == value:
            return one
    raise ConfigError(f"{option} = {value!r}; use one of {', '.join(map(str, allowed))}")
