"""Cells, to text: what counts as text, and what is refused with a hint."""

from __future__ import annotations

import ast
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from exprl.data.columns import join_names
from exprl.data.files import describe_kind
from exprl.errors import DataError

TEXT_PARTS = ("text", "input_text", "output_text")


def read_text(
    value: Any, place: str, *, column: str | None = None, numbers: bool = True, code: bool = False
) -> str | None:
    """A cell's text as it stands; None for null and white space; numbers become their digits.

    Args:
        place: file, row and column, for messages.
        column: by its dotted name, for the hint at its keys.
        numbers: whether a number may stand for its digits.
        code: whether an object or a list written as text may be meant as it is.

    Raises:
        DataError: the cell is neither; names `place`, what it is, and what to write instead.
    """
    if isinstance(value, list) and is_parts(value):
        value = join_parts(value, place)
    if numbers and isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        value = _write_number(value, place)
    if value is None:
        return None
    if not isinstance(value, str):
        wanted = "text or a number" if numbers else "text"
        hint = _name_keys(value, column) if isinstance(value, Mapping) and column else ""
        raise DataError(f"{place}: expected {wanted}, found {describe_kind(value)}{hint}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: not valid Unicode text: {error.reason}") from None
    _refuse_structure(value, place, code=code)
    return value if value.strip() else None


def _write_number(value: float | Decimal, place: str) -> str | None:
    """All digits and no exponent: 33.0 is 33 (integers with gaps come as floats), 1e-7 0.0000001.

    NaN is how tables write a gap.
    """
    if math.isnan(value):
        return None
    if math.isinf(value):
        raise DataError(f"{place}: expected text or a finite number, found {value}")
    exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if exact == 0:
        return "0"  # and not -0
    return format(exact.to_integral_value() if exact == exact.to_integral_value() else exact, "f")


def _name_keys(value: Mapping[str, Any], column: str) -> str:
    if not value:
        return ""
    return f"; name one of its keys: {join_names([f'{column}.{key}' for key in value])}"


def is_parts(value: Sequence[Any]) -> bool:
    """Whether a list holds content parts, `{"type": "text", "text": ...}`, and no messages."""
    return bool(value) and all(
        isinstance(part, Mapping) and "type" in part and "role" not in part for part in value
    )


def join_parts(parts: Sequence[Mapping[str, Any]], place: str) -> str:
    """The text of content parts that are all text.

    Raises:
        DataError: a part is of another type, by its number and type.
    """
    texts = []
    for number, part in enumerate(parts, 1):
        text = part.get("text")
        if part["type"] not in TEXT_PARTS or not isinstance(text, str):
            what = f"of type {part['type']!r}" + (
                f" and its text is {describe_kind(text)}" if part["type"] in TEXT_PARTS else ""
            )
            raise DataError(
                f"{place}: content part {number} is {what}; exprl trains on text alone, so leave"
                " such rows out of the data"
            )
        texts.append(text)
    return "".join(texts)


def _refuse_structure(text: str, place: str, *, code: bool) -> None:
    """Refuse an object or a list that was written as text: nothing would read it as meant."""
    value = _parse_structure(text)
    items = value if isinstance(value, list) else []
    if any(isinstance(item, dict) and "role" in item for item in items):
        what, remedy = "chat messages", "write the list of messages itself"
    elif code:
        return
    elif isinstance(value, dict) and value and all(isinstance(key, str) for key in value):
        what, remedy = "an object", f"write the object itself (its keys are {join_names([*value])})"
    elif any(isinstance(item, str | dict) for item in items):
        what, remedy = "a list", "write the list itself, or its one text"
    else:
        return
    meant = "" if "chat" in what else "; where JSON is meant as it is, data.domain is 'exact'"
    raise DataError(
        f"{place}: holds {what} written as text, {text.strip()[:40]!r}; {remedy}, for which a CSV"
        f" file has no form{meant}"
    )


def _parse_structure(text: str) -> Any:
    """What a text says in JSON, or as Python prints it (pandas does so in a CSV file)."""
    stripped = text.strip().strip("\ufeff")
    if stripped[:1] + stripped[-1:] not in ("{}", "[]"):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of the backslashes in formulas
        for parse in (json.loads, ast.literal_eval):
            try:
                return parse(stripped)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
    return None
