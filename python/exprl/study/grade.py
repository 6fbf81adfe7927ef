"""Solutions, to what a judge says of them. Needs neither torch nor vLLM."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

from exprl.config import Condition
from exprl.data.problems import draw_wrong_references
from exprl.errors import DataError, JudgeError
from exprl.judge import Graded, Judge, JudgeItem, JudgeSettings, Verdict
from exprl.study.solutions import Solution

CONDITIONS: tuple[Condition, ...] = get_args(Condition)


@dataclass(frozen=True, slots=True)
class Spent:
    """What the verdicts of all steps cost, equal requests once; tokens as the servers counted.

    from_ledger: requests that the ledger answered. Their tokens are those of the first time.
    cached_tokens: prompt tokens that a server had in its prefix cache.
    seconds: from the first request to the last verdict; None if the ledger answered any.
    """

    requests: int
    from_ledger: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    seconds: float | None


class Asked(NamedTuple):
    """One verdict per solution, in their order, and what they cost."""

    verdicts: list[Verdict]
    spent: Spent


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


def ask(
    solutions: Sequence[Solution], settings: JudgeSettings, condition: Condition, seed: int = 0
) -> Asked:
    """One verdict per solution; of several steps the last one's counts.

    Args:
        condition: whether the judge sees the right reference, none, or another problem's.
        seed: draws the other problems.

    Raises:
        DataError: the condition cannot be shown: no references, or those of one problem only.
        JudgeError: not one solution got a grade; says why the first did not.
    """
    items = make_items(solutions, condition, seed)
    started = time.perf_counter()
    every = [graded.verdicts for graded in grade(items, settings)]
    spent = _add_up([v for verdicts in every for v in verdicts], time.perf_counter() - started)
    verdicts = [verdicts[-1] for verdicts in every]
    if verdicts and all(verdict.grade is None for verdict in verdicts):
        first = verdicts[0]
        raise JudgeError(
            f"the judge graded none of the {len(verdicts)} solutions with the reference"
            f" {condition!r}; the first: {first.status}: {first.error or first.reply[-300:]!r}"
        )
    return Asked(verdicts, spent)


def _add_up(verdicts: Sequence[Verdict], seconds: float) -> Spent:
    sent = {v.key or str(i): v for i, v in enumerate(verdicts) if not v.from_cache}
    stored = {str(v.key): v for v in verdicts if v.from_cache and v.key not in sent}
    every = [*sent.values(), *stored.values()]
    return Spent(
        requests=len(every),
        from_ledger=len(stored),
        prompt_tokens=sum(v.prompt_tokens for v in every),
        cached_tokens=sum(v.cached_tokens for v in every),
        completion_tokens=sum(v.completion_tokens for v in every),
        seconds=None if stored else seconds,
    )


def make_items(
    solutions: Sequence[Solution], condition: Condition, seed: int = 0
) -> list[JudgeItem]:
    """What the judge is shown under a condition; arguments and errors are those of `ask`."""
    if condition == "none":
        return [solution.item._replace(reference=None) for solution in solutions]
    references: dict[str, str] = {}
    for solution in solutions:
        if solution.reference is None:
            raise DataError(
                f"solution {solution.id!r} has no reference, which the condition {condition!r}"
                " shows: leave it out of the input, or calibrate with --condition none only"
            )
        references.setdefault(solution.problem, solution.reference)
    if condition == "right":
        return [solution.item for solution in solutions]
    wrong = draw_wrong_references(references, seed)
    return [solution.item._replace(reference=wrong[solution.problem]) for solution in solutions]
