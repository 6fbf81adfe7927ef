"""Rollouts worth reading, by name: one definition each, for `exprl show`, the viewer, the report.

A pick gives each rollout of a step a strength: NaN leaves it out, the strongest comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from exprl.errors import DataError
from exprl.monitor.rollout_reader import Rollouts, last_of, lists_of
from exprl.types import BoolArray, Float64Array, Int64Array

if TYPE_CHECKING:
    import pyarrow as pa

RIGHT_FROM = 4
"""From this grade on the judge calls a solution right (docs/concepts/method.md, Measures)."""


@dataclass(frozen=True, slots=True)
class Pick:
    """A named selection of rollouts.

    meaning: in a sentence, for a page or a terminal.
    strength: of a table of `Rollouts.table`, [R]; NaN = not picked.
    columns: what `strength` looks at.
    column: the one of these that older files lack; empty where they have all.
    """

    name: str
    meaning: str
    strength: Callable[[pa.Table], Float64Array]
    columns: tuple[str, ...]
    column: str = ""

    def rows(self, table: pa.Table) -> Int64Array:
        """The picked rows, the strongest first; equal ones in the order of the file."""
        strength = self.strength(table)
        order = np.argsort(-strength, kind="stable")  # NaN goes last
        return order[: int(np.count_nonzero(~np.isnan(strength)))]


@dataclass(frozen=True, slots=True)
class Picked:
    """A picked rollout: `Rollouts.read` takes its step and row."""

    step: int
    row: int
    strength: float


def pick(
    rollouts: Rollouts, name: str, steps: Iterable[int], limit: int | None = None
) -> list[Picked]:
    """The rollouts of several steps that a pick names, the strongest first.

    Raises:
        DataError: a file cannot be read, or lacks the column that the pick looks at.
    """
    chosen = PICKS[name]
    found: list[Picked] = []
    for step in steps:
        if chosen.column and chosen.column in rollouts.lacks(step):
            raise DataError(
                f"{rollouts.path(step)} has no column `{chosen.column}`, which {name} looks at: an"
                " older exprl wrote it; choose another selection"
            )
        table = rollouts.table(step, chosen.columns)
        strength = chosen.strength(table)
        found += [Picked(step, row, float(strength[row])) for row in chosen.rows(table).tolist()]
    found.sort(key=lambda one: -one.strength)
    return found[:limit]


def mean_scores(table: pa.Table) -> Float64Array:
    """The reward of each rollout, [R]: the mean of its scores; NaN where one is missing."""
    offsets, scores = lists_of(table["scores"])
    means: Float64Array = _reduce(np.add, offsets, scores) / np.maximum(1, np.diff(offsets))
    return means


def _reduce(ufunc: np.ufunc, offsets: Int64Array, values: np.ndarray) -> Float64Array:
    """Reduce each list, [R]; NaN where it is empty."""
    starts, filled = offsets[:-1], np.diff(offsets) > 0
    found = np.full(len(starts), np.nan)
    if filled.any():
        found[filled] = ufunc.reduceat(values.astype(np.float64), starts[filled])
    return found


def _flag(name: str) -> Callable[[pa.Table], Float64Array]:
    return lambda table: _where(_is(table, name, True))


def _is(table: pa.Table, name: str, value: bool | str) -> BoolArray:
    """Where a column has a value; a null has none."""
    return np.array([one == value for one in table[name].to_pylist()], bool)


def _where(chosen: BoolArray, strength: Float64Array | float = 1.0) -> Float64Array:
    return np.where(chosen, strength, np.nan)


def _graded(correct: bool, grade: int) -> Callable[[pa.Table], Float64Array]:
    return lambda table: _where(
        _is(table, "correct", correct) & (last_of(table["grades"]) == grade)
    )


def _disagreement(table: pa.Table) -> Float64Array:
    """How far the last grade lies on the wrong side, in grades."""
    last = last_of(table["grades"])
    wrong, right = _is(table, "correct", False), _is(table, "correct", True)
    too_high = _where(wrong & (last >= RIGHT_FROM), last - (RIGHT_FROM - 1))
    return np.where(right & (last < RIGHT_FROM), RIGHT_FROM - last, too_high)


def _repaired(table: pa.Table) -> Float64Array:
    offsets, statuses = lists_of(table["statuses"])
    counts = _reduce(np.add, offsets, statuses == "repaired")
    return _where(counts > 0, counts)


def _single_step(table: pa.Table) -> Float64Array:
    offsets, _ = lists_of(table["segment_end"])
    return _where(np.diff(offsets) == 1)


def _largest_advantage(table: pa.Table) -> Float64Array:
    offsets, advantages = lists_of(table["advantages"])
    return _reduce(np.fmax, offsets, np.abs(advantages))  # NaN only where all are NaN


def _length(table: pa.Table) -> Float64Array:
    lengths: Float64Array = table["length"].to_numpy().astype(np.float64)
    return lengths


_ALL = (
    Pick("best", "The highest mean score first.", mean_scores, ("scores",)),
    Pick("worst", "The lowest mean score first.", lambda table: -mean_scores(table), ("scores",)),
    Pick(
        "disagree",
        "Judge against verifier: the answer is wrong and the last grade is 4 or 5, or it is right"
        " and the last grade is 3 or less. The farthest apart first.",
        _disagreement,
        ("correct", "grades"),
    ),
    Pick(
        "wrong_but_5",
        "The answer is wrong, and the last grade is 5.",
        _graded(False, 5),
        ("correct", "grades"),
    ),
    Pick(
        "right_but_1",
        "The answer is right, and the last grade is 1.",
        _graded(True, 1),
        ("correct", "grades"),
    ),
    Pick(
        "missing",
        "Out of the step, because a grade or a score that it needs is missing.",
        _flag("missing"),
        ("missing",),
    ),
    Pick(
        "repaired",
        "The judge's reply held no grade for a step, and it was asked again for the grade alone."
        " The most such steps first.",
        _repaired,
        ("statuses",),
        "statuses",
    ),
    Pick(
        "injection",
        "The text speaks to the judge: it holds a grade or an instruction. The metrics"
        " text/injection_... count the kinds.",
        _flag("injection"),
        ("injection",),
        "injection",
    ),
    Pick(
        "largest_advantage",
        "The largest advantage of a step first.",
        _largest_advantage,
        ("advantages",),
    ),
    Pick("longest", "The most tokens first.", _length, ("length",)),
    Pick(
        "single_step",
        "One step alone: the step rule cut nothing.",
        _single_step,
        ("segment_end",),
    ),
    Pick(
        "overlong",
        "Cut at the length limit (rollout.max_response_tokens).",
        lambda table: _where(_is(table, "finish_reason", "length")),
        ("finish_reason",),
    ),
    Pick("blank", "Empty, or its thinking never ends.", _flag("blank"), ("blank",), "blank"),
)

PICKS: dict[str, Pick] = {one.name: one for one in _ALL}
"""Every selection, in the order in which pages list them."""
