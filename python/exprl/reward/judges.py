"""The judges of a run: one for each way of grading a rollout (view and rubric).

Domains that are graded in the same way share a judge, its ledger and its limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Protocol

from exprl import config
from exprl.judge import (
    Graded,
    Job,
    Judge,
    JudgeItem,
    JudgeSettings,
    JudgeStats,
    RuleJudge,
    View,
)

Grading = tuple[View, str | None]
"""View, and the file of the rubric; None takes the built-in ones."""


class Asking(Protocol):
    """A batch of items under way, as `exprl.judge.Job` is."""

    def push(self, item: JudgeItem) -> None:
        """Queue an item."""

    def close(self) -> None:
        """No more items will come."""

    def cancel(self) -> None:
        """End now."""

    def __iter__(self) -> Iterator[Graded]:
        """Items as they finish."""
        ...


class Asks(Protocol):
    """What a scorer asks for grades: `Judges`, or what only counts the requests."""

    def submit(self) -> Asking:
        """Open a batch."""
        ...


class Judges:
    """Sends every item to the judge of its domain."""

    def __init__(self, judges: Mapping[Grading, Judge], grading: Callable[[str], Grading]) -> None:
        """`grading`: that of a domain."""
        self._judges = judges
        self._grading = grading

    def submit(self) -> Session:
        """Open a batch."""
        return Session(self._judges, self._grading)

    def stats(self) -> JudgeStats:
        """What all judges together have done so far."""
        first, *others = [judge.stats() for judge in self._judges.values()]
        return reduce(JudgeStats.plus, others, first)


class Session:
    """A batch over all judges: push, close, iterate. Like `exprl.judge.Job`."""

    def __init__(self, judges: Mapping[Grading, Judge], grading: Callable[[str], Grading]) -> None:
        """Made by `Judges.submit`."""
        self._grading = grading
        self._jobs: dict[Grading, Job] = {name: judge.submit() for name, judge in judges.items()}
        self._pushed: dict[Grading, list[int]] = {name: [] for name in judges}

    def push(self, item: JudgeItem) -> None:
        """Queue an item; its requests leave at once."""
        grading = self._grading(item.domain)
        self._pushed[grading].append(sum(map(len, self._pushed.values())))
        self._jobs[grading].push(item)

    def close(self) -> None:
        """No more items will come."""
        for job in self._jobs.values():
            job.close()

    def cancel(self) -> None:
        """End now: what is unfinished ends as `cancelled`."""
        for job in self._jobs.values():
            job.cancel()

    def __iter__(self) -> Iterator[Graded]:
        """Items as they finish, judge by judge; `index` counts the pushes of this session."""
        for grading, job in self._jobs.items():
            for graded in job:
                yield replace(graded, index=self._pushed[grading][graded.index])


@contextmanager
def open_judges(
    section: config.Judge,
    treatments: Mapping[str, config.Treatment],
    treatment: Callable[[str], config.Treatment],
    seed: int,
    run_dir: Path,
) -> Iterator[Judges]:
    """Open the judges of a run, which share its limits; each has a ledger of its own.

    Args:
        treatments: of the domains that the config names (`Config.treatments`).
        treatment: of any domain (`Config.treatment`).
        seed: of a faulty rule judge.
    """
    gradings = gradings_of(treatments)
    settings = [settings_for(section, grading, len(gradings), run_dir) for grading in gradings]
    with ExitStack() as stack:
        judges = {
            grading: stack.enter_context(open_judge(own, seed))
            for grading, own in zip(gradings, settings, strict=True)
        }
        yield Judges(judges, lambda domain: grading_of(treatment(domain)))


def gradings_of(treatments: Mapping[str, config.Treatment]) -> list[Grading]:
    """The ways of grading that these domains need, each once."""
    return list(dict.fromkeys(grading_of(t) for t in treatments.values() if t.judged))


def grading_of(treatment: config.Treatment) -> Grading:
    """Which of the judges grades the rows of a domain."""
    return treatment.view, treatment.rubric


def settings_for(
    section: config.Judge, grading: Grading, judges: int, run_dir: Path
) -> config.Judge:
    """The settings of one of several judges: what it grades by, its ledger, its share of limits."""
    view, rubric = grading
    ledger = section.ledger or str(run_dir / "ledger")
    if grading != (section.view, section.rubric) and judges > 1:
        ledger = f"{ledger}-{view}"
        if rubric is not None:  # its whole path: rubrics of one name in two folders are two
            ledger += f"-{rubric.removesuffix('.toml').strip('/').replace('/', '-')}"
    return replace(section, view=view, rubric=rubric, ledger=ledger).divide_limits(judges)


def ledger_folder(
    section: config.Judge,
    treatments: Mapping[str, config.Treatment],
    treatment: config.Treatment,
    run_dir: Path,
) -> Path | None:
    """Where the replies about the rows of a domain lie; None where no judge is asked about them.

    Args:
        treatments: of the domains that the config names (`Config.treatments`).
        treatment: of the domain (`Config.treatment`).
        run_dir: the run's folder, where it lies now.
    """
    if not treatment.judged:
        return None
    gradings = {grading_of(t) for t in treatments.values() if t.judged}
    ledger = settings_for(section, grading_of(treatment), len(gradings), run_dir).ledger
    return None if ledger is None else Path(ledger)


@contextmanager
def open_judge(section: config.Judge, seed: int) -> Iterator[Judge]:
    """The judge of a section; for kind = "rules" with a server of its own on loopback."""
    with serve_rules(section, seed) as settings, Judge(settings) as judge:
        yield judge


@contextmanager
def serve_rules(section: config.Judge, seed: int) -> Iterator[JudgeSettings]:
    """The settings of a section; for kind = "rules" they point at a server that ends with this."""
    if section.kind == "server":
        yield section
        return
    no_grade, random = section.fault_no_grade_rate, section.fault_random_rate
    # A ledger must not mix the grades of differently faulty judges.
    faults = f"faults {(no_grade, random)}, seed {seed}" if no_grade or random else ""
    revision = section.revision + faults
    with RuleJudge(section.rules, no_grade_rate=no_grade, random_rate=random, seed=seed) as server:
        yield replace(section, endpoints=(server.url,), model=server.model, revision=revision)
