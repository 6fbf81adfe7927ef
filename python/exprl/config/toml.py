"""TOML and dotted overrides to a config, and a config to TOML again."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from exprl.config import mistakes, presets
from exprl.config.noise import with_rates
from exprl.config.reward import Judge
from exprl.config.run import Config
from exprl.config.section import Section, lay_over
from exprl.errors import ConfigError


class _OnlyJudge(Section):
    judge: Judge = Judge()


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file and dotted overrides (`optim.lr=3e-4`) into a Config.

    Relative paths in the file (model.path, data.path, ...) are taken from the working directory.

    Raises:
        ConfigError: with file, key, value and what is allowed, in one message.
    """
    return build(override(read(path), overrides), source=str(path))


def build_judge(overrides: Sequence[str]) -> Judge:
    """The `[judge]` section that overrides make where there is no config; others are left aside.

    Raises:
        ConfigError: an override of the judge is wrong.
    """
    own = [text for text in overrides if text.startswith("judge.")]
    try:
        return _OnlyJudge.model_validate(override({}, own)).judge
    except ValidationError as error:
        raise ConfigError(mistakes.explain_errors(error, "--set")) from None


def load_judge(path: str | Path) -> Judge:
    """The `[judge]` section of a TOML file, which need not have any other; others are left aside.

    Raises:
        ConfigError: the file cannot be used, or a setting of the judge is wrong.
    """
    try:
        return _OnlyJudge.model_validate({"judge": read(path).get("judge", {})}).judge
    except ValidationError as error:
        raise ConfigError(mistakes.explain_errors(error, str(path))) from None


def read(path: str | Path) -> dict[str, Any]:
    """The plain values of a TOML file.

    Raises:
        ConfigError: the file is missing, cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such config file; `exprl init DATA` writes one for a data file, and `exprl"
            " examples` copies some"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def override(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The tree with dotted overrides laid into it.

    Raises:
        ConfigError: an override is not of the form section.key=value.
    """
    for override in overrides:
        _override(tree, override)
    return tree


def build(tree: dict[str, Any], source: str = "config") -> Config:
    """Lay a tree of plain values over its presets and validate the result.

    Raises:
        ConfigError: a value is wrong, or a file that reward.noise names.
    """
    whole = with_rates(lay_over(_preset_of(tree), tree))
    try:
        return Config.model_validate(whole)
    except ValidationError as error:
        raise ConfigError(mistakes.explain_errors(error, source)) from None


def _preset_of(tree: dict[str, Any]) -> dict[str, Any]:
    """That of its method, and what goes with rollout.ahead. A wrong value is for validation."""
    name = tree.get("method", Config.model_fields["method"].default)
    preset = presets.PRESETS.get(name, {}) if isinstance(name, str) else {}
    rollout = tree.get("rollout")
    ahead = rollout.get("ahead") if isinstance(rollout, dict) else None
    return lay_over(preset, presets.AHEAD) if isinstance(ahead, int) and ahead > 0 else preset


def to_toml(config: Config) -> str:
    """The resolved config as TOML that `load` reads back to the same Config: RUN/config.toml."""
    return tomli_w.dumps(_without_none(config.model_dump(mode="json")))


def json_schema() -> str:
    """JSON schema of the config, for editors and for `exprl config schema`."""
    return json.dumps(Config.model_json_schema(), indent=2)


def _override(tree: Any, override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"override {override!r} is not of the form section.key=value")
    *sections, leaf = key.strip().split(".")
    for section in sections:
        below = tree.setdefault(section, {}) if isinstance(tree, dict) else _item(tree, section)
        if not isinstance(below, dict | list):
            raise ConfigError(f"override {override!r}: {section!r} is a value, not a section")
        tree = below
    if not isinstance(tree, dict):
        raise ConfigError(
            f"override {override!r}: {sections[-1]!r} is a list; name one of its sections by its"
            f" number, 0..{len(tree) - 1}"
        )
    try:
        tree[leaf] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        tree[leaf] = text  # a bare word is a string


def _item(sections: list[Any], number: str) -> Any:
    return sections[int(number)] if number.isdigit() and int(number) < len(sections) else None


def _without_none(value: Any) -> Any:
    """The inverse of `Section._read_none`."""
    if isinstance(value, dict):
        return {key: _without_none(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_without_none(below) for below in value]
    return "none" if value is None else value
