"""Beginnings of solutions, to how often the policy gets from there to the right answer.

A process judge is right about a beginning if its grade rises with that rate: the Monte-Carlo value
of a step (Math-Shepherd, arXiv 2312.08935), held against the judge's word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from exprl.errors import DataError
from exprl.evaluate import estimates
from exprl.evaluate.estimates import Rate, percentiles, resampled_counts
from exprl.judge import JudgeSettings
from exprl.study import grade
from exprl.study.solutions import Solution
from exprl.types import Float64Array, Int32Array, Prompt, Rollout
from exprl.verify.verifiers import Verifiers

RESAMPLINGS = 500


class Continuer(Protocol):
    """The one word of the engine that is needed here."""

    def sample_continuations(
        self,
        beginnings: Sequence[tuple[str, Prompt, Int32Array]],
        n: int,
        seed: int,
        temperature: float,
        max_response_tokens: int,
    ) -> Iterator[Rollout]:
        """Yield n continuations of each beginning, in any order."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first `step` steps of a solution.

    grade, score: the judge's; None = missing.
    n, right: continuations that count, and right ones among them.
    """

    solution_id: str
    problem_id: str
    step: int
    grade: int | None
    score: float | None
    n: int
    right: int


@dataclass(frozen=True, slots=True)
class Continued:
    """Grades of beginnings against success rates; correlations over those that have both.

    success_by_grade: [5] mean success rate of the beginnings with grade 1..5, NaN without any.
    """

    beginnings: tuple[Beginning, ...]
    continuations: int
    missing: int
    spearman: Rate
    pearson: Rate
    success_by_grade: tuple[float, ...]


def measure(
    solutions: Sequence[Solution],
    settings: JudgeSettings,
    engine: Continuer,
    *,
    limit: int,
    n: int,
    seed: int,
    temperature: float,
    max_response_tokens: int,
    decode: Callable[[Int32Array], str],
    verifiers: Verifiers,
) -> Continued:
    """Grade beginnings, sample n continuations of each, and correlate.

    Args:
        solutions: of a run, with answers; those of one step have no beginning to go on from.
        limit: beginnings, at most; whole solutions are taken at random until it is reached.
        decode: token ids to text.
        verifiers: say which continuations are right; where they cannot, it does not count.

    Raises:
        DataError: no solution has a beginning to go on from.
    """
    chosen = _choose(solutions, limit, seed)
    judging = replace(settings, view="prefix")
    graded = list(grade.grade([s.item for s in chosen], judging))
    starts: dict[str, tuple[Solution, int]] = {}
    for solution in chosen:
        for step in range(1, len(solution.segments)):
            starts[f"{solution.id}/{step}"] = (solution, step)
    starts = dict(list(starts.items())[:limit])
    n_of, right = _continue(
        starts, engine, n, seed, temperature, max_response_tokens, decode, verifiers
    )
    verdicts = {s.id: g.verdicts for s, g in zip(chosen, graded, strict=True)}
    return summarize(
        [
            Beginning(
                solution_id=solution.id,
                problem_id=solution.problem_id,
                step=step,
                grade=verdicts[solution.id][step - 1].grade,
                score=verdicts[solution.id][step - 1].score,
                n=n_of[name],
                right=right[name],
            )
            for name, (solution, step) in starts.items()
        ],
        n,
    )


def summarize(beginnings: Sequence[Beginning], continuations: int) -> Continued:
    """Correlations, with intervals over problems."""
    known = [b for b in beginnings if b.score is not None and b.n]
    scores = np.array([b.score for b in known], dtype=np.float64)
    success = np.array([b.right / b.n for b in known], dtype=np.float64)
    problems = np.array([b.problem_id for b in known], dtype=object)
    by_grade = [[b.right / b.n for b in known if b.grade == g] for g in range(1, 6)]
    return Continued(
        beginnings=tuple(beginnings),
        continuations=continuations,
        missing=len(beginnings) - len(known),
        spearman=_correlate(estimates.spearman, scores, success, problems),
        pearson=_correlate(estimates.pearson, scores, success, problems),
        success_by_grade=tuple(float(np.mean(x)) if x else float("nan") for x in by_grade),
    )


def _choose(solutions: Sequence[Solution], limit: int, seed: int) -> list[Solution]:
    able = [s for s in solutions if len(s.segments) > 1 and s.asked and s.asked.answer]
    if not able:
        raise DataError(
            "no solution has a beginning to go on from: continuations need the rollouts of a run"
            " (not a file), of more than one step, on problems with answers"
        )
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(able))
    chosen: list[Solution] = []
    while len(chosen) < len(able) and sum(len(s.segments) - 1 for s in chosen) < limit:
        chosen.append(able[order[len(chosen)]])
    return chosen


def _continue(
    starts: dict[str, tuple[Solution, int]],
    engine: Continuer,
    n: int,
    seed: int,
    temperature: float,
    max_response_tokens: int,
    decode: Callable[[Int32Array], str],
    verifiers: Verifiers,
) -> tuple[Counter[str], Counter[str]]:
    """Counted and right continuations of each start; crashed and unverifiable ones do not count."""
    counted, right = Counter[str](), Counter[str]()
    beginnings = []
    tokens: dict[str, Int32Array] = {}
    for name, (solution, step) in starts.items():
        assert solution.token_ids is not None and solution.asked is not None, "see _choose"
        tokens[name] = solution.token_ids[: solution.segment_end[step - 1]]
        beginnings.append((name, solution.asked.prompt, tokens[name]))
    taken: list[tuple[str, Future[bool | None] | None]] = []
    with ThreadPoolExecutor(verifiers.workers, thread_name_prefix="verify") as threads:
        for rollout in engine.sample_continuations(
            beginnings, n, seed, temperature, max_response_tokens
        ):
            name, verified = rollout.problem_id, None
            if rollout.finish_reason == "failed":
                continue
            if rollout.finish_reason == "stop":
                asked = starts[name][0].asked
                assert asked is not None, "see _choose"
                whole = rollout.opening + decode(np.concatenate([tokens[name], rollout.token_ids]))
                verified = threads.submit(verifiers.is_correct, whole, asked)
            taken.append((name, verified))
    for name, verified in taken:
        correct = verified.result() if verified else False
        if correct is not None:
            counted[name] += 1
            right[name] += correct
    return counted, right


def _correlate(
    of: Callable[[Float64Array, Float64Array], float],
    x: Float64Array,
    y: Float64Array,
    problems: np.ndarray,
) -> Rate:
    if len(x) == 0:
        return Rate(float("nan"), float("nan"), float("nan"))
    names, at = np.unique(problems, return_inverse=True)
    resampled = []
    for counts in resampled_counts(len(names), RESAMPLINGS):
        repeats = counts[at]
        resampled.append(of(np.repeat(x, repeats), np.repeat(y, repeats)))
    low, high = percentiles(np.array(resampled, dtype=np.float64))
    return Rate(of(x, y), float(low), float(high))
