"""Rows, to Problems.

Row numbers in errors count data rows from 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from exprl import config
from exprl.data.files import read_rows
from exprl.data.mixture import make_generator
from exprl.data.remarks import Remark, count_rows, ignore
from exprl.data.rows import drop_unnamed, open_rows
from exprl.errors import DataError
from exprl.types import Problem, ReferenceProblem
from exprl.verify.verifiers import Treatments, check_answers, describe_unreadable

P = TypeVar("P", bound=Problem)


def load_problems(settings: config.Data, remark: Remark = ignore) -> list[ReferenceProblem]:
    """Read every problem that the settings name, source by source, in file order.

    The ids of several sources get the source's number in front: `2/17`. A source without a
    columns.reference has its references not even read.

    Args:
        remark: is told which rows are left out, or not used as they stand.

    Raises:
        DataError: names the file, the row and the column, and says what to change.
    """
    return [
        problem
        for index, source in enumerate(settings.parts)
        for problem in _load(source, index, remark, several=len(settings.parts) > 1)
    ]


def _load(
    source: config.Source, index: int, remark: Remark, *, several: bool
) -> list[ReferenceProblem]:
    rows = drop_unnamed(itertools.islice(read_rows(source), source.limit), source)
    if not rows:
        raise DataError(f"{source.path}: holds no rows")
    reader = open_rows(rows, source)
    read = [reader.read(row, number) for number, row in enumerate(rows, 1)]
    problems = [problem for problem, _ in read]
    _check_unique(problems, source)
    for what in dict.fromkeys(what for _, found in read for what in found):
        having = [problem for problem, found in read if what in found]
        count_rows(what, having, len(rows), lambda text: remark(f"{source.path}: {text}"))
    if source.missing_reference == "drop" and source.columns.reference is not None:
        problems = _drop_without_reference(problems, source, remark)
    if not several:
        return problems
    return [_mark_source(problem, index) for problem in problems]


def _mark_source(problem: ReferenceProblem, index: int) -> ReferenceProblem:
    name = f"{index + 1}/{problem.id}"
    return replace(problem, id=name, prompt=replace(problem.prompt, problem_id=name), source=index)


def _drop_without_reference(
    problems: Sequence[ReferenceProblem], source: config.Source, remark: Remark
) -> list[ReferenceProblem]:
    kept = [problem for problem in problems if problem.reference is not None]
    if not kept:
        raise DataError(
            f"{source.path}: none of its {len(problems)} rows has a reference in column"
            f" {source.columns.reference!r}, and data.missing_reference = 'drop' leaves all out"
        )
    dropped = [problem for problem in problems if problem.reference is None]
    what = "without a reference are left out (data.missing_reference = 'drop')"
    count_rows(what, dropped, len(problems), lambda text: remark(f"{source.path}: {text}"))
    return kept


def require_references(problems: Sequence[ReferenceProblem]) -> None:
    """Raise a DataError that names the first row without a reference solution."""
    for problem in problems:
        if problem.reference is None:
            raise DataError(
                f"the row with id {problem.id!r} has no reference solution, which the judge needs:"
                " fill it in, set data.columns.reference to the column that holds it, or leave such"
                " rows out with data.missing_reference = 'drop'"
            )


def require_answers(problems: Sequence[Problem]) -> None:
    """Raise a DataError that names the first row without a final answer."""
    for problem in problems:
        if problem.answer is None:
            raise DataError(
                f"the row with id {problem.id!r} has no final answer, which the verifier needs:"
                " fill it in, or set data.columns.answer to the column that holds it"
            )


def drop_unreadable(
    treatment: Treatments, problems: list[P], remark: Remark, *, evaluated: bool
) -> list[P]:
    """Leave out the rows whose answer cannot be read, where the reward or a measure needs it.

    Elsewhere they stay: the judge grades them, and whether a rollout is right is not known.

    Raises:
        DataError: the verifier is the reward, or measures, and can read not one answer.
    """
    unreadable = check_answers(treatment, problems)
    lost = {p.id for p in unreadable if evaluated or treatment(p.domain).verified}
    left_out = [p for p in unreadable if p.id in lost]
    unknown = [p for p in unreadable if p.id not in lost]
    for rows, what in (
        (left_out, "are left out: their final answer cannot be read"),
        (
            unknown,
            "have a final answer that cannot be read: no rollout of theirs is right or wrong",
        ),
    ):
        if rows:
            first = describe_unreadable(treatment, rows[0])
            remark(f"{len(rows)} of {len(problems)} rows {what}; the first: {first}")
    if evaluated and left_out and len(left_out) == len(problems):
        first = describe_unreadable(treatment, left_out[0])
        raise DataError(
            f"none of the {len(problems)} final answers can be read; the first: {first}"
        )
    return [p for p in problems if p.id not in lost]


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


def _check_unique(problems: Sequence[Problem], settings: config.Source) -> None:
    first: dict[str, int] = {}
    for number, problem in enumerate(problems, 1):
        if (other := first.setdefault(problem.id, number)) != number:
            raise DataError(
                f"{settings.path}: rows {other} and {number}: column {settings.columns.id!r}: both"
                f" have the id {problem.id!r}; ids must be unique, or set data.columns.id to 'none'"
            )
