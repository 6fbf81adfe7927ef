"""Rollouts, to scores: steps cut, judge and verifier asked, overlong rollouts dealt with.

Judge, verifier and functions of the user's work while other rollouts are still being sampled. A
score that nobody gave stays missing (None) and is counted. It takes its rollout out of the step, or
its step is joined to the next one (reward.missing; exprl.advantage does the joining).
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from exprl import config
from exprl.config import FunctionName
from exprl.errors import FunctionError
from exprl.judge import Graded, JudgeItem, Verdict
from exprl.reward.judges import Asking, Asks
from exprl.reward.known import NOTHING, Known, OwnScores
from exprl.reward.own import ask_reward
from exprl.steps import Splitter
from exprl.thinking import outside_thinking
from exprl.types import Problem, Rollout, Scored, Segment
from exprl.verify.verifiers import Verdict as Verification
from exprl.verify.verifiers import Verifiers

ENGINE_FAILED = (
    "the engine gave no usable tokens for the rollout, so that nothing was judged; see its log"
)
UNKNOWN_TOKEN = (
    "the rollout holds a token id that the tokenizer does not know, so that its text cannot be"
    " read; the model's head is wider than its tokenizer, and nothing taught those rows"
)


T = TypeVar("T")


class Scorer:
    """Takes the rollouts of one step as they come, and gives them back scored, in group order."""

    def __init__(
        self,
        problems: Sequence[Problem],
        references: Mapping[str, str | None],
        splitter: Splitter | None,
        reward: config.Reward,
        treatment: Callable[[str], config.Treatment],
        judges: Asks | None,
        verifiers: Verifiers,
    ) -> None:
        """Open a judge job for the step.

        Args:
            problems: of the step, in group order; ids may repeat.
            references: what the judge is shown for each problem id; None shows no reference.
            splitter: None where the steps of every rollout are known.
            treatment: how the rows of a domain are rewarded.
            judges: None where the verifier alone scores, or nobody does.
        """
        self._problems = {p.id: p for p in problems}
        self._order = {p.id: i for i, p in enumerate(problems)}
        self._references = references
        self._splitter = splitter
        self._reward = reward
        self._treatments = {p.domain: treatment(p.domain) for p in problems}
        self._verifiers = verifiers
        self._threads = ThreadPoolExecutor(verifiers.workers, thread_name_prefix="verify")
        self._job: Asking | None = judges.submit() if judges else None
        self._rollouts: list[tuple[Rollout, tuple[Segment, ...]]] = []
        self._verdicts: list[Future[Verification] | None] = []
        self._own: list[Future[OwnScores] | None] = []
        self._lock = threading.Lock()
        self._cuts: list[Future[None]] = []
        self._uncut: dict[int, str] = {}
        self._pushed: list[int] = []
        self._graded: dict[int, Graded] = {}
        self._unreadable: set[int] = set()
        self._blank: set[int] = set()

    def push(self, rollout: Rollout, known: Known = NOTHING) -> None:
        """Take a finished rollout; it is judged and verified while others are sampled.

        Args:
            known: what need not be found out again.
        """
        if known.segments is None and isinstance(self._reward.steps, FunctionName):
            self._cuts.append(self._threads.submit(self._take, rollout, known))  # it may take long
        else:
            self._take(rollout, known)

    def _take(self, rollout: Rollout, known: Known) -> None:
        uncut, segments = known.uncut, known.segments
        try:
            segments = self._split(rollout) if segments is None else segments
        except FunctionError as error:
            assert self._splitter is not None, "it was asked"
            text = self._splitter.decode(rollout.token_ids, rollout.opening)
            segments, uncut = (Segment(0, len(rollout.token_ids), text),), str(error)
        except ValueError:  # an id from the padding of the head, which no tokenizer knows
            segments = None
        with self._lock:
            self._add(rollout, segments, uncut, known)

    def _add(
        self, rollout: Rollout, segments: tuple[Segment, ...] | None, uncut: str, known: Known
    ) -> None:
        """Have a rollout judged, verified and scored.

        Args:
            segments: its steps; None where a token is unknown.
            uncut: why it could not be cut into steps.
        """
        i = len(self._rollouts)
        if segments is None:
            rollout, segments = dataclasses.replace(rollout, finish_reason="failed"), ()
            self._unreadable.add(i)
        problem = self._problems[rollout.problem_id]
        treatment = self._treatments[problem.domain]
        self._rollouts.append((rollout, segments))
        self._verdicts.append(self._verify(rollout, segments, problem, known))
        self._own.append(None)
        if self._is_blank(segments) if known.blank is None else known.blank:
            self._blank.add(i)
        if uncut and (treatment.per_segment or treatment.own_reward):
            self._uncut[i] = uncut
        elif not self._is_scored(rollout, treatment):
            return
        elif treatment.own_reward:
            name = treatment.own_reward
            if known.own is not None:
                self._own[i] = _done(known.own)
                return
            self._own[i] = self._threads.submit(self._ask_own, name, i, treatment.per_segment)
        elif not treatment.judged or i in self._blank:
            return
        elif known.verdicts is not None:
            self._graded[i] = Graded(i, "", known.verdicts)
        elif self._job:
            self._pushed.append(i)
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
        for cut in self._cuts:
            cut.result()
        if self._job:
            self._job.close()
            progress(0, len(self._pushed))
            for done, result in enumerate(self._job, 1):
                self._graded[self._pushed[result.index]] = result
                progress(done, len(self._pushed))
        asked = [own for own in self._own if own]
        for done, own in enumerate(asked, len(self._pushed) + 1):
            own.result()
            progress(done, len(self._pushed) + len(asked))
        scored = [self._score(i, self._graded.get(i)) for i in range(len(self._rollouts))]
        self._threads.shutdown()
        return sorted(scored, key=lambda s: (self._order[s.rollout.problem_id], s.rollout.index))

    def cancel(self) -> None:
        """Drop the step: requests in flight and programs not yet run are given up."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._job:
            self._job.cancel()

    def _split(self, rollout: Rollout) -> tuple[Segment, ...]:
        if self._splitter is None:
            raise TypeError("a rollout whose steps are not known, and nothing to cut it with")
        return self._splitter.split(rollout.token_ids, rollout.opening)

    def _is_scored(self, rollout: Rollout, treatment: config.Treatment) -> bool:
        """Whether the judge, or a function of the user's, is asked about it at all."""
        if rollout.finish_reason == "failed":
            return False
        return not self._is_overlong(rollout) or self._keeps_scores(treatment)

    def _is_blank(self, segments: Sequence[Segment]) -> bool:
        """Whether the judge would see nothing: no text, or all of it thinking that is not shown."""
        text = "".join(s.text for s in segments)
        shows_thinking = self._splitter is not None and self._splitter.cut_thinking
        shown = [text] if shows_thinking else outside_thinking(text)
        return not "".join(shown).strip()

    def _is_overlong(self, rollout: Rollout) -> bool:
        return rollout.finish_reason == "length" and self._reward.overlong != "none"

    def _keeps_scores(self, treatment: config.Treatment) -> bool:
        """Whether an overlong rollout has the judge's scores, which `overlong` says count 0."""
        return self._reward.overlong == "zero" and treatment.judges_overlong

    def _verify(
        self, rollout: Rollout, segments: Sequence[Segment], problem: Problem, known: Known
    ) -> Future[Verification] | None:
        if known.verified is not None:
            return _done(known.verified)
        if problem.answer is None or rollout.finish_reason == "failed":
            return None
        text = "".join(s.text for s in segments)
        return self._threads.submit(self._verifiers.examine, text, problem)

    def _ask_own(self, name: FunctionName, i: int, per_segment: bool) -> OwnScores:
        """The scores by a function of the user's; it may wait for the verifier, which is ahead."""
        function = self._verifiers.functions.open(name, "reward")
        rollout, segments = self._rollouts[i]
        width = len(segments) if per_segment else 1
        verdict = self._verdicts[i] if function.asks_for("correct") else None
        try:
            scores = ask_reward(
                function,
                rollout,
                segments,
                self._problems[rollout.problem_id],
                self._references.get(rollout.problem_id),
                verdict.result().correct if verdict else None,
                per_segment=per_segment,
            )
        except FunctionError as error:
            return OwnScores((None,) * width, (str(error),))
        missing = sum(score is None for score in scores)
        return OwnScores(scores, (f"{name} returned None",) * missing)

    def _score(self, i: int, graded: Graded | None) -> Scored:
        rollout, segments = self._rollouts[i]
        domain = self._problems[rollout.problem_id].domain
        treatment = self._treatments[domain]
        verdict, own = self._verdicts[i], self._own[i]
        verified = verdict.result() if verdict else None
        correct = verified.correct if verified else None
        overlong = self._is_overlong(rollout)
        grades: tuple[int | None, ...] = ()
        scores: tuple[float | None, ...] = ()
        reasons: tuple[str, ...] = ()
        verdicts: tuple[Verdict, ...] = ()
        if rollout.finish_reason == "failed":
            reasons = (UNKNOWN_TOKEN if i in self._unreadable else ENGINE_FAILED,)
        elif treatment.source == "none":
            pass
        elif i in self._uncut and not (overlong and not self._keeps_scores(treatment)):
            reasons = (self._uncut[i],)
        elif i in self._blank and treatment.judged and not overlong:
            # No judge failed: there is no solution, and no solution is worth the lowest score.
            width = len(segments) if treatment.per_segment else 1
            grades = (None,) * width
            scores = combine_scores(treatment, (0.0,) * width, correct)
        elif overlong and not self._keeps_scores(treatment):
            width = len(segments) if treatment.per_segment else 1
            grades, scores = (None,) * width, (0.0,) * width
        elif own:
            grades = (None,) * len(own.result().scores)
            scores = combine_scores(treatment, own.result().scores, correct)
            reasons = own.result().reasons
        else:
            verdicts = graded.verdicts if graded else ()
            grades = tuple(v.grade for v in verdicts)
            judged = correct_noise(treatment.noise, [v.score for v in verdicts])
            scores = combine_scores(treatment, judged, correct)
            reasons = tuple(v.error or v.status for v in verdicts if v.grade is None)
        if verified and correct is None and treatment.verified and None in scores:
            reasons = (*reasons, verified.reason)
        return Scored(
            rollout,
            segments,
            grades,
            scores,
            correct,
            masked=overlong and self._reward.overlong == "mask",
            rewarded=treatment.source != "none",
            domain=domain,
            per_segment=treatment.per_segment,
            reasons=reasons,
            statuses=tuple(v.status for v in verdicts) or (None,) * len(grades),
            ledger_keys=tuple(v.key for v in verdicts) or (None,) * len(grades),
            blank=i in self._blank and rollout.finish_reason != "failed",
            bridge=treatment.per_segment and self._reward.missing == "bridge",
            overlong=overlong and self._reward.overlong == "zero",
        )


def _done(value: T) -> Future[T]:
    """A future that holds its value."""
    future: Future[T] = Future()
    future.set_result(value)
    return future


def correct_noise(
    noise: config.Noise | None, scores: Sequence[float | None]
) -> tuple[float | None, ...]:
    """The judge's scores, corrected for how often it is wrong (reward.noise).

    Not for scores that are no judgement: 0 for a rollout that is too long, or that shows nothing.
    """
    if noise is None:
        return tuple(scores)
    return tuple(None if score is None else noise.correct(score) for score in scores)


def combine_scores(
    treatment: config.Treatment, judged: tuple[float | None, ...], correct: bool | None
) -> tuple[float | None, ...]:
    """The scores of a rollout, from the judge's and the verifier's word.

    One that is missing is not replaced by the other, unless it could not change the result: with
    `max`, a rollout that one of them gives 1 has 1 whatever the other says; with `weighted`, a part
    of weight 0 is not asked for.
    """
    verified = None if correct is None else float(correct)
    grade = judged[0] if judged else None
    match treatment.source:
        case "none":
            return ()
        case "judge" | FunctionName() if treatment.per_segment and treatment.last == "verifier":
            return (*judged[:-1], verified) if judged else ()
        case "judge" | FunctionName():
            return judged
        case "verifier":
            return (verified,)
        case "max":
            given = [score for score in (verified, grade) if score is not None]
            return (max(given) if len(given) == 2 or 1.0 in given else None,)
        case "weighted":
            weight = treatment.verifier_weight
            parts = [(weight, verified), (1.0 - weight, grade)]
            return (_weighted_sum([part for part in parts if part[0] > 0.0]),)


def _weighted_sum(parts: Sequence[tuple[float, float | None]]) -> float | None:
    """The sum of weight times score; None where a score is missing."""
    products = [weight * score for weight, score in parts if score is not None]
    return sum(products) if len(products) == len(parts) else None
