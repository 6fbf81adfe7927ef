"""Problems with answers, sampled and verified."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from exprl import config
from exprl.errors import ConfigError
from exprl.evaluate import votes
from exprl.evaluate.pass_at_k import Evaluation, Outcome
from exprl.monitor.progress import Progress
from exprl.steps import Splitter
from exprl.types import Problem, Prompt, Rollout
from exprl.verify.verifiers import Verifiers


class Sampler(Protocol):
    """The one word of the engine that an evaluation needs."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int,
        seed: int,
        temperature: float,
        max_response_tokens: int,
        truncation: config.Truncation,
    ) -> Iterator[Rollout]:
        """Yield n rollouts of each prompt, in any order."""


class ReportingSampler:
    """An engine whose sampling shows on the terminal."""

    def __init__(self, engine: Sampler, progress: Progress) -> None:
        self._engine = engine
        self._progress = progress

    def sample(self, prompts: Any, n: int, *rest: Any) -> Any:
        """Sample as the engine does, and count the rollouts on the terminal."""
        total = len(prompts) * n
        self._progress.phase("evaluate", 0, total)
        for done, rollout in enumerate(self._engine.sample(prompts, n, *rest), 1):
            self._progress.phase("evaluate", done, total)
            yield rollout


def evaluate(
    engine: Sampler,
    problems: Sequence[Problem],
    settings: config.Evaluation,
    *,
    decode: Callable[[Rollout], str],
    max_response_tokens: int,
    seed: int,
    step: int,
    ks: Sequence[int],
    verifiers: Verifiers,
    keep: Callable[[Problem, Rollout, str, bool], object] | None = None,
) -> Evaluation:
    """Sample every problem and verify the answers.

    Args:
        problems: with answers (data.require_answers).
        decode: the text of a rollout.
        max_response_tokens: where settings.max_response_tokens leaves it open.
        seed: of the sampling.
        step: training steps behind the engine's weights.
        ks: k of the report, each at most settings.samples.
        verifiers: say which are right; where they cannot, the rollout does not count.
        keep: told of every rollout that counts, with its text and whether it is right.

    Raises:
        ConfigError: a k exceeds settings.samples.
    """
    for k in ks:
        if not 1 <= k <= settings.samples:
            raise ConfigError(
                f"pass@{k} needs eval.samples >= {max(k, 1)} and k >= 1, but eval.samples ="
                f" {settings.samples}"
            )
    by_id = {problem.id: problem for problem in problems}
    unanswered = next((p.id for p in problems if p.answer is None), None)
    if unanswered is not None:
        raise ConfigError(f"problem {unanswered!r} has no answer to evaluate against")
    tallies = {problem.id: _Tally() for problem in problems}
    with ThreadPoolExecutor(verifiers.workers, thread_name_prefix="verify") as threads:
        taken: list[tuple[Rollout, str, Future[bool | None] | None]] = []
        for rollout in engine.sample(
            [problem.prompt for problem in problems],
            settings.samples,
            seed,
            settings.temperature,
            settings.max_response_tokens or max_response_tokens,
            settings.truncation,
        ):
            if rollout.finish_reason == "failed":
                continue
            text, verified = decode(rollout), None
            if rollout.finish_reason == "stop":
                verified = threads.submit(verifiers.is_correct, text, by_id[rollout.problem_id])
            taken.append((rollout, text, verified))
    for rollout, text, verified in taken:
        problem = by_id[rollout.problem_id]
        right = verified.result() if verified else False
        if right is None:
            continue
        vote = verifiers.find_answer(text, problem.domain)
        tallies[problem.id].add(right, rollout.finish_reason == "length", vote)
        if keep is not None:
            keep(problem, rollout, text, right)
    return Evaluation(
        step=step,
        seed=seed,
        samples=settings.samples,
        temperature=settings.temperature,
        ks=tuple(ks),
        outcomes=tuple(
            tallies[problem.id].outcome(problem, verifiers.kind(problem.domain))
            for problem in problems
        ),
        verify=verifiers.describe_search(problems),
    )


@dataclass(slots=True)
class _Tally:
    """Counts of one problem's samples, and its wrong answers."""

    n: int = 0
    right: int = 0
    overlong: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, right: bool, overlong: bool, vote: str | None) -> None:
        self.n += 1
        self.right += right
        self.overlong += overlong
        if not right and not overlong and vote is not None:
            self.wrong.append(vote)

    def outcome(
        self, problem: Problem, verifier: config.VerifierName | config.FunctionName
    ) -> Outcome:
        wrong = votes.count_votes(self.wrong, verifier)
        return Outcome(problem.id, self.n, self.right, self.overlong, wrong, problem.domain)


def decode_rollout(splitter: Splitter, rollout: Rollout) -> str:
    """The text of a rollout, as judge and verifier see it."""
    return splitter.decode(rollout.token_ids, rollout.opening)
