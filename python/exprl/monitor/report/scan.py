"""A few numbers of every rollout of a run: the strongest of each pick, and how problems went."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from exprl.errors import DataError
from exprl.monitor.picks import PICKS, mean_scores
from exprl.monitor.rollout_reader import NARROW, Rollouts
from exprl.types import Float64Array

if TYPE_CHECKING:
    import pyarrow as pa

THREADS = 4
"""Files that are read at the same time; reading them is most of the work, and leaves the GIL."""
COLUMNS = tuple(name for name in NARROW if name not in ("domain", "index"))
"""What no pick looks at takes time, too."""


class Place(NamedTuple):
    """Where a picked rollout lies, and how strongly it was picked."""

    step: int
    row: int
    strength: float
    problem_id: str


class Visit(NamedTuple):
    """What the rollouts of a problem came to in one step.

    row: the first of them.   reward: their mean score; NaN where each lacks one.
    right, checked: how many the verifier calls right, of those that it could check.
    """

    step: int
    row: int
    rollouts: int
    right: int
    checked: int
    reward: float


@dataclass(frozen=True, slots=True)
class StepScan:
    """What one file has.

    picked, counts: by the name of the pick; those that the file cannot tell are left out.
    lacks: columns that an earlier exprl did not write.   error: why the file cannot be read.
    """

    picked: dict[str, list[Place]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    visits: dict[str, Visit] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    error: str = ""


@dataclass(slots=True)
class Scan:
    """What all files have, together.

    visits: of each problem, in the order of the steps.   errors: of files that cannot be read.
    """

    picked: dict[str, list[Place]]
    counts: dict[str, int]
    visits: dict[str, list[Visit]]
    lacks: list[str]
    errors: list[str]


def scan(rollouts: Rollouts, limit: int) -> Scan:
    """Read the narrow columns of all steps.

    Args:
        limit: rollouts to keep of each pick, each of another problem.
    """
    whole = Scan({name: [] for name in PICKS}, dict.fromkeys(PICKS, 0), {}, [], [])
    with ThreadPoolExecutor(THREADS) as pool:
        for one in pool.map(partial(scan_step, rollouts, limit), rollouts.steps()):
            whole.errors += [one.error] if one.error else []
            whole.lacks += [name for name in one.lacks if name not in whole.lacks]
            for name, places in one.picked.items():
                whole.picked[name] = choose_strongest([*whole.picked[name], *places], limit)
                whole.counts[name] += one.counts[name]
            for problem, visit in one.visits.items():
                whole.visits.setdefault(problem, []).append(visit)
    return whole


def scan_step(rollouts: Rollouts, limit: int, step: int) -> StepScan:
    """Read the narrow columns of one step."""
    import pyarrow as pa

    try:
        table = rollouts.table(step, COLUMNS)
    except (DataError, pa.ArrowException, OSError) as error:
        return StepScan(error=str(error))
    lacks = tuple(column.name for column in table.schema if pa.types.is_null(column.type))
    problems = table["problem_id"].to_pylist()
    picked, counts = dict[str, list[Place]](), dict[str, int]()
    for name, pick in PICKS.items():
        if pick.column not in lacks:
            strength = pick.strength(table)
            counts[name] = int(np.count_nonzero(~np.isnan(strength)))
            picked[name] = _strongest(strength, problems, step, limit, counts[name])
    return StepScan(picked, counts, _visits(table, problems, step), lacks)


def choose_strongest(places: Iterable[Place], limit: int) -> list[Place]:
    """The strongest, of each problem one, and of equals the newest."""
    found: dict[str, Place] = {}
    for place in sorted(places, key=lambda one: (-one.strength, -one.step, one.row)):
        found.setdefault(place.problem_id, place)
    return list(found.values())[:limit]


def _strongest(
    strength: Float64Array, problems: list[str], step: int, limit: int, count: int
) -> list[Place]:
    """`choose_strongest` of one step; `count` rows have a strength."""
    found: dict[str, Place] = {}
    for row in np.argsort(-strength, kind="stable")[:count].tolist():  # NaN goes last
        name = problems[row]
        found.setdefault(name, Place(step, row, float(strength[row]), name))
        if len(found) == limit:
            break
    return list(found.values())


def _visits(table: pa.Table, problems: list[str], step: int) -> dict[str, Visit]:
    """The groups of a step."""
    rewards = mean_scores(table)
    known = ~np.isnan(rewards)
    right = [value is True for value in table["correct"].to_pylist()]
    checked = [value is not None for value in table["correct"].to_pylist()]
    numbers: dict[str, int] = {}
    group = np.array([numbers.setdefault(name, len(numbers)) for name in problems], dtype=int)

    def total(values: Float64Array | list[bool]) -> list[float]:
        sums: list[float] = np.bincount(group, values, len(numbers)).tolist()
        return sums

    scores = np.where(known, rewards, 0.0)
    sums = zip(
        total([True] * len(problems)),
        *map(total, (right, checked, scores, known.tolist())),
        strict=True,
    )
    return {
        name: Visit(
            step,
            problems.index(name),
            int(rollouts),
            int(right_ones),
            int(checked_ones),
            score / scored if scored else float("nan"),
        )
        for name, (rollouts, right_ones, checked_ones, score, scored) in zip(
            numbers, sums, strict=True
        )
    }
