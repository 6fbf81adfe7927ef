"""Every key of a config, read from the sections' own definitions."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from exprl.config import Config, FunctionName
from exprl.config.noise import Noise
from exprl.config.section import keys_of
from exprl.judge import Prices

BOUNDS = {Gt: ("gt", "> {}"), Ge: ("ge", ">= {}"), Lt: ("lt", "< {}"), Le: ("le", "<= {}")}


@dataclass(frozen=True)
class Key:
    """One key: where it stands in the file, and what it takes."""

    name: str
    """Dotted; `data.sources[]` is a list of sections, `domains.NAME` a section per name."""
    section: type
    field: FieldInfo

    @property
    def values(self) -> str:
        """Which values it takes, in words."""
        words = [_value(kind) for kind in _alternatives(self.field.annotation)]
        bounds = [
            text.format(getattr(rule, attribute))
            for rule in self.field.metadata
            for kind, (attribute, text) in BOUNDS.items()
            if isinstance(rule, kind)
        ]
        return ", ".join([" or ".join(dict.fromkeys(words)), *bounds])

    @property
    def default(self) -> str | None:
        """As one would write it in TOML; None where the file must say it."""
        return (
            None
            if self.field.is_required()
            else _toml(self.field.get_default(call_default_factory=True))
        )


def keys(section: type = Config, above: str = "") -> Iterator[Key]:
    """The keys of a section and of those below it, in the order of the code."""
    for name, field in keys_of(section).items():
        below = _section_below(field.annotation)
        if below is None:
            yield Key(above + name, section, field)
        else:
            kind, places = below
            yield from keys(kind, f"{above}{name}{places}.")


def names_in(tree: dict[str, Any], above: str = "") -> Iterator[str]:
    """The keys that a parsed TOML text sets, named as `keys` names them."""
    for name, value in tree.items():
        place = above + name
        if above == "domains.":
            place = "domains.NAME"
        if isinstance(value, dict):
            yield from names_in(value, f"{place}.")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            for item in value:
                yield from names_in(item, f"{place}[].")
        else:
            yield place


def _section_below(annotation: Any) -> tuple[type, str] | None:
    for kind in _alternatives(annotation):
        inner = typing.get_args(kind)
        if _is_section(kind):
            return kind, ""
        if typing.get_origin(kind) is dict and _is_section(inner[1]):
            return inner[1], ".NAME"
        if typing.get_origin(kind) is tuple and _is_section(inner[0]):
            return inner[0], "[]"
    return None


def _is_section(kind: Any) -> bool:
    return bool(keys_of(kind))


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _value(kind: Any) -> str:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return " or ".join(map(_toml, inner))
    if origin is typing.Annotated:
        return " or ".join(map(_value, _alternatives(inner[0])))
    if origin in (tuple, list):
        return f"list of {_value(inner[0])}"
    if origin in (dict, Mapping):
        return "table"
    names = {
        str: "text",
        int: "integer",
        float: "number",
        bool: "true or false",
        FunctionName: "module:function",
        Noise: "table of false_positive and false_negative, or a file",
        Prices: "table of prompt, cached and completion",
        type(None): '"none"',
    }
    return names[kind]


def _toml(value: Any) -> str:
    match value:
        case None:
            return '"none"'
        case bool():
            return str(value).lower()
        case str():
            return '"' + value.replace("\n", "\\n") + '"'
        case dict():
            return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
        case tuple() | list():
            return f"[{', '.join(map(_toml, value))}]"
        case _:
            return f"{value:g}" if isinstance(value, float) else str(value)
