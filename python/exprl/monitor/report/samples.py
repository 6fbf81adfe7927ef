"""Rollouts for a report: the strongest of each pick, and the problems at both ends."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from exprl.errors import DataError
from exprl.monitor.picks import PICKS, Pick, mean_scores
from exprl.monitor.report.runs import Run
from exprl.monitor.rollout_reader import RecordedRollout, RecordedStep, Rollouts

if TYPE_CHECKING:
    import pyarrow as pa

TEXT = 1500
"""Characters that a report shows of one text; a viewer shows all."""
STEPS = 24
"""Steps that it shows of one rollout."""
PROBLEMS = 8
"""Problems at each end."""


@dataclass(frozen=True, slots=True)
class Text:
    """The start of a text, and how many characters are left out."""

    text: str
    left: int

    @classmethod
    def cut(cls, text: str | None, limit: int = TEXT) -> Text | None:
        """None for no text.

        >>> Text.cut("abcdef", 4)
        Text(text='abcd', left=2)
        """
        return None if text is None else cls(text[:limit], max(0, len(text) - limit))


@dataclass(frozen=True, slots=True)
class Sample:
    """A rollout as a report shows it.

    step: of training, from 1.
    steps: the first STEPS of the rollout, each with its text; `left` counts the others.
    command: prints all of it.
    """

    step: int
    rollout: RecordedRollout
    question: Text | None
    answer: Text | None
    reference: Text | None
    steps: tuple[tuple[RecordedStep, Text], ...]
    left: int
    command: str


@dataclass(frozen=True, slots=True)
class Shelf:
    """What a report shows of one pick: how many rollouts of the run it names, and the strongest."""

    pick: Pick
    count: int
    samples: tuple[Sample, ...]

    @property
    def title(self) -> str:
        """Its name for readers."""
        return self.pick.name.replace("_", " ").capitalize()


class Place(NamedTuple):
    """Where a picked rollout lies, and why."""

    step: int
    row: int
    strength: float
    problem_id: str


@dataclass(slots=True)
class Visits:
    """What the rollouts of one problem came to, step by step.

    rewards: mean score in each step that sampled it; NaN where every rollout lacks one.
    """

    problem_id: str
    rollouts: int = 0
    right: int = 0
    checked: int = 0
    rewards: list[float] = field(default_factory=list)
    place: tuple[int, int] = (0, 0)
    question: Text | None = None

    @property
    def last(self) -> float:
        """Its mean score when it was last sampled."""
        return self.rewards[-1]


@dataclass(frozen=True, slots=True)
class Samples:
    """All that a report shows of a run's rollouts.

    best, worst: problems by their last mean score; together at most all of them.
    notes: what is missing, and why.
    """

    shelves: tuple[Shelf, ...] = ()
    best: tuple[Visits, ...] = ()
    worst: tuple[Visits, ...] = ()
    problems: int = 0
    notes: tuple[str, ...] = ()


def find_samples(run: Run, limit: int, *, hidden: bool = True) -> Samples:
    """Read the rollout files of a run: a few numbers of all rollouts, the text of a few.

    Args:
        limit: rollouts of each pick.
        hidden: whether references are among what is shown.
    """
    rollouts, notes = Rollouts(run.path), list[str]()
    found: dict[str, list[Place]] = {name: [] for name in PICKS}
    counts = dict.fromkeys(PICKS, 0)
    lacking: dict[str, list[int]] = {}
    visits: dict[str, Visits] = {}
    for step in rollouts.steps():
        try:
            lacks = rollouts.lacks(step)
            table = rollouts.table(step)
        except DataError as error:
            notes.append(str(error))
            continue
        for name in lacks:
            lacking.setdefault(name, []).append(step)
        for name, pick in PICKS.items():
            if pick.column not in lacks:
                counts[name] += _take(found[name], pick, table, step, limit)
        _visit(visits, table, step)
    if not visits and not notes:
        notes.append(
            "There are no rollouts to show: the run has no files in rollouts/"
            " (logging.save_rollouts)."
        )
    notes += _say_lacking(lacking, len(rollouts.steps()))
    shelves = [
        Shelf(
            PICKS[name],
            counts[name],
            tuple(_read(run, rollouts, one, hidden) for one in found[name]),
        )
        for name in PICKS
    ]
    best, worst = _choose_problems(list(visits.values()))
    for one in (*best, *worst):
        one.question = Text.cut(rollouts.read(*one.place).question, 160)
    return Samples(tuple(shelves), best, worst, len(visits), tuple(notes))


def _take(found: list[Place], pick: Pick, table: pa.Table, step: int, limit: int) -> int:
    """Keep the strongest so far, of each problem one, and of equals the newest.

    Returns:
        How many rollouts of the step the pick names.
    """
    strength, problems = pick.strength(table), table["problem_id"]
    order = np.argsort(-strength, kind="stable")  # NaN goes last
    count = int(np.count_nonzero(~np.isnan(strength)))
    chosen: dict[str, Place] = {}
    for row in order[:count].tolist():
        name = problems[row].as_py()
        chosen.setdefault(name, Place(step, row, float(strength[row]), name))
        if len(chosen) == limit:
            break
    both = sorted([*found, *chosen.values()], key=lambda one: (-one.strength, -one.step, one.row))
    first = {one.problem_id: one for one in reversed(both)}  # the strongest of each problem
    found[:] = [one for one in both if first[one.problem_id] is one][:limit]
    return count


def _visit(visits: dict[str, Visits], table: pa.Table, step: int) -> None:
    """Add a step's groups to what is known of their problems."""
    ids = np.array(table["problem_id"].to_pylist(), dtype=object)
    correct = table["correct"].to_pylist()
    rewards = mean_scores(table)
    names, firsts, places = np.unique(ids, return_index=True, return_inverse=True)
    for i, (name, first) in enumerate(zip(names.tolist(), firsts.tolist(), strict=True)):
        own = np.flatnonzero(places == i)
        scores = rewards[own]
        one = visits.setdefault(name, Visits(name))
        one.place = (step, first)
        one.rollouts += len(own)
        one.right += sum(correct[row] is True for row in own)
        one.checked += sum(correct[row] is not None for row in own)
        known = scores[~np.isnan(scores)]
        one.rewards.append(float(known.mean()) if len(known) else float("nan"))


def _choose_problems(
    visits: Sequence[Visits],
) -> tuple[tuple[Visits, ...], tuple[Visits, ...]]:
    """The highest and the lowest, by the last mean score, then by the share of right rollouts."""
    known = [one for one in visits if one.last == one.last]
    known.sort(key=lambda one: (-one.last, -one.right / max(1, one.checked), one.problem_id))
    half = len(known) // 2
    worst = known[max(len(known) - half, len(known) - PROBLEMS) :]
    return tuple(known[: min(PROBLEMS, len(known) - half)]), tuple(reversed(worst))


def _read(run: Run, rollouts: Rollouts, place: Place, hidden: bool) -> Sample:
    one = rollouts.read(place.step, place.row)
    return Sample(
        step=place.step - run.first_step + 1,
        rollout=one,
        question=Text.cut(one.question),
        answer=Text.cut(one.answer, 200),
        reference=Text.cut(one.reference) if hidden else None,
        steps=tuple((step, Text(*_start(step.text))) for step in one.steps[:STEPS]),
        left=max(0, len(one.steps) - STEPS),
        command=shlex.join(
            [
                "exprl",
                "show",
                str(run.path),
                "--step",
                str(place.step),
                "--problem",
                one.problem_id,
            ]
        ),
    )


def _start(text: str) -> tuple[str, int]:
    return text[:TEXT], max(0, len(text) - TEXT)


def _say_lacking(lacking: Mapping[str, Iterable[int]], steps: int) -> list[str]:
    """One sentence for all columns that older files lack."""
    if not lacking:
        return []
    names = ", ".join(sorted(lacking))
    return [
        f"Some of the {steps} files of rollouts are of an earlier exprl, and lack: {names}. What"
        " they would say is not shown."
    ]
