"""The judges of a run: one for each way of looking at a rollout (view and rubric).

Domains that are looked at in the same way share a judge, its ledger and its limits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from exprl.config import View
from exprl.judge import Graded, Job, Judge, JudgeItem, JudgeStats

Look = tuple[View, str | None]
"""View, and the file of the rubric; None takes the built-in ones."""


class Panel:
    """Sends every item to the judge of its domain."""

    def __init__(self, judges: Mapping[Look, Judge], look: Callable[[str], Look]) -> None:
        """`look`: that of a domain."""
        self._judges = judges
        self._look = look

    def submit(self) -> Session:
        """Open a batch."""
        return Session(self._judges, self._look)

    def stats(self) -> JudgeStats:
        """What all judges together have done so far."""
        return summed([judge.stats() for judge in self._judges.values()])


class Session:
    """A batch over all judges: push, close, iterate. Like `exprl.judge.Job`."""

    def __init__(self, judges: Mapping[Look, Judge], look: Callable[[str], Look]) -> None:
        """Made by `Panel.submit`."""
        self._look = look
        self._jobs: dict[Look, Job] = {name: judge.submit() for name, judge in judges.items()}
        self._pushed: dict[Look, list[int]] = {name: [] for name in judges}

    def push(self, item: JudgeItem) -> None:
        """Queue an item; its requests leave at once."""
        look = self._look(item.domain)
        self._pushed[look].append(sum(map(len, self._pushed.values())))
        self._jobs[look].push(item)

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
        for look, job in self._jobs.items():
            for graded in job:
                yield dataclasses.replace(graded, index=self._pushed[look][graded.index])


def summed(stats: Sequence[JudgeStats]) -> JudgeStats:
    """Counts added up; of latencies the slowest judge's."""
    first, *others = stats
    for other in others:
        names = [field.name for field in dataclasses.fields(JudgeStats)]
        both = {name: _together(name, getattr(first, name), getattr(other, name)) for name in names}
        first = JudgeStats(**both)
    return first


def _together(name: str, one: Any, other: Any) -> Any:
    if one is None or other is None:
        return None
    if isinstance(one, Mapping):
        return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}
    return max(one, other) if name.startswith("latency_") else one + other
