"""The solutions of a row: one, or a list of alternatives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from exprl import config
from exprl.data.cells import is_parts, read_text
from exprl.errors import DataError

_VOID = re.compile(
    r"[\s.\u2026\u2013\u2014\-_?*/\\]*|\s*(?:n/a|nan|null|tbd|todo)\s*", re.IGNORECASE
)
"""What tables write where there is no solution."""


def read_solutions(
    value: Any, settings: config.Source, answers: Sequence[str], place: str, *, code: bool
) -> tuple[str, ...]:
    """The texts of a reference cell: none, one, or alternative solutions.

    Args:
        value: the cell: text, a number, or a list of texts.
        answers: of the row. A list whose texts all name one holds whole solutions, not steps.
        code: whether an object or a list written as text may be meant as it is.

    Raises:
        DataError: it is something else, or a list of which nothing says what it holds.
    """
    column = settings.columns.reference
    if not isinstance(value, list) or is_parts(value):
        text = read_text(value, place, column=column, code=code)
        return () if text is None or (_VOID.fullmatch(text) and not code) else (text,)
    texts = [
        read_text(item, f"{place}: item {i}", numbers=False, code=code)
        for i, item in enumerate(value, 1)
    ]
    solutions = tuple(text for text in texts if text and not _VOID.fullmatch(text))
    if len(solutions) < 2 or settings.reference_list == "alternatives":
        return solutions
    if settings.reference_list == "steps":
        return ("\n".join(solutions),)
    if not all(any(_names(text, answer) for answer in answers) for text in solutions):
        why = f"not every one of which names the answer {answers[0]!r}" if answers else ""
        raise DataError(
            f"{place}: holds a list of {len(solutions)} texts,"
            f" {why or 'and the row has no answer that tells what they are'}; if they are"
            " alternative solutions, set data.reference_list = 'alternatives'; if they are the"
            " steps of one solution, set it to 'steps'"
        )
    return solutions


def _names(text: str, answer: str) -> bool:
    """Whether the answer stands in a text, with any blanks, and not inside a word or a number."""
    tokens = re.findall(r"\w+|[^\w\s]", answer.strip().strip("$"))
    words = r"\s*".join(map(re.escape, tokens))
    return bool(tokens) and bool(re.search(rf"(?<![\w.]){words}(?!\w|\.\d)", text))
