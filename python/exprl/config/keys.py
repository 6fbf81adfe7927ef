"""A config by its dotted keys, and what differs between two."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_origin

from pydantic_core import to_jsonable_python

from exprl.config import presets
from exprl.config.run import Config
from exprl.config.section import keys_of, lay_over, section_of


def flatten(config: Config) -> dict[str, Any]:
    """Dotted key to value."""
    return dict(leaves(config.model_dump(mode="json"), ""))


def differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """The sorted keys on which two configs differ, with both values; None where one has no such."""
    flat_a, flat_b = flatten(a), flatten(b)
    both = {key: (flat_a.get(key), flat_b.get(key)) for key in sorted(flat_a.keys() | flat_b)}
    return {key: (x, y) for key, (x, y) in both.items() if x != y}


def defaults(method: presets.MethodName) -> dict[str, Any]:
    """Dotted key to the value that it has where a config of this method leaves it open."""
    return dict(leaves(lay_over(_defaults(Config), presets.PRESETS[method])))


def describe(key: str) -> str:
    """What a dotted key means, in the words of the config's own definition."""
    section: Any = Config
    parts = iter(key.split("."))
    for part in parts:
        field = keys_of(section)[part]
        section = section_of(field.annotation)
        if get_origin(field.annotation) is dict:  # domains.NAME: the name has no meaning of ours
            next(parts, None)
        if section is None:  # what follows is a name of the user's, as in judge.extra.NAME
            break
    return field.description or ""


def every_key(section: Any, above: str = "") -> Iterator[tuple[str, str]]:
    """Every dotted key with its description, those of lists and of domains left out."""
    for name, field in keys_of(section).items():
        below = section_of(field.annotation)
        if below is None:
            yield f"{above}{name}", field.description or ""
        elif get_origin(field.annotation) not in (tuple, dict):
            yield from every_key(below, f"{above}{name}.")


def _defaults(section: Any) -> dict[str, Any]:
    """The tree of a section's defaults; keys that must be set are left out."""
    tree = {}
    for name, field in keys_of(section).items():
        below = section_of(field.annotation)
        if not field.is_required():
            tree[name] = to_jsonable_python(field.get_default(call_default_factory=True))
        elif below is not None and get_origin(field.annotation) is None:
            tree[name] = _defaults(below)
    return tree


def leaves(tree: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of a tree of plain values, with the values."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
