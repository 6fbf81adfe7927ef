"""What a user should know of rows that are read and yet not used as they stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from exprl.types import Problem

Remark = Callable[[str], object]
"""Takes one sentence for the user; the dry run and a run's start print it."""


def ignore(_: str) -> None:
    """Tell nobody."""


def count_rows(what: str, problems: Sequence[Problem], total: int, remark: Remark) -> None:
    """Say how many of `total` rows are so, and name the first; nothing where none is.

    >>> from exprl.types import Message, Prompt
    >>> problem = Problem("7", Prompt("7", (Message("user", "?"),)), None, "math")
    >>> count_rows("without an answer", [problem], 20, print)
    1 of 20 rows without an answer (first id: '7')
    """
    if problems:
        remark(f"{len(problems)} of {total} rows {what} (first id: {problems[0].id!r})")
