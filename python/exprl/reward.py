"""Rollouts, to scores: steps cut, judge and verifier asked, overlong rollouts dealt with.

The judge grades while other rollouts are still being sampled. A score that nobody gave stays
missing (None): it takes its rollout out of the step, and is counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from exprl import config, verify
from exprl.judge import Graded, Job, Judge, JudgeItem
from exprl.steps import Splitter
from exprl.types import Float64Array, Int64Array, Problem, Rollout, Scored, Segment


class Scorer:
    """Takes the rollouts of one step as they come, and gives them back scored, in group order."""

    def __init__(
        self,
        problems: Sequence[Problem],
        references: Mapping[str, str | None],
        splitter: Splitter,
        reward: config.Reward,
        judge: Judge | None,
        *,
        per_segment: bool,
    ) -> None:
        """Open a judge job for the step.

        Args:
            problems: of the step, in group order; ids may repeat.
            references: what the judge is shown for each problem id; None shows no reference.
            judge: None where the verifier alone scores, or nobody does.
            per_segment: whether the judge grades every step, or the rollout once.
        """
        self._per_segment = per_segment
        self._problems = {p.id: p for p in problems}
        self._order = {p.id: i for i, p in enumerate(problems)}
        self._references = references
        self._splitter = splitter
        self._reward = reward
        self._job: Job | None = judge.submit() if judge else None
        self._rollouts: list[tuple[Rollout, tuple[Segment, ...]]] = []
        self._pushed: list[int] = []

    def push(self, rollout: Rollout) -> None:
        """Take a finished rollout; its judge requests leave at once."""
        try:
            segments = self._splitter.split(rollout.token_ids)
        except ValueError:  # an id from the padding of the head, which no tokenizer knows
            rollout, segments = dataclasses.replace(rollout, finish_reason="failed"), ()
        self._rollouts.append((rollout, segments))
        if self._job and self._is_judged(rollout) and segments:
            problem = self._problems[rollout.problem_id]
            self._pushed.append(len(self._rollouts) - 1)
            self._job.push(
                JudgeItem(
                    id=f"{rollout.problem_id}/{rollout.index}",
                    problem=problem.question,
                    reference=self._references[rollout.problem_id],
                    segments=tuple(s.text for s in segments),
                    domain=problem.domain,
                )
            )

    def finish(self, progress: Callable[[int, int], None]) -> list[Scored]:
        """Wait for the outstanding grades; call once.

        Args:
            progress: told how many of how many rollouts are graded.
        """
        graded: dict[int, Graded] = {}
        if self._job:
            self._job.close()
            for result in self._job:
                graded[self._pushed[result.index]] = result
                progress(len(graded), len(self._pushed))
        scored = [self._score(i, graded.get(i)) for i in range(len(self._rollouts))]
        return sorted(scored, key=lambda s: (self._order[s.rollout.problem_id], s.rollout.index))

    def cancel(self) -> None:
        """Drop the step: requests in flight are given up."""
        if self._job:
            self._job.cancel()

    def _is_judged(self, rollout: Rollout) -> bool:
        overlong = rollout.finish_reason == "length" and self._reward.overlong != "none"
        return rollout.finish_reason != "failed" and not overlong

    def _score(self, i: int, graded: Graded | None) -> Scored:
        rollout, segments = self._rollouts[i]
        correct = self._verify(rollout, segments)
        overlong = rollout.finish_reason == "length" and self._reward.overlong != "none"
        grades: tuple[int | None, ...] = ()
        scores: tuple[float | None, ...] = ()
        if rollout.finish_reason == "failed" or self._reward.source == "none":
            pass
        elif overlong:
            width = len(segments) if self._per_segment else 1
            grades, scores = (None,) * width, (0.0,) * width
        elif self._job is None:
            scores = (None if correct is None else float(correct),)
        elif graded is not None:
            grades = tuple(v.grade for v in graded.verdicts)
            scores = tuple(v.score for v in graded.verdicts)
        masked = overlong and self._reward.overlong == "mask"
        rewarded = self._reward.source != "none"
        return Scored(rollout, segments, grades, scores, correct, masked, rewarded=rewarded)

    def _verify(self, rollout: Rollout, segments: Sequence[Segment]) -> bool | None:
        problem = self._problems[rollout.problem_id]
        if problem.answer is None or rollout.finish_reason == "failed":
            return None
        text = "".join(s.text for s in segments)
        return verify.is_correct(text, problem.answer, problem.domain)


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
