"""Which problems a training step takes: shuffled epochs of each source, mixed by weight.

Everything is a pure function of (seed, step), so a resumed run needs no state.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from exprl import config
from exprl.types import Problem

P = TypeVar("P", bound=Problem)
FURTHER = 1 << 31
"""Stream of `draw_further`; those below are the sources'."""


def draw_problems(
    problems: Sequence[Problem], weights: Sequence[float], per_step: int, seed: int, step: int
) -> list[Problem]:
    """The problems of a step: `per_step` of them, from each source its share.

    Args:
        problems: of all sources.
        weights: of source 0, 1, ...; only their ratios count.
    """
    by_source: list[list[Problem]] = [[] for _ in weights]
    for problem in problems:
        by_source[problem.source].append(problem)

    def taken(source: int) -> Callable[[int], int]:
        return lambda steps: split_count(steps * per_step, weights)[source]

    chosen = []
    for source, (own, weight) in enumerate(zip(by_source, weights, strict=True)):
        count = taken(source)
        indices = draw_from_epochs(len(own), count, seed, step, source) if own else []
        due = (((count(step) + i + 0.5) / weight, source) for i in range(len(indices)))
        chosen += [(when, own[index]) for when, index in zip(due, indices, strict=True)]
    return [problem for _, problem in sorted(chosen, key=lambda pair: pair[0])]


def source_weights(parts: Sequence[config.MixedSource], problems: Sequence[Problem]) -> list[float]:
    """The weight of each source; "rows" is the number of its problems.

    Args:
        parts: the sources, in their order.
        problems: all that the run may draw, of all sources.
    """
    rows = Counter(problem.source for problem in problems)
    return [
        float(rows[source]) if part.weight == "rows" else part.weight
        for source, part in enumerate(parts)
    ]


def draw_further(
    problems: Sequence[P], taken: Sequence[P], places: Sequence[P], seed: int, step: int
) -> dict[str, P]:
    """Further problems for places of a step, each of the source of the problem that it replaces.

    They come in one order for each (seed, step), so more of them are the next of the same row.

    Args:
        taken: those that the step has sampled so far, which do not come again.
        places: the problems to replace.

    Returns:
        The further problem by the id of the one that it replaces; none where a source has no more.
    """
    order = make_generator(seed, FURTHER << 32 | step).permutation(len(problems))
    known = {problem.id for problem in taken}
    left = [problems[i] for i in order if problems[i].id not in known]
    found: dict[str, P] = {}
    for place in {place.id: place for place in places}.values():
        further = next((p for p in left if p.source == place.source), None)
        if further is not None:
            left.remove(further)
            found[place.id] = further
    return found


def split_count(total: int, weights: Sequence[float]) -> list[int]:
    """How many of the first `total` problems each source has given.

    The i-th problem of a source is due at (i + 1/2) / weight, and the problems come in the order in
    which they are due: the apportionment of Webster and Sainte-Lague. So no count ever falls as the
    total grows, and each stays near its share.

    >>> shares(10, [3, 1, 1])
    [6, 2, 2]
    """
    # At this time no more than `total` problems are due; the few that are missing follow in order.
    time = max(total - len(weights), 0) / sum(weights)
    counts = [int(weight * time + 0.5) for weight in weights]
    for _ in range(total - sum(counts)):
        due = [(count + 0.5) / weight for count, weight in zip(counts, weights, strict=True)]
        counts[due.index(min(due))] += 1
    return counts


def draw_from_epochs(
    count: int, taken: Callable[[int], int], seed: int, step: int, source: int = 0
) -> list[int]:
    """Which of `count` problems a step takes from an endless row of shuffled epochs.

    Each epoch is a permutation keyed by (seed, source, epoch): every problem comes once before any
    comes twice. No step holds a problem twice, also not where it crosses from one epoch to the
    next, unless it takes more than `count`.

    Args:
        taken: how many problems the first n steps take together; never falls.
    """
    start, stop = taken(step), taken(step + 1)
    chosen: list[int] = []
    order = np.empty(0, dtype=np.int64)
    for epoch in range(-(-stop // count)):
        begin = epoch * count
        crossing = bisect_right(range(step + 2), begin, key=taken) - 1
        before = begin - taken(crossing)  # places of the crossing step before the epoch's start
        size = taken(crossing + 1) - taken(crossing)
        tail = order[len(order) - min(before, len(order)) :]
        order = _arrange_epoch(
            make_generator(seed, source << 32 | epoch).permutation(count), tail, size
        )
        chosen += order[max(start - begin, 0) : max(stop - begin, 0)].tolist()
    return chosen


def _arrange_epoch(
    order: npt.NDArray[np.int64], tail: npt.NDArray[np.int64], size: int
) -> npt.NDArray[np.int64]:
    """The permutation, with the problems of `tail` not among those that join its step."""
    clashes = np.isin(order, tail)
    if not clashes.any() or size > len(order):
        return order
    joining = order[~clashes][: size - len(tail)]
    return np.concatenate([joining, order[~np.isin(order, joining)]])


def make_generator(seed: int, stream: int) -> np.random.Generator:
    """Random numbers that depend on nothing else."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)))
