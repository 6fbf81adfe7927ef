"""Rows, to Problems: the column map, and which problems a training step takes.

Row numbers in errors count data rows from 1.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt

from exprl import config
from exprl.errors import DataError
from exprl.rows import Row, kind, read_rows
from exprl.types import Message, Problem, Prompt, Role

PLAIN_TEMPLATE = "{problem}"
DOMAINS_WITHOUT_VERIFIER = ("code",)
_ROLES: tuple[str, ...] = get_args(Role)


def load_problems(settings: config.Data) -> list[Problem]:
    """Read every problem that the settings name, in file order.

    Raises:
        DataError: names the file, the row and the column, and says what to change.
    """
    rows = list(itertools.islice(read_rows(settings), settings.limit))
    if not rows:
        raise DataError(f"{settings.path}: holds no rows")
    _check_columns(rows, settings)
    problems = [_problem(row, number, settings) for number, row in enumerate(rows, 1)]
    _check_unique(problems, settings)
    return problems


def require_references(problems: Sequence[Problem]) -> None:
    """Raise a DataError that names the first row without a reference solution."""
    for number, problem in enumerate(problems, 1):
        if problem.reference is None:
            raise DataError(
                f"row {number} (id {problem.id!r}) has no reference solution, which the judge"
                " needs: fill it in, or set data.columns.reference to the column that holds it"
            )


def require_answers(problems: Sequence[Problem]) -> None:
    """Raise a DataError that names the first row without a final answer."""
    for number, problem in enumerate(problems, 1):
        if problem.answer is None:
            raise DataError(
                f"row {number} (id {problem.id!r}) has no final answer, which the verifier needs:"
                " fill it in, or set data.columns.answer to the column that holds it"
            )


def without_references(problems: Sequence[Problem]) -> list[Problem]:
    """Take the references away: the data of Stage II."""
    return [replace(problem, reference=None) for problem in problems]


def wrong_references(problems: Sequence[Problem], seed: int) -> dict[str, str]:
    """Give every problem the reference of another one, for the judge's `wrong` condition.

    The text always differs from the problem's own, also where problems share a reference.

    Returns:
        problem id -> the other problem's reference.

    Raises:
        DataError: a reference is missing, or more than half of the problems share one.
    """
    require_references(problems)
    same_text: dict[str, list[Problem]] = {}
    for i in _generator(seed, 0).permutation(len(problems)):
        problem = problems[i]
        same_text.setdefault(cast(str, problem.reference), []).append(problem)
    largest = max((len(group) for group in same_text.values()), default=0)
    if len(problems) < 2 or 2 * largest > len(problems):
        raise DataError(
            f"no wrong references for {len(problems)} problems, of which {largest} share one: at"
            " least two problems are needed, and at most half of them may share a reference"
        )
    # Equal texts stand side by side, so a shift by the largest block leaves none at its place.
    order = [problem for group in same_text.values() for problem in group]
    shifted = order[largest:] + order[:largest]
    return {own.id: cast(str, other.reference) for own, other in zip(order, shifted, strict=True)}


def step_indices(count: int, per_step: int, seed: int, step: int) -> list[int]:
    """Which of `count` problems training step `step` (from 0) takes, `per_step` of them.

    Steps read an endless row of shuffled epochs, each a permutation keyed by (seed, epoch): every
    problem comes once before any comes twice. A pure function, so a resumed run needs no state.
    No step holds a problem twice, also not where it crosses from one epoch to the next, unless
    per_step exceeds count.

    >>> sorted(step_indices(4, 2, seed=0, step=0) + step_indices(4, 2, seed=0, step=1))
    [0, 1, 2, 3]
    """
    if count < 1 or per_step < 1 or seed < 0 or step < 0:
        raise ValueError(
            f"count = {count} and per_step = {per_step} must be positive, seed = {seed} and"
            f" step = {step} not negative"
        )
    start, stop = step * per_step, (step + 1) * per_step
    taken: list[int] = []
    tail = np.empty(0, dtype=np.int64)  # places of the crossing step before the epoch's start
    for epoch in range((stop - 1) // count + 1):
        order = _epoch(count, seed, epoch, tail, per_step)
        begin = epoch * count
        taken += order[max(start - begin, 0) : max(stop - begin, 0)].tolist()
        tail = order[count - min((begin + count) % per_step, count) :]
    return taken


def _epoch(
    count: int, seed: int, epoch: int, tail: npt.NDArray[np.int64], per_step: int
) -> npt.NDArray[np.int64]:
    """The epoch's permutation, with the problems of `tail` not among those that join its step."""
    order = _generator(seed, epoch).permutation(count)
    clashes = np.isin(order, tail)
    if not clashes.any() or per_step > count:
        return order
    joining = order[~clashes][: per_step - len(tail)]
    return np.concatenate([joining, order[~np.isin(order, joining)]])


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)))


def _check_columns(rows: Sequence[Row], settings: config.Data) -> None:
    present = list(dict.fromkeys(name for row in rows for name in row))
    for field, column in settings.columns:
        if column is None or column in present:
            continue
        none = "" if field == "problem" else " (or to 'none' if the data has no such column)"
        raise DataError(
            f"{settings.path}: no column {column!r}; its columns are {', '.join(present)}; set"
            f" data.columns.{field} to one of them{none}"
        )


def _problem(row: Row, number: int, settings: config.Data) -> Problem:
    columns = settings.columns

    def at(column: str) -> str:
        return f"{settings.path}: row {number}: column {column!r}"

    def cell(column: str | None) -> str | None:
        return None if column is None else _text(row.get(column), at(column))

    answer = cell(columns.answer)
    if answer is not None and settings.answer_pattern is not None:
        answer = _extract(answer, settings.answer_pattern, at(str(columns.answer)))
    domain = settings.domain if columns.domain is None else cell(columns.domain)
    problem_id = str(number) if columns.id is None else cell(columns.id)
    if domain is None or problem_id is None:
        column = columns.id if problem_id is None else columns.domain
        raise DataError(f"{at(str(column))}: is empty")
    if answer is not None and domain in DOMAINS_WITHOUT_VERIFIER:
        raise DataError(
            f"{at(str(columns.answer))}: domain {domain!r} has no verifier, so its rows must have"
            " no answer: leave the cell empty, or set data.columns.answer to 'none'"
        )
    messages = _messages(row.get(columns.problem), settings, at(columns.problem))
    return Problem(
        id=problem_id,
        prompt=Prompt(problem_id, messages),
        reference=cell(columns.reference),
        answer=answer,
        domain=domain,
    )


def _messages(value: Any, settings: config.Data, place: str) -> tuple[Message, ...]:
    """A chat as it stands, or a text put into the template; before both the system message."""
    if isinstance(value, list):
        if settings.template != PLAIN_TEMPLATE:
            raise DataError(
                f"{place}: holds chat messages, to which data.template = {settings.template!r}"
                f" cannot apply; set it to {PLAIN_TEMPLATE!r}"
            )
        messages = tuple(_message(item, f"{place}: message {i}") for i, item in enumerate(value, 1))
        if not messages or messages[-1].role != "user":
            raise DataError(f"{place}: the last message must be of role 'user'")
    else:
        text = _text(value, place, numbers=False)
        if text is None:
            raise DataError(f"{place}: is empty")
        # Not str.format: problems are full of braces.
        messages = (Message("user", settings.template.replace(PLAIN_TEMPLATE, text)),)
    if settings.system is not None and messages[0].role != "system":
        messages = (Message("system", settings.system), *messages)
    return messages


def _message(value: Any, place: str) -> Message:
    if not isinstance(value, dict) or not {"role", "content"} <= value.keys():
        raise DataError(f"{place}: expected {{role, content}}, found {kind(value)}")
    role, content = value["role"], _text(value["content"], f"{place}: content", numbers=False)
    if role not in _ROLES:
        raise DataError(f"{place}: role {role!r} is none of {', '.join(_ROLES)}")
    if content is None:
        raise DataError(f"{place}: content: is empty")
    return Message(cast(Role, role), content)


def _text(value: Any, place: str, *, numbers: bool = True) -> str | None:
    """A cell's text as it stands; None for null and white space; numbers become their digits."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of integers with gaps comes as floats
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        value = None if math.isnan(value) else str(value)  # NaN is how tables write a gap
    if value is None:
        return None
    if not isinstance(value, str):
        wanted = "text or a number" if numbers else "text"
        raise DataError(f"{place}: expected {wanted}, found {kind(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: not valid Unicode text: {error.reason}") from None
    return value if value.strip() else None


def _extract(answer: str, pattern: str, place: str) -> str:
    found = re.search(pattern, answer)
    group = found.group(1) if found else None
    if group is None or not group.strip():
        raise DataError(f"{place}: data.answer_pattern = {pattern!r} finds no answer in it")
    return group.strip()


def _check_unique(problems: Sequence[Problem], settings: config.Data) -> None:
    first: dict[str, int] = {}
    for number, problem in enumerate(problems, 1):
        if (other := first.setdefault(problem.id, number)) != number:
            raise DataError(
                f"{settings.path}: rows {other} and {number}: column {settings.columns.id!r}: both"
                f" have the id {problem.id!r}; ids must be unique, or set data.columns.id to 'none'"
            )
