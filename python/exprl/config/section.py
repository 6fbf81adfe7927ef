"""What every section of a config is: frozen, strict, and laid over what it leaves open."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator


class Section(BaseModel):
    """Frozen, and no unknown keys. TOML has no null: "none" unsets a key that may be unset."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _none_is_null(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {
            key: None if value == "none" and cls._may_be_none(key) else value
            for key, value in values.items()
        }

    @field_validator("*", mode="before")
    @classmethod
    def _a_truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and {int, float} & cls._kinds(info.field_name):
            raise ValueError("expected a number, not true or false")
        return value

    @classmethod
    def _may_be_none(cls, key: str) -> bool:
        return type(None) in cls._kinds(key)

    @classmethod
    def _kinds(cls, key: str | None) -> set[Any]:
        """The types that a key's value may have."""
        field = cls.model_fields.get(key or "")
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
