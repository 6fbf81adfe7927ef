"""What a training step learns from: its problems sampled, judged, and perhaps sampled again.

With rollout.ahead this runs on a thread of its step (exprl.rollout.ahead), while the trainer works
on an earlier one: it reads the run's parts, and changes none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from exprl import config
from exprl.data import mixture
from exprl.learn.advantages import segment_advantages, silent_groups
from exprl.learn.batch import rollout_examples, solution_examples
from exprl.reward.judges import Asks
from exprl.reward.scorer import Scorer
from exprl.reward.shuffle import shuffle_scores
from exprl.rollout.ahead import StepSampler
from exprl.rollout.engine import step_seed
from exprl.run.open import Parts
from exprl.types import Example, Float64Array, Problem, Scored

Show = Callable[[int, str, int, int], None]
"""Told of a step (from 0), a phase of it, and how many of how many rollouts are done."""


@dataclass(frozen=True, slots=True)
class StepData:
    """What a step learns from, and what it sampled for that; nothing is sampled for SFT.

    scored, advantages: all rollouts and their advantages; NaN for those of a replaced problem too.
    redrawn: how many further problems were sampled (rollout.redraw).
    """

    examples: list[Example]
    scored: list[Scored]
    advantages: list[Float64Array]
    redrawn: int = 0

    def row(self) -> dict[str, float]:
        """What redrawing had to do, as metrics."""
        if not any(s.rewarded for s in self.scored):
            return {}
        silent = silent_groups(self.scored, self.advantages)
        return {"reward/zero_variance_groups": len(silent), "rollout/redrawn": self.redrawn}


def gather_examples(cfg: config.Config, parts: Parts, sampler: StepSampler, show: Show) -> StepData:
    """What the step learns from, with the rollouts and advantages behind it where it samples."""
    # Problems and seeds are pure functions of (seed, step): a run that was killed here draws the
    # same problems again, and needs no saved generator.
    problems = mixture.draw_problems(
        parts.problems,
        mixture.source_weights(cfg.data.parts, parts.problems),
        cfg.rollout.problems_per_step,
        cfg.seed,
        sampler.step,
    )
    match cfg.loss.objective:
        case "cross_entropy":  # SFT: the references are the responses
            return StepData(solution_examples([parts.solutions[p.id] for p in problems]), [], [])
        case "policy_gradient" | "reverse_kl" | "sampled_reverse_kl":
            # R = problems x group_size rollouts; each has T grades of 1..5, which become scores
            # s_1..s_T in [0, 1]: one per step, or T = 1 with an outcome reward.
            scored = sample(cfg, parts, problems, sampler, show)
            scored, replaced = redraw(cfg, parts, problems, scored, sampler, show)
            # A_t per step, [T] a rollout: s_t - s_(t-1) with `delta`, s minus its group's mean with
            # `grpo`. A score that nobody gave is NaN and not 0, since 0 would teach that the step
            # is wrong; its step is joined to the next one, or its rollout is out of the loss.
            values = compute_advantages(cfg, scored)
            return StepData(
                rollout_examples(scored, values, parts.teacher_prompts),
                [*scored, *replaced],
                [*values, *(np.full(max(1, len(s.scores)), np.nan) for s in replaced)],
                len({s.rollout.problem_id for s in replaced}),
            )


def compute_advantages(cfg: config.Config, scored: Sequence[Scored]) -> list[Float64Array]:
    """The advantages of a step's rollouts, [T] each."""
    width = cfg.rollout.max_response_tokens
    return segment_advantages(scored, cfg.treatment, cfg.advantage, width)


def redraw(
    cfg: config.Config,
    parts: Parts,
    problems: Sequence[Problem],
    scored: list[Scored],
    sampler: StepSampler,
    show: Show,
) -> tuple[list[Scored], list[Scored]]:
    """Sample further problems in place of those that teach nothing, rollout.redraw at most.

    Which ones is a pure function of (seed, step) and of what teaches nothing, so that a resumed run
    draws them again.

    Returns:
        The rollouts to learn from, and those of the problems that were replaced.
    """
    taken, replaced = list(problems), list[Scored]()
    while room := cfg.rollout.redraw - (len(taken) - len(problems)):
        silent = silent_groups(scored, compute_advantages(cfg, scored))
        ids = {scored[group[0]].rollout.problem_id for group in silent}
        places = [p for p in taken if p.id in ids][:room]
        further = mixture.draw_further(parts.problems, taken, places, cfg.seed, sampler.step)
        if not further:
            break
        replaced += [s for s in scored if s.rollout.problem_id in further]
        kept = [s for s in scored if s.rollout.problem_id not in further]
        scored = kept + sample(cfg, parts, list(further.values()), sampler, show)
        taken += further.values()
    return scored, replaced


def sample(
    cfg: config.Config,
    parts: Parts,
    problems: Sequence[Problem],
    sampler: StepSampler,
    show: Show,
) -> list[Scored]:
    """Sample rollouts of the problems; each is graded while others are still being sampled."""
    judges: Asks | None = parts.judges
    if judges and parts.rubric_dropout:
        judges = parts.rubric_dropout.at_step(judges, parts.first_step + sampler.step)
    scorer = Scorer(
        problems,
        parts.references,
        parts.splitter,
        cfg.reward,
        cfg.treatment,
        judges,
        parts.verifiers,
    )
    sampler.on_cancel(scorer.cancel)
    total = len(problems) * cfg.rollout.group_size
    show(sampler.step, "sample", 0, total)
    try:
        # The engine is given prompts, which have no way to the references.
        rollouts = sampler.sample(
            [p.prompt for p in problems],
            cfg.rollout.group_size,
            step_seed(cfg.seed, sampler.step),
            cfg.rollout.temperature,
            cfg.rollout.max_response_tokens,
        )
        with closing(rollouts):
            for done, rollout in enumerate(rollouts, 1):
                scorer.push(rollout)
                show(sampler.step, "sample", done, total)
        with sampler.timed("judge"):
            scored = scorer.finish(lambda done, of: show(sampler.step, "judge", done, of))
        return shuffle_scores(scored, cfg.seed, sampler.step) if cfg.reward.shuffle else scored
    except BaseException:
        scorer.cancel()
        raise
