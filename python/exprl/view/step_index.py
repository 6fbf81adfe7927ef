"""One step in memory: its groups, what the picks choose of it, and its rows as lists show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from exprl.monitor.picks import PICKS, mean_scores
from exprl.monitor.rollout_reader import Rollouts
from exprl.types import Float64Array, Int64Array
from exprl.view.links import NotThereError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Group:
    """The rollouts [start, stop) of one problem in one step.

    reward: mean of their mean scores, and `spread` its standard deviation; NaN where none has one.
    solved: how many are right, of the `known` ones, about which the verifier says something.
    """

    step: int
    problem_id: str
    domain: str
    start: int
    stop: int
    reward: float
    spread: float
    solved: int
    known: int
    missing: int


@dataclass(frozen=True, slots=True)
class Row:
    """One rollout as lists show it; None where the file does not say.

    grades, scores, advantages: one per step, or a single one of an outcome reward; None = missing.
    repaired: whether the judge was asked again for the grade of a step.
    """

    step: int
    row: int
    problem_id: str
    domain: str
    index: int
    finish_reason: str
    grades: Sequence[int | None]
    scores: Sequence[float | None]
    advantages: Sequence[float | None]
    correct: bool | None
    missing: bool
    masked: bool | None
    overlong: bool | None
    blank: bool | None
    injection: bool | None
    length: int | None
    repaired: bool

    @property
    def reward(self) -> float | None:
        """Mean of the scores; None where one is missing."""
        there = [score for score in self.scores if score is not None]
        return sum(there) / len(there) if there and len(there) == len(self.scores) else None

    @property
    def largest(self) -> float | None:
        """The advantage that is largest in size, with its sign."""
        return max((a for a in self.advantages if a is not None), key=abs, default=None)


class StepIndex:
    """One step."""

    def __init__(self, step: int, table: pa.Table, lacks: tuple[str, ...]) -> None:
        """Count what there is to count.

        Args:
            table: with the columns of `rollout_reader.NARROW`.
            lacks: the columns that the file does not have.
        """
        self.step = step
        self.lacks = lacks
        self.groups = _find_groups(step, table)
        self._picked = {name: _strengths(pick.strength(table)) for name, pick in PICKS.items()}
        self._table = _shrink(table, self._picked["repaired"][0])

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def rows(self, numbers: Sequence[int]) -> list[Row]:
        """Rows by their numbers.

        Raises:
            NotThereError: the step has no such row.
        """
        if any(number >= len(self) for number in numbers):
            raise NotThereError(f"step {self.step} has the rollouts 0 to {len(self) - 1}")
        if isinstance(numbers, range):  # neighbours, as in a group: much faster than `take`
            part = self._table.slice(numbers.start, len(numbers))
        else:
            part = self._table.take(list(numbers))
        pairs = zip(numbers, part.to_pylist(), strict=True)
        return [_row(self.step, row, values) for row, values in pairs]

    def group_of(self, row: int) -> Group:
        """The group that a row is in.

        Raises:
            NotThereError: the step has no such row.
        """
        for group in self.groups:
            if group.start <= row < group.stop:
                return group
        raise NotThereError(f"step {self.step} has the rollouts 0 to {len(self) - 1}")

    def select(
        self, pick: str | None, domain: str | None, problem: str | None
    ) -> tuple[Int64Array, Float64Array]:
        """Rows and their strengths, the strongest first; without a pick in their own order."""
        if pick is None:
            rows, strengths = np.arange(len(self)), np.zeros(len(self))
        else:
            rows, strengths = self._picked[pick]
        if domain is None and problem is None:
            return rows, strengths
        kept = np.zeros(len(self), bool)
        for group in self.groups:
            if domain in (None, group.domain) and problem in (None, group.problem_id):
                kept[group.start : group.stop] = True
        return rows[kept[rows]], strengths[kept[rows]]


def read_index(rollouts: Rollouts, step: int) -> StepIndex:
    """Read the narrow columns of a step.

    Raises:
        DataError: the file cannot be read.
    """
    return StepIndex(step, rollouts.table(step).combine_chunks(), rollouts.lacks(step))


def _shrink(table: pa.Table, repaired: Int64Array) -> pa.Table:
    """The columns that lists show, in half of the memory: a long run has millions of steps."""
    import pyarrow as pa

    flags = np.zeros(table.num_rows, bool)
    flags[repaired] = True
    columns = {name: table[name] for name in Row.__slots__ if name in table.column_names}
    for name in ("scores", "advantages"):
        columns[name] = columns[name].cast(pa.list_(pa.float32()))
    return pa.table(columns | {"repaired": flags})


def _strengths(strength: Float64Array) -> tuple[Int64Array, Float64Array]:
    """The picked rows, the strongest first, and how strong they are."""
    order = np.argsort(-strength, kind="stable")[: int(np.count_nonzero(~np.isnan(strength)))]
    return order, strength[order]


def _row(step: int, row: int, values: dict[str, Any]) -> Row:
    lists = {name: values[name] or () for name in ("grades", "scores", "advantages")}
    return Row(step=step, row=row, **(values | lists))


def _find_groups(step: int, table: pa.Table) -> list[Group]:
    """Neighbours with one problem id are a group."""
    ids, domains = table["problem_id"].to_pylist(), table["domain"].to_pylist()
    correct, missing = table["correct"].to_pylist(), table["missing"].to_pylist()
    rewards = mean_scores(table)
    starts = [i for i, one in enumerate(ids) if i == 0 or one != ids[i - 1]]
    groups = []
    for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
        known = [one for one in correct[start:stop] if one is not None]
        given = rewards[start:stop][~np.isnan(rewards[start:stop])]
        groups.append(
            Group(
                step,
                ids[start],
                domains[start],
                start,
                stop,
                reward=float(given.mean()) if len(given) else float("nan"),
                spread=float(given.std()) if len(given) else float("nan"),
                solved=sum(known),
                known=len(known),
                missing=sum(missing[start:stop]),
            )
        )
    return groups
