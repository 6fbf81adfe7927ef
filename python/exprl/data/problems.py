"""Rows, to Problems: the column map.

Row numbers in errors count data rows from 1.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast, get_args

from exprl import config
from exprl.data.files import Row, describe_kind, read_rows
from exprl.data.mixture import make_generator
from exprl.errors import DataError
from exprl.types import Message, Problem, Prompt, ReferenceProblem, Role
from exprl.verify.answer import find_answer

PLAIN_TEMPLATE = "{problem}"
_ROLES: tuple[str, ...] = get_args(Role)


def load_problems(settings: config.Data) -> list[ReferenceProblem]:
    """Read every problem that the settings name, source by source, in file order.

    The ids of several sources get the source's number in front: `2/17`. A source without a
    columns.reference has its references not even read.

    Raises:
        DataError: names the file, the row and the column, and says what to change.
    """
    return [
        problem
        for index, source in enumerate(settings.parts)
        for problem in _load(source, index, several=len(settings.parts) > 1)
    ]


def _load(source: config.Source, index: int, *, several: bool) -> list[ReferenceProblem]:
    rows = list(itertools.islice(read_rows(source), source.limit))
    if not rows:
        raise DataError(f"{source.path}: holds no rows")
    _check_columns(rows, source)
    problems = [_make_problem(row, number, source) for number, row in enumerate(rows, 1)]
    _check_unique(problems, source)
    if not several:
        return problems
    return [_mark_source(problem, index) for problem in problems]


def _mark_source(problem: ReferenceProblem, index: int) -> ReferenceProblem:
    name = f"{index + 1}/{problem.id}"
    return replace(problem, id=name, prompt=replace(problem.prompt, problem_id=name), source=index)


def require_references(problems: Sequence[ReferenceProblem]) -> None:
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


def draw_wrong_references(references: Mapping[str, str], seed: int) -> dict[str, str]:
    """Give every problem the reference of another one, for the judge's `wrong` condition.

    The text always differs from the problem's own, also where problems share a reference.

    Args:
        references: problem -> its own reference.

    Returns:
        problem -> the other problem's reference.

    Raises:
        DataError: there is one problem only, or more than half of them share a reference.
    """
    problems = list(references)
    same_text: dict[str, list[str]] = {}
    for i in make_generator(seed, 0).permutation(len(problems)):
        same_text.setdefault(references[problems[i]], []).append(problems[i])
    largest = max((len(group) for group in same_text.values()), default=0)
    if len(problems) < 2 or 2 * largest > len(problems):
        raise DataError(
            f"no wrong references for {len(problems)} problems, of which {largest} share one: at"
            " least two problems are needed, and at most half of them may share a reference"
        )
    # Equal texts stand side by side, so a shift by the largest block leaves none at its place.
    order = [problem for group in same_text.values() for problem in group]
    shifted = order[largest:] + order[:largest]
    return {own: references[other] for own, other in zip(order, shifted, strict=True)}


def _check_columns(rows: Sequence[Row], settings: config.Source) -> None:
    present = list(dict.fromkeys(name for row in rows for name in row))
    for field, column in settings.columns:
        if column is None or column in present:
            continue
        none = "" if field == "problem" else " (or to 'none' if the data has no such column)"
        raise DataError(
            f"{settings.path}: no column {column!r}; its columns are {', '.join(present)}; set"
            f" data.columns.{field} to one of them{none}"
        )


def _make_problem(row: Row, number: int, settings: config.Source) -> ReferenceProblem:
    columns = settings.columns

    def at(column: str) -> str:
        return f"{settings.path}: row {number}: column {column!r}"

    def cell(column: str | None) -> str | None:
        return None if column is None else _read_text(row.get(column), at(column))

    answer = _read_answer(row, settings, cell, at)
    domain = settings.domain if columns.domain is None else cell(columns.domain)
    problem_id = str(number) if columns.id is None else cell(columns.id)
    if domain is None or problem_id is None:
        column = columns.id if problem_id is None else columns.domain
        raise DataError(f"{at(str(column))}: is empty")
    messages = _make_messages(row.get(columns.problem), settings, at(columns.problem))
    return ReferenceProblem(
        id=problem_id,
        prompt=Prompt(problem_id, messages),
        reference=cell(columns.reference),
        answer=answer,
        domain=domain,
        setup=cell(columns.setup) or "",
    )


def _read_answer(
    row: Row,
    settings: config.Source,
    cell: Callable[[str | None], str | None],
    at: Callable[[str], str],
) -> str | None:
    """The final answer; for code its unit tests, which may be a list of statements."""
    columns = settings.columns
    value = None if columns.answer is None else row.get(columns.answer)
    lines = value if isinstance(value, list) else []
    if lines and all(isinstance(line, str) for line in lines):
        answer: str | None = "\n".join(lines)
    else:
        answer = cell(columns.answer)
    if answer is None or columns.answer is None:
        return None
    if settings.answer_pattern is not None:
        answer = _extract(answer, settings.answer_pattern, at(columns.answer))
    if columns.entry_point is not None:
        entry_point = cell(columns.entry_point)
        if entry_point is None:
            raise DataError(f"{at(columns.entry_point)}: is empty")
        answer += f"\n\ncheck({entry_point})\n"
    return answer


def _make_messages(value: Any, settings: config.Source, place: str) -> tuple[Message, ...]:
    """A chat as it stands, or a text put into the template; before both the system message."""
    if isinstance(value, list):
        if settings.template != PLAIN_TEMPLATE:
            raise DataError(
                f"{place}: holds chat messages, to which data.template = {settings.template!r}"
                f" cannot apply; set it to {PLAIN_TEMPLATE!r}"
            )
        messages = tuple(
            _make_message(item, f"{place}: message {i}") for i, item in enumerate(value, 1)
        )
        if not messages or messages[-1].role != "user":
            raise DataError(f"{place}: the last message must be of role 'user'")
    else:
        text = _read_text(value, place, numbers=False)
        if text is None:
            raise DataError(f"{place}: is empty")
        # Not str.format: problems are full of braces.
        messages = (Message("user", settings.template.replace(PLAIN_TEMPLATE, text)),)
    if settings.system is not None and messages[0].role != "system":
        messages = (Message("system", settings.system), *messages)
    return messages


def _make_message(value: Any, place: str) -> Message:
    if not isinstance(value, dict) or not {"role", "content"} <= value.keys():
        raise DataError(f"{place}: expected {{role, content}}, found {describe_kind(value)}")
    role, content = value["role"], _read_text(value["content"], f"{place}: content", numbers=False)
    if role not in _ROLES:
        raise DataError(f"{place}: role {role!r} is none of {', '.join(_ROLES)}")
    if content is None:
        raise DataError(f"{place}: content: is empty")
    return Message(cast(Role, role), content)


def _read_text(value: Any, place: str, *, numbers: bool = True) -> str | None:
    """A cell's text as it stands; None for null and white space; numbers become their digits."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of integers with gaps comes as floats
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        value = None if math.isnan(value) else str(value)  # NaN is how tables write a gap
    if value is None:
        return None
    if not isinstance(value, str):
        wanted = "text or a number" if numbers else "text"
        raise DataError(f"{place}: expected {wanted}, found {describe_kind(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: not valid Unicode text: {error.reason}") from None
    return value if value.strip() else None


def _extract(answer: str, pattern: str, place: str) -> str:
    if pattern == config.BOXED:
        boxed = find_answer(answer)
        if boxed is None or not boxed.strip():
            raise DataError(f"{place}: data.answer_pattern = 'boxed' finds no \\boxed{{...}} in it")
        return boxed.strip()
    found = re.search(pattern, answer)
    group = found.group(1) if found else None
    if group is None or not group.strip():
        raise DataError(f"{place}: data.answer_pattern = {pattern!r} finds no answer in it")
    return group.strip()


def _check_unique(problems: Sequence[Problem], settings: config.Source) -> None:
    first: dict[str, int] = {}
    for number, problem in enumerate(problems, 1):
        if (other := first.setdefault(problem.id, number)) != number:
            raise DataError(
                f"{settings.path}: rows {other} and {number}: column {settings.columns.id!r}: both"
                f" have the id {problem.id!r}; ids must be unique, or set data.columns.id to 'none'"
            )
