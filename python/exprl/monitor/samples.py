"""Rollouts of a step that the trackers show: as they come, not the best ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from exprl.monitor.trackers import Table
from exprl.types import Float64Array, Problem, Scored

COLUMNS = ("problem", "question", "response", "grades", "advantages", "correct", "finish_reason")
LONGEST = 10_000
"""Characters of a text that are shown."""


def sample_table(
    scored: Sequence[Scored],
    advantages: Sequence[Float64Array],
    problems: Mapping[str, Problem],
    count: int,
) -> Table:
    """The first rollout of each of the step's first `count` problems.

    Problems are drawn at random, and so these are. A grade or advantage that does not exist is `-`.
    References are not among the columns: they stay on this machine.

    Args:
        scored, advantages: of the step; [T] advantages each.
        problems: by id.
    """
    rows, seen = list[tuple[str, ...]](), set[str]()
    for one, values in zip(scored, advantages, strict=True):
        rollout = one.rollout
        if rollout.problem_id in seen or len(seen) == count:
            continue
        seen.add(rollout.problem_id)
        problem = problems.get(rollout.problem_id)
        rows.append(
            (
                rollout.problem_id,
                _shorten(problem.question if problem else ""),
                _shorten(one.text),
                " ".join("-" if grade is None else str(grade) for grade in one.grades),
                " ".join("-" if math.isnan(value) else f"{value:+.2f}" for value in values),
                "-" if one.correct is None else "yes" if one.correct else "no",
                rollout.finish_reason,
            )
        )
    return Table(COLUMNS, rows)


def _shorten(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]} ... ({len(text) - LONGEST:,} more characters)"
