"""The control of an experiment: grades dealt anew among the rollouts of a problem."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

from exprl.data.mixture import make_generator
from exprl.types import Scored


def shuffle_scores(scored: Sequence[Scored], seed: int, step: int) -> list[Scored]:
    """Deal the scores of each problem's rollouts anew among these rollouts and their steps.

    The scores of a problem stay the same as a set, and say nothing any more about the text that
    they stand at. What is no judgement stays in its place: the zeros of an overlong rollout, and
    missing scores. The grade and the key of the judge's words go with their score.

    Args:
        scored: rollouts of whole groups, in any order.
        seed, step: the same ones deal the same scores.
    """
    places: dict[str, list[tuple[int, int]]] = {}
    for i, one in enumerate(scored):
        if not (one.overlong or one.masked):
            own = places.setdefault(one.rollout.problem_id, [])
            own += [(i, t) for t, score in enumerate(one.scores) if score is not None]
    before = [_list_cells(one) for one in scored]
    dealt = [list(cells) for cells in before]
    for problem_id, own in places.items():
        order = make_generator(seed, _stream(step, problem_id)).permutation(len(own))
        for (i, t), source in zip(own, order, strict=True):
            other, step_there = own[source]
            dealt[i][t] = before[other][step_there]
    return [_put_cells(one, cells) for one, cells in zip(scored, dealt, strict=True)]


Cell = tuple[float | None, int | None, str | None, str | None]


def _list_cells(one: Scored) -> list[Cell]:
    """Score, grade, status and key of each step; the verifier's score has a score alone."""
    return list(zip_longest(one.scores, one.grades, one.statuses, one.ledger_keys))


def _put_cells(one: Scored, cells: Sequence[Cell]) -> Scored:
    return replace(
        one,
        scores=tuple(cell[0] for cell in cells[: len(one.scores)]),
        grades=tuple(cell[1] for cell in cells[: len(one.grades)]),
        statuses=tuple(cell[2] for cell in cells[: len(one.statuses)]),
        ledger_keys=tuple(cell[3] for cell in cells[: len(one.ledger_keys)]),
    )


def _stream(step: int, problem_id: str) -> int:
    digest = hashlib.blake2b(f"{step} {problem_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
