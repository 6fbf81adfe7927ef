"""What goes into a judge and what comes out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from exprl.types import Float64Array, Int64Array


Status = Literal[
    "ok", "repaired", "unparseable", "refused", "truncated", "timeout", "http_error", "cancelled"
]


class JudgeItem(NamedTuple):
    """One rollout to grade.

    Attributes:
        id: yours; it comes back in `Graded`.
        problem: as the policy saw it.
        reference: the hidden solution; None asks the judge to grade without one.
        segments: the rollout's text cut at the steps; joined, they are the whole trace.
        domain: selects the built-in rubric.
        checklist: the problem's own rubric, as text and weight (1..10) of 1 to 6 checkpoints; None
            leaves it to the judge to take checkpoints out of the reference.
    """

    id: str
    problem: str
    reference: str | None
    segments: tuple[str, ...]
    domain: str = "math"
    checklist: tuple[tuple[str, int], ...] | None = None


class Verdict(NamedTuple):
    """What became of one request.

    Attributes:
        status: only `ok` and `repaired` carry a grade.
        grade: 1..5, or None.
        score: in [0, 1]; None without a grade, and for a grade that the score map leaves out.
        reply: the judge's words; empty without a reply.
        error: why there is no grade, and what to change.
        prompt_tokens: as the server counted.
        completion_tokens: as the server counted.
        cached_tokens: prompt tokens that the server had in its prefix cache.
        attempts: HTTP requests sent for it; 0 from the ledger.
        server: the endpoint asked last; None if none was.
        latency_s: from the first request sent to the end, waits included.
        from_cache: answered by the ledger, or by an equal request in flight.
        key: 64 hex digits under which a ledger keeps the reply; None without a reply.
    """

    status: Status
    grade: int | None
    score: float | None
    reply: str
    error: str | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    attempts: int
    server: str | None
    latency_s: float
    from_cache: bool
    key: str | None


@dataclass(frozen=True, slots=True)
class Graded:
    """One item, judged.

    Attributes:
        index: the item's place in the order of pushes, from 0.
        id: the item's.
        verdicts: one for `outcome`; one per segment, in order, for `prefix` and `step`.
    """

    index: int
    id: str
    verdicts: tuple[Verdict, ...]


class GradedArrays(NamedTuple):
    """R items and their S verdicts as columns, in the order of pushes.

    Attributes:
        ids: of the R items.
        offsets: [R+1] int64; item i has the verdicts offsets[i]..offsets[i+1]-1.
        scores: [S] float64; NaN = missing.
        grades: [S] float64, 1..5; NaN = missing.
        statuses: [S] of str.
        prompt_tokens: [S] int64, as the server counted.
        completion_tokens: [S] int64, as the server counted.
        cached_tokens: [S] int64; prompt tokens that the server had in its prefix cache.
        latencies_s: [S] float64; seconds from the first request sent to the end.
    """

    ids: tuple[str, ...]
    offsets: Int64Array
    scores: Float64Array
    grades: Float64Array
    statuses: npt.NDArray[np.str_]
    prompt_tokens: Int64Array
    completion_tokens: Int64Array
    cached_tokens: Int64Array
    latencies_s: Float64Array

    @classmethod
    def of(cls, graded: Iterable[Graded]) -> Self:
        """The columns of graded items, which come in any order."""
        import numpy as np  # most callers take items one by one

        items = sorted(graded, key=by_index)
        verdicts = [verdict for item in items for verdict in item.verdicts]
        counts = [len(item.verdicts) for item in items]
        return cls(
            ids=tuple(item.id for item in items),
            offsets=np.cumsum([0, *counts], dtype=np.int64),
            # None becomes NaN.
            scores=np.array([verdict.score for verdict in verdicts], dtype=np.float64),
            grades=np.array([verdict.grade for verdict in verdicts], dtype=np.float64),
            statuses=np.array([verdict.status for verdict in verdicts], dtype=np.str_),
            prompt_tokens=np.array([v.prompt_tokens for v in verdicts], dtype=np.int64),
            completion_tokens=np.array([v.completion_tokens for v in verdicts], dtype=np.int64),
            cached_tokens=np.array([v.cached_tokens for v in verdicts], dtype=np.int64),
            latencies_s=np.array([v.latency_s for v in verdicts], dtype=np.float64),
        )


def by_index(graded: Graded) -> int:
    """The place of a graded item in the order of pushes."""
    return graded.index
