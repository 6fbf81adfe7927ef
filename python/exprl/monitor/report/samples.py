"""Rollouts for a report: the strongest of each pick, and the problems at both ends."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec

from exprl.monitor.judge_words import Words
from exprl.monitor.picks import PICKS, Pick
from exprl.monitor.report.runs import Run
from exprl.monitor.report.scan import Place, Visit, scan
from exprl.monitor.rollout_reader import RecordedRollout, RecordedStep, Rollouts

TEXT = 1500
"""Characters that a report shows of one text; a viewer shows all."""
END = 400
"""Of these, characters from the end of the judge's words."""
STEPS = 24
"""Steps that it shows of one rollout."""
PROBLEMS = 8
"""Problems at each end."""


@dataclass(frozen=True, slots=True)
class Text:
    """The start of a text, how many characters are left out after it, and what ends it."""

    text: str
    left: int
    end: str = ""

    @classmethod
    def start(cls, text: str, limit: int = TEXT) -> Text:
        """The first `limit` characters.

        >>> Text.start("abcdef", 4)
        Text(text='abcd', left=2, end='')
        """
        return cls(text[:limit], max(0, len(text) - limit))

    @classmethod
    def both_ends(cls, text: str) -> Text:
        """Without what lies in the middle: a judge's grade stands at the end of its words."""
        if len(text) <= TEXT:
            return cls(text, 0)
        return cls(text[: TEXT - END], len(text) - TEXT, text[-END:])

    @classmethod
    def cut(cls, text: str | None, limit: int = TEXT) -> Text | None:
        """None for no text."""
        return None if text is None else cls.start(text, limit)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a rollout, with the judge's words about it.

    words: of the reply.   again: those of the second request, for the grade alone.
    why: why there are no words; empty where there are, or where they are not to be shown.
    """

    recorded: RecordedStep
    text: Text
    words: Text | None = None
    again: Text | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """A rollout as a report shows it.

    step: of training, from 1.
    steps: the first STEPS of the rollout; `left` counts the others.
    command: prints all of it.
    """

    step: int
    rollout: RecordedRollout
    question: Text | None
    answer: Text | None
    reference: Text | None
    steps: tuple[Step, ...]
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


@dataclass(frozen=True, slots=True)
class Problem:
    """How the rollouts of one problem went, over the steps that sampled it."""

    problem_id: str
    question: Text | None
    visits: tuple[Visit, ...]

    @property
    def right(self) -> int:
        """Rollouts that the verifier calls right."""
        return sum(visit.right for visit in self.visits)

    @property
    def checked(self) -> int:
        """Rollouts that it could check."""
        return sum(visit.checked for visit in self.visits)


@dataclass(frozen=True, slots=True)
class Samples:
    """All that a report shows of a run's rollouts.

    best, worst: problems by their last mean score; together at most all of them.
    notes: what is missing, and why.
    """

    shelves: tuple[Shelf, ...] = ()
    best: tuple[Problem, ...] = ()
    worst: tuple[Problem, ...] = ()
    problems: int = 0
    notes: tuple[str, ...] = ()


def find_samples(run: Run, limit: int, *, hidden: bool = True) -> Samples:
    """Read the rollout files of a run: a few numbers of all rollouts, the text of a few.

    Args:
        limit: rollouts of each pick.
        hidden: whether references and the judge's words are among what is shown.
    """
    rollouts = Rollouts(run.path)
    if not rollouts.steps():
        return Samples(
            notes=(
                "There are no rollouts to show: the run has no files in rollouts/"
                " (logging.save_rollouts).",
            )
        )
    if find_spec("pyarrow") is None:
        return Samples(
            notes=(
                "Rollouts are not shown, because pyarrow is not installed: pip install pyarrow.",
            )
        )
    found = scan(rollouts, limit)
    with closing(Words(run.path, run.config)) as words:
        shown = words if hidden else None
        shelves = [
            Shelf(pick, found.counts[name], tuple(_read(run, rollouts, p, shown) for p in places))
            for (name, pick), places in zip(PICKS.items(), found.picked.values(), strict=True)
        ]
    best, worst = (
        tuple(_problem(rollouts, *one) for one in side) for side in _choose_problems(found.visits)
    )
    notes = (*found.errors, *_say_lacking(found.lacks))
    return Samples(tuple(shelves), best, worst, len(found.visits), notes)


def _choose_problems(
    visits: Mapping[str, Sequence[Visit]],
) -> tuple[list[tuple[str, Sequence[Visit]]], list[tuple[str, Sequence[Visit]]]]:
    """The highest and the lowest by the last mean score, then by the share of right rollouts."""
    known = [(name, found) for name, found in visits.items() if not math.isnan(found[-1].reward)]

    def rank(problem: tuple[str, Sequence[Visit]]) -> tuple[float, float, str]:
        name, found = problem
        rollouts = sum(visit.rollouts for visit in found)
        return -found[-1].reward, -sum(visit.right for visit in found) / rollouts, name

    known.sort(key=rank)
    half = len(known) // 2
    worst = known[max(len(known) - half, len(known) - PROBLEMS) :]
    return known[: min(PROBLEMS, len(known) - half)], worst[::-1]


def _problem(rollouts: Rollouts, name: str, visits: Sequence[Visit]) -> Problem:
    last = visits[-1]
    question = rollouts.read(last.step, last.row).question
    return Problem(name, Text.cut(question, 160), tuple(visits))


def _read(run: Run, rollouts: Rollouts, place: Place, words: Words | None) -> Sample:
    """A picked rollout; without `words` its reference is not shown either."""
    one = rollouts.read(place.step, place.row)
    where = ("--step", str(place.step), "--problem", one.problem_id)
    return Sample(
        step=place.step - run.first_step + 1,
        rollout=one,
        question=Text.cut(one.question),
        answer=Text.cut(one.answer, 200),
        reference=Text.cut(one.reference) if words else None,
        steps=tuple(_step(one.domain, step, words) for step in one.steps[:STEPS]),
        left=max(0, len(one.steps) - STEPS),
        command=shlex.join(["exprl", "show", str(run.path), *where]),
    )


def _step(domain: str, step: RecordedStep, words: Words | None) -> Step:
    text = Text.start(step.text)
    if words is None or (step.grade is None and step.status is None):
        return Step(step, text)
    said = words.find(domain, step)
    if said.reply is None:
        return Step(step, text, why=said.why)
    reply = said.reply
    return Step(step, text, Text.both_ends(reply.text), Text.cut(reply.answer), reply.error or "")


def _say_lacking(lacks: Sequence[str]) -> list[str]:
    """One sentence for all columns that older files lack."""
    if not lacks:
        return []
    return [
        "Files of rollouts that an earlier exprl wrote lack what is newer. Not known of all:"
        f" {', '.join(sorted(lacks))}."
    ]
