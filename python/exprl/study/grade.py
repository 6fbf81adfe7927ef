"""Solutions with known truth, graded: how often a judge is wrong.

Needs neither torch nor vLLM. `exprl judge score` reads the same lines.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from exprl.errors import DataError
from exprl.judge import Graded, Judge, JudgeItem, JudgeSettings, View, split

Condition = Literal["right", "none", "wrong"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
VIEWS: tuple[View, ...] = get_args(View)
# From this grade on, the judge calls a solution correct (docs/concepts/method.md, Measures).
CORRECT_FROM = 4


@dataclass(frozen=True, slots=True)
class Line:
    """An input line; `correct` is the truth where the line holds it."""

    item: JudgeItem
    correct: bool | None


@dataclass(frozen=True, slots=True)
class Misplacement:
    """How often a judge is wrong about whole solutions; ungraded ones are counted apart.

    rate: (false positive rate + false negative rate) / 2; NaN unless both truths occur.
    """

    graded: int
    missing: int
    false_positive_rate: float
    false_negative_rate: float

    @property
    def rate(self) -> float:
        """The mean of the two rates."""
        return (self.false_positive_rate + self.false_negative_rate) / 2.0


def read_lines(path: Path | None, label: str | None, delimiter: str) -> list[Line]:
    """Read `{"id", "problem", "reference", "trace", "domain"}` lines; None reads standard input.

    Raises:
        DataError: with the line's number, the field and the reason.
    """
    stack = ExitStack()
    with stack:
        file = stack.enter_context(path.open(encoding="utf-8")) if path else sys.stdin
        rows = [(i, text) for i, text in enumerate(file, 1) if text.strip()]
    if not rows:
        raise DataError(f"{path or 'standard input'} holds no line")
    return [_line(f"{path or 'standard input'}, line {i}", t, label, delimiter) for i, t in rows]


def shown(lines: Sequence[Line], condition: Condition) -> list[JudgeItem]:
    """The items with the right reference, none, or that of the next line of another problem.

    Raises:
        DataError: all lines are about one problem, so that no wrong reference is there.
    """
    items = [line.item for line in lines]
    match condition:
        case "right":
            return items
        case "none":
            return [item._replace(reference=None) for item in items]
        case "wrong":
            return [a._replace(reference=b) for a, b in zip(items, _others(items), strict=True)]


def grade(items: Sequence[JudgeItem], settings: JudgeSettings) -> Iterator[Graded]:
    """Grade the items; they come out in input order, as soon as all before them are there."""
    waiting: dict[int, Graded] = {}
    due = 0
    with Judge(settings) as judge:
        for graded in judge.submit(items):
            waiting[graded.index] = graded
            while due in waiting:
                yield waiting.pop(due)
                due += 1


def misplacement(lines: Sequence[Line], grades: Iterable[int | None]) -> Misplacement:
    """Compare outcome grades with the truth (docs/concepts/method.md, Measures)."""
    seen: Counter[tuple[bool, bool]] = Counter()
    missing = 0
    for line, one in zip(lines, grades, strict=True):
        if one is None:
            missing += 1
        elif line.correct is not None:
            seen[line.correct, one >= CORRECT_FROM] += 1
    wrong = seen[False, True] + seen[False, False]
    right = seen[True, True] + seen[True, False]
    nan = float("nan")
    return Misplacement(
        graded=seen.total(),
        missing=missing,
        false_positive_rate=seen[False, True] / wrong if wrong else nan,
        false_negative_rate=seen[True, False] / right if right else nan,
    )


def _line(place: str, text: str, label: str | None, delimiter: str) -> Line:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise DataError(f"{place}: not an object")
    for field in ("id", "problem", "trace"):
        if not isinstance(row.get(field), str):
            raise DataError(f"{place}: field {field!r} must be a string, not {row.get(field)!r}")
    reference = row.get("reference")
    if not isinstance(reference, str | None):
        raise DataError(f"{place}: field 'reference' must be a string or null, not {reference!r}")
    correct = row.get(label) if label else None
    if label and not isinstance(correct, bool):
        raise DataError(f"{place}: field {label!r} must be true or false, not {correct!r}")
    domain = row.get("domain", "math")
    segments = split(row["trace"], delimiter)
    return Line(JudgeItem(row["id"], row["problem"], reference, segments, domain), correct)


def _others(items: Sequence[JudgeItem]) -> list[str | None]:
    """For each item the reference of the nearest later one, around the end, of another problem."""
    following: list[str | None] = [None] * len(items)
    for i in reversed(range(2 * len(items))):
        here, after = items[i % len(items)], items[(i + 1) % len(items)]
        different = after.problem != here.problem
        following[i % len(items)] = (
            after.reference if different else following[(i + 1) % len(items)]
        )
    if any(reference is None for reference in following):
        raise DataError("a wrong reference needs lines of at least two problems with references")
    return following
