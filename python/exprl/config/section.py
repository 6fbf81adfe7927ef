"""What every section of a config is: frozen, strict, and laid over what it leaves open."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

STRICT = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)


def keys_of(section: Any) -> Mapping[str, FieldInfo]:
    """The keys of a section, a class; empty where it is none."""
    return getattr(section, "__pydantic_fields__", {})


def read_none(section: Any, values: Any) -> Any:
    """TOML has no null: "none" unsets a key that may be unset."""
    if not isinstance(values, dict):
        return values
    return {
        key: None if value == "none" and type(None) in _kinds(section, key) else value
        for key, value in values.items()
    }


def refuse_truths(section: Any, value: Any, info: ValidationInfo) -> Any:
    """Refuse true and false where Python would take them for 1 and 0."""
    if isinstance(value, bool) and {int, float} & _kinds(section, info.field_name):
        raise ValueError("expected a number, not true or false")
    return value


def expand_home(path: Any) -> Any:
    """A path with ~ as the home directory, as a shell has it; other values stay."""
    return os.path.expanduser(path) if isinstance(path, str) else path  # noqa: PTH111


class Section(BaseModel):
    """Frozen, and no unknown keys. TOML has no null: "none" unsets a key that may be unset."""

    model_config = ConfigDict(**STRICT, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _read_none(cls, values: Any) -> Any:
        return read_none(cls, values)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truths(cls, value: Any, info: ValidationInfo) -> Any:
        return refuse_truths(cls, value, info)


def _kinds(section: Any, key: str | None) -> set[Any]:
    """The types that a key's value may have."""
    field = keys_of(section).get(key or "")
    return {field.annotation, *get_args(field.annotation)} if field else set()


def lay_over(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid upon `base`, section by section."""
    result = dict(base)
    for key, value in over.items():
        if isinstance(value, dict):
            below = result.get(key)
            result[key] = lay_over(below if isinstance(below, dict) else {}, value)
        else:
            result[key] = value
    return result


def section_of(annotation: Any) -> Any:
    """The one of `Section | None`, `tuple[Section, ...]` or `dict[str, Section]`; else None."""
    return next(filter(keys_of, (annotation, *get_args(annotation))), None)
