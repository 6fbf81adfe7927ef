"""A row of the data, to a Problem: the column map."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from sys import intern
from typing import Any

from exprl import config
from exprl.config.placeholders import fill, find_names
from exprl.data.cells import is_parts, read_text
from exprl.data.columns import Column, explain_missing, find_column, list_columns
from exprl.data.files import Row
from exprl.data.messages import PLAIN_TEMPLATE, add_system, has_system, make_messages
from exprl.data.solutions import read_solutions
from exprl.errors import DataError
from exprl.types import Message, Problem, Prompt, ReferenceProblem
from exprl.verify.answer import find_answer

AS_WRITTEN = ("exact", "code")
"""Domains in which JSON may itself be the answer."""

_TEMPLATE_MARKS = re.compile(
    r"<\|(?:im_start|start_header_id|user|system)\|>|<start_of_turn>|\[INST\]"
)


@dataclass(frozen=True, slots=True)
class RowReader:
    """What the settings name in the rows of one source.

    columns: each name that the settings use, with what it means in these rows.
    problem_names: the names in braces in data.columns.problem, where it is no column itself.
    template_names: those in data.template, beside {problem}.
    """

    settings: config.Source
    columns: Mapping[str, Column]
    problem_names: list[str]
    template_names: list[str]

    def read(self, row: Row, number: int) -> tuple[ReferenceProblem, list[str]]:
        """The problem of row `number`, from 1, and what a user should know of it.

        Raises:
            DataError: names row and column, and says what to change.
        """
        asked, cells = self.read_answers(row, number), self._cells(row, number)
        settings, columns = self.settings, self.settings.columns
        code = asked.domain in AS_WRITTEN
        solutions: tuple[str, ...] = ()
        if columns.reference is not None:
            cell, place = cells.read(columns.reference), cells.at(columns.reference)
            golds = () if asked.answer is None else (asked.answer, *asked.more_answers)
            solutions = read_solutions(cell, settings, golds, place, code=code)
        messages, remarks = self._make_messages(cells, code=code)
        problem = ReferenceProblem(
            id=asked.id,
            prompt=Prompt(asked.id, messages),
            reference=solutions[0] if solutions else None,
            alternatives=solutions[1:],
            answer=asked.answer,
            domain=asked.domain,
            setup=asked.setup,
            more_answers=asked.more_answers,
            all_answers=asked.all_answers,
        )
        return problem, remarks

    def read_answers(self, row: Row, number: int) -> Problem:
        """The problem of row `number` as the verifier knows it: without its messages.

        Raises:
            DataError: names row and column, and says what to change.
        """
        cells = self._cells(row, number)
        settings, columns = self.settings, self.settings.columns
        domain = settings.domain if columns.domain is None else cells.require(columns.domain)
        problem_id = str(number) if columns.id is None else cells.require(columns.id)
        answers = _read_answers(settings, cells, domain, code=domain in AS_WRITTEN)
        return Problem(
            id=problem_id,
            prompt=Prompt(problem_id, ()),
            answer=answers[0] if answers else None,
            domain=domain,
            setup=(cells.text(columns.setup) if columns.setup else None) or "",
            more_answers=answers[1:],
            all_answers=settings.answer_list == "all",
        )

    def _cells(self, row: Row, number: int) -> _Cells:
        return _Cells(self, row, f"{self.settings.path}: row {number}")

    def _make_messages(self, cells: _Cells, *, code: bool) -> tuple[tuple[Message, ...], list[str]]:
        settings, name = self.settings, self.settings.columns.problem
        remarks = [
            f"have nothing in {{{one}}} of data.{key}"
            for key, names in (
                ("columns.problem", self.problem_names),
                ("template", self.template_names),
            )
            for one in names
            if cells.text(one) is None
        ]

        def text(name: str) -> str:
            return cells.text(name) or ""

        problem: Any = None
        if name in self.columns:
            problem = cells.read(name)
        else:
            problem = fill(name, text, self.problem_names).strip()
        place = cells.at(name)
        chat = make_messages(problem, settings, self.template_names, text, place, code=code)
        if any(_TEMPLATE_MARKS.search(message.content) for message in chat):
            remarks.append(
                "hold the marks of a chat template, which the model's own template surrounds once"
                " more; give the plain text"
            )
        if settings.system is not None and has_system(chat):
            used = "theirs" if settings.system_wins == "row" else "data.system"
            remarks.append(
                f"bring a system message of their own beside data.system, and {used} is used"
                f" (data.system_wins = {settings.system_wins!r})"
            )
        return add_system(chat, settings), remarks


@dataclass(frozen=True, slots=True)
class _Cells:
    """The cells of one row by the names of the settings."""

    reader: RowReader
    row: Row
    place: str

    def at(self, name: str) -> str:
        return f"{self.place}: column {name!r}"

    def read(self, name: str) -> Any:
        return self.reader.columns[name].read(self.row, self.place)

    def text(self, name: str, *, code: bool = True) -> str | None:
        return read_text(self.read(name), self.at(name), column=name, code=code)

    def require(self, name: str) -> str:
        text = self.text(name)
        if text is None:
            raise DataError(f"{self.at(name)}: is empty")
        return text


def drop_unnamed(rows: Iterable[Row], settings: config.Source) -> list[Row]:
    """The rows without the contents of columns that nothing names: they may be the most of a file.

    The names stay, and so do objects, whose keys a message may have to list.
    """
    named = (*(name for _, name in settings.columns if name is not None), settings.template)

    @cache
    def is_named(column: str) -> bool:
        return any(column in text for text in named)

    return [
        {
            intern(name): cell if is_named(name) or isinstance(cell, Mapping) else None
            for name, cell in row.items()
        }
        for row in rows
    ]


def open_rows(rows: Sequence[Row], settings: config.Source) -> RowReader:
    """Find the columns that the settings name.

    Raises:
        DataError: there is no such column; names those that there are, and the setting.
    """
    columns: dict[str, Column] = {}
    braces = "{" in settings.columns.problem + settings.template.replace(PLAIN_TEMPLATE, "")
    there = tuple(list_columns(rows)) if braces else ()
    for field, name in settings.columns:
        if name is None:
            continue
        column = find_column(rows, name)
        if column is not None:
            columns[name] = column
        elif field != "problem" or not find_names(name, there):
            none = "" if field == "problem" else " (or to 'none' if the data has no such column)"
            remedy = f"set data.columns.{field} to one of them{none}"
            raise DataError(f"{settings.path}: {explain_missing(rows, name, remedy)}")
    problem = settings.columns.problem
    problem_names = [] if problem in columns else find_names(problem, there)
    template_names = [name for name in find_names(settings.template, there) if name != "problem"]
    for key, names in (("columns.problem", problem_names), ("template", template_names)):
        for name in names:
            columns[name] = _find_placeholder(rows, name, key, settings)
    return RowReader(settings, columns, problem_names, template_names)


def _find_placeholder(rows: Sequence[Row], name: str, key: str, settings: config.Source) -> Column:
    column = find_column(rows, name)
    if column is None:
        allowed = "one of them" if key == "columns.problem" else "{problem} or one of them"
        remedy = (
            f"{{{name}}} in data.{key} must name {allowed}; write {{{{{name}}}}} for braces that"
            " stay"
        )
        raise DataError(f"{settings.path}: {explain_missing(rows, name, remedy)}")
    return column


def _read_answers(
    settings: config.Source, cells: _Cells, domain: str, *, code: bool
) -> tuple[str, ...]:
    """The final answers, mostly one; for code its unit tests, which may be a list of statements."""
    columns = settings.columns
    if columns.answer is None:
        return ()
    value, place = cells.read(columns.answer), cells.at(columns.answer)
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        texts = ["\n".join(value)] if _is_tests(value, settings, domain) else value
    elif isinstance(value, list) and not is_parts(value) and settings.answer_list != "refuse":
        texts = value
    else:
        texts = [value]
    read = [read_text(one, place, column=columns.answer, code=code) for one in texts]
    answers = [one for one in read if one is not None]
    if settings.answer_pattern is not None:
        answers = [_extract(one, settings.answer_pattern, place) for one in answers]
    answers = list(dict.fromkeys(answers))
    if len(answers) > 1 and settings.answer_list == "refuse":
        raise DataError(
            f"{place}: a list of {len(answers)} answers, {answers[0]!r} and so on; set"
            " data.answer_list = 'any' if each of them alone is right, or 'all' if a right answer"
            " names all of them"
        )
    if columns.entry_point is not None:
        call = f"\n\ncheck({cells.require(columns.entry_point)})\n"
        answers = [one + call for one in answers]
    return tuple(answers)


def _is_tests(lines: Sequence[str], settings: config.Source, domain: str) -> bool:
    """Whether a list of texts is a list of test statements, and no list of answers."""
    columns = settings.columns
    is_code = domain == "code" or columns.entry_point is not None or columns.setup is not None
    return is_code or any(line.lstrip().startswith("assert ") for line in lines)


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
