"""Scored rollouts, to one advantage per step or rollout; the arithmetic is exprl.advantage."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from exprl import config
from exprl.advantage import advantages
from exprl.types import Float64Array, Int64Array, Scored

SILENCE = 0.01
"""A smaller advantage is the judge's noise: scores that differ by 0.0005 have it under `grpo`."""


def segment_advantages(
    scored: Sequence[Scored],
    treatment: Callable[[str], config.Treatment],
    settings: config.Advantage,
    response_width: int,
) -> list[Float64Array]:
    """Per rollout one advantage per score [T]; NaN throughout where the rollout is out.

    Each domain has its own kind of advantage, and its own mean where the kind takes the batch's.
    A step that is joined to the next one has the advantage of the two.
    Where nothing is rewarded (self-distillation) there is no advantage: an empty array, or one NaN
    where the rollout failed.

    Args:
        treatment: how the rows of a domain are rewarded.
        response_width: rollout.max_response_tokens, which compat = "published" divides by.
    """
    values = [np.full(int(s.rollout.finish_reason == "failed"), np.nan) for s in scored]
    for domain in dict.fromkeys(s.domain for s in scored if s.rewarded):
        members = [i for i, s in enumerate(scored) if s.rewarded and s.domain == domain]
        own = [scored[i] for i in members]
        scores, seg_off, group_off = score_arrays(own)
        flat = advantages(
            scores,
            seg_off,
            group_off,
            treatment(domain).advantage,
            single_segment=settings.single_segment,
            compat=settings.compat,
            response_width=response_width,
            std_floor=settings.std_floor,
            outcome_weight=settings.outcome_weight,
            missing="bridge" if own[0].bridge else "drop",
            overlong=[s.overlong for s in own],
            bounds=score_bounds(treatment(domain).noise),
        )
        for i, value in zip(members, np.split(flat, seg_off[1:-1]), strict=True):
            values[i] = value
    return values


def score_bounds(noise: config.Noise | None) -> tuple[float, float]:
    """The lowest and the highest score that there can be: beyond 0 and 1 with reward.noise."""
    return (0.0, 1.0) if noise is None else (noise.correct(0.0), noise.correct(1.0))


def silent_groups(scored: Sequence[Scored], advantages: Sequence[Float64Array]) -> list[list[int]]:
    """The groups that teach nothing: no rollout has an advantage of `SILENCE` or more.

    A group whose rollouts are all out is one of them.

    Args:
        scored: rollouts of a step, groups together.
        advantages: of each, [T].

    Returns:
        The indices of the rollouts of each such group.
    """
    groups: list[list[int]] = []
    for i, one in enumerate(scored):
        if i == 0 or one.rollout.problem_id != scored[i - 1].rollout.problem_id:
            groups.append([])
        groups[-1].append(i)
    return [
        group
        for group in groups
        if not any((np.abs(advantages[i]) >= SILENCE).any() for i in group)
    ]


def score_arrays(scored: Sequence[Scored]) -> tuple[Float64Array, Int64Array, Int64Array]:
    """Scores [S] (NaN = missing), seg_off [R+1] and group_off [G+1] for `exprl.advantage`.

    A rollout without any score, and one that is masked, has NaN throughout.
    """
    rows = [
        [np.nan] * max(1, len(s.scores))
        if s.masked or not s.scores
        else [np.nan if x is None else x for x in s.scores]
        for s in scored
    ]
    seg_off = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64)
    ids = [s.rollout.problem_id for s in scored]
    starts = [i for i, name in enumerate(ids) if i == 0 or name != ids[i - 1]]
    scores = np.array([x for row in rows for x in row], dtype=np.float64)
    return scores, seg_off, np.array([*starts, len(ids)], dtype=np.int64)
