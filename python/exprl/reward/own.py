"""Scores by a function of the user's: what it is told of a rollout, and what it says."""

from __future__ import annotations

from collections.abc import Sequence

from exprl.functions.pool import Function
from exprl.functions.roles import read_scores
from exprl.types import Problem, Rollout, Segment


def ask_reward(
    function: Function,
    rollout: Rollout,
    segments: Sequence[Segment],
    problem: Problem,
    reference: str | None,
    correct: bool | None,
    *,
    per_segment: bool,
) -> tuple[float | None, ...]:
    """The scores of a rollout, one per segment or a single one; None is missing.

    Args:
        reference: what it is shown as the reference, if it asks for it.
        correct: the verifier's word, if it asks for it.

    Raises:
        FunctionError: it gave no scores; says why.
    """
    values = {
        "text": "".join(segment.text for segment in segments),
        "steps": [segment.text for segment in segments],
        "answer": problem.answer,
        "more_answers": problem.more_answers,
        "question": problem.question,
        "reference": reference,
        "correct": correct,
        "tokens": len(rollout.token_ids),
        "finish_reason": rollout.finish_reason,
        "domain": problem.domain,
        "problem_id": problem.id,
    }
    steps = len(segments) if per_segment else None
    return function.call(values, lambda value: read_scores(value, steps))
