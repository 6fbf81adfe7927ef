"""A request, to what differs: the rollouts are read, scored again, and laid side by side."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from exprl import config
from exprl.errors import ConfigError
from exprl.judge import Forecast
from exprl.learn.advantages import segment_advantages, silent_groups
from exprl.monitor.rollout_reader import Rollouts
from exprl.reward.missing import Reason, commonest_reason
from exprl.study import targets
from exprl.study.whatif.changes import Changes, read_changes, treatment_changes
from exprl.study.whatif.differences import (
    Counts,
    Differences,
    ProblemDifference,
    RolloutDifference,
    flipped_share,
    lay_side_by_side,
)
from exprl.study.whatif.recorded import (
    Recorded,
    RecordedStep,
    draw_groups,
    list_groups,
    parse_steps,
    read_step,
)
from exprl.study.whatif.rescore import (
    Materials,
    open_materials,
    open_preview,
    open_real_judges,
    score_steps,
)
from exprl.types import Int64Array, Scored

BATCH_KINDS = ("reinforce", "batch")
"""Kinds that compare a score with all rollouts of the step."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Request:
    """What to look at, and under which settings.

    run: folder of the run.
    overrides: settings that replace the run's, such as "advantage.kind=end".
    steps: such as "12" or "1-10"; None takes all that the run has.
    sample: about so many rollouts, as whole groups drawn at random; None takes all.
    seed: of the draw.
    """

    run: str | Path
    overrides: Sequence[str] = ()
    steps: str | None = None
    sample: int | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class WhatIf:
    """The rollouts of a run under its own settings and under others.

    settings: dotted keys that differ, with both values.
    treatments: by domain, what differs in how its rows are rewarded.
    steps: the training steps that were looked at.
    forecast: what the judge was asked; requests of 0 cost nothing.
    rollouts: every one that was looked at, groups together.
    replaced: groups that the run replaced (rollout.redraw) and did not learn from; they are not
        among the rollouts.
    replaced_teach: of these, groups that would not have been replaced.
    reason: the commonest reason of missing grades under the new settings; None where none is.
    """

    run: Path
    settings: Mapping[str, tuple[Any, Any]]
    treatments: Mapping[str, Mapping[str, tuple[Any, Any]]]
    steps: Sequence[int]
    forecast: Forecast
    counts: Counts
    rollouts: Sequence[RolloutDifference]
    problems: Sequence[ProblemDifference]
    transitions: Int64Array
    token_correlation: float
    rollout_correlation: float
    replaced: int
    replaced_teach: int
    reason: Reason | None

    @cached_property
    def flipped(self) -> float:
        """Share of the tokens trained on in both whose advantage changes from + to - or back."""
        return flipped_share(self.transitions)

    def to_json(self) -> dict[str, Any]:
        """Everything but the single rollouts, as plain JSON values; NaN is null."""
        from exprl.study.whatif.output import to_json

        return to_json(self)


def refuse(forecast: Forecast) -> bool:
    """Send nothing.

    Raises:
        ConfigError: says what would be sent.
    """
    raise ConfigError(
        f"{forecast.requests} requests to the judge are needed, of about"
        f" {forecast.prompt_tokens} prompt tokens; agree to that with agree=lambda forecast: True"
    )


def what_if(
    request: Request,
    agree: Callable[[Forecast], bool] = refuse,
    progress: Progress = lambda done, of: None,
) -> WhatIf | None:
    """Score the rollouts of a run under other settings, and compare.

    Args:
        agree: is told what must be asked, and whether to go on; not called where everything is
            known. By default, nothing may be sent.
        progress: told how many of how many rollouts of a step the judge has graded.

    Returns:
        None where `agree` did not.

    Raises:
        ConfigError: a setting cannot be used, or the judge's rubric or servers.
        DataError: the run has no rollouts, an older exprl wrote them, or its data has changed.
        JudgeError: the ledger is in use, because the run is still training.
    """
    run_dir = Path(request.run)
    if not targets.is_run(run_dir):
        raise ConfigError(f"{run_dir} is no run folder: it holds no config.toml")
    rollouts = Rollouts(run_dir)
    steps = parse_steps(request.steps, rollouts)
    groups = list_groups(rollouts, steps)
    changes = read_changes(run_dir, request.overrides, {domain for _, _, domain, _ in groups})
    chosen: Mapping[int, Collection[str]] | None = None
    if request.sample is not None:
        _refuse_sample(changes)
        chosen = draw_groups(groups, request.sample, request.seed)
        steps = sorted(chosen)

    def read() -> Iterator[RecordedStep]:
        for step in steps:
            yield read_step(rollouts, step, changes, chosen[step] if chosen else None)

    with open_materials(changes) as materials:
        with open_preview(changes, run_dir) as preview:
            summary = _sum_up(read(), changes, materials, preview)
            forecast = preview.forecast()
        if preview.rollouts:
            if forecast.requests and not agree(forecast):
                return None
            with open_real_judges(changes, run_dir, forecast) as judges:
                summary = _sum_up(read(), changes, materials, judges, progress)
    return summary.result(run_dir, changes, steps, forecast)


def _refuse_sample(changes: Changes) -> None:
    for domain in changes.domains:
        kind = changes.after.treatment(domain).advantage
        if kind in BATCH_KINDS:
            raise ConfigError(
                f"--sample draws groups, and advantage.kind = {kind!r} compares a rollout with all"
                " of its step; leave --sample out, and choose whole steps with --steps"
            )


@dataclass
class _Summary:
    """What is kept of the steps."""

    differences: Differences
    reasons: list[Scored]
    replaced: int = 0
    replaced_teach: int = 0

    def result(
        self, run_dir: Path, changes: Changes, steps: Sequence[int], forecast: Forecast
    ) -> WhatIf:
        found = self.differences
        return WhatIf(
            run=run_dir,
            settings=changes.settings,
            treatments=treatment_changes(changes),
            steps=steps,
            forecast=forecast,
            counts=found.count(),
            rollouts=found.rollouts,
            problems=found.problems(),
            transitions=found.transitions(),
            token_correlation=found.token_correlation(),
            rollout_correlation=found.rollout_correlation(),
            replaced=self.replaced,
            replaced_teach=self.replaced_teach,
            reason=commonest_reason(self.reasons),
        )


def _sum_up(
    steps: Iterable[RecordedStep],
    changes: Changes,
    materials: Materials,
    judges: Any,
    progress: Progress = lambda done, of: None,
) -> _Summary:
    """Score the steps, and lay each rollout beside what the run made of it."""
    summary = _Summary(Differences(), [])
    for step, scored in score_steps(steps, changes, materials, judges, progress):
        replaced = _replaced(step)
        pairs = list(zip(step.rollouts, scored, strict=True))
        learned = [p for p in pairs if p[1].rollout.problem_id not in replaced]
        others = [p for p in pairs if p[1].rollout.problem_id in replaced]
        summary.differences.add(_compare(step.step, learned, changes.after))
        summary.replaced += len(replaced)
        summary.replaced_teach += len(replaced) - _count_silent(others, changes.after)
        summary.reasons += [s for s in scored if s.reasons]
    return summary


def _compare(
    step: int, pairs: Sequence[tuple[Recorded, Scored]], cfg: config.Config
) -> list[RolloutDifference]:
    width = cfg.rollout.max_response_tokens
    values = segment_advantages([s for _, s in pairs], cfg.treatment, cfg.advantage, width)
    return [
        lay_side_by_side(step, was.row, was.length, was.scored, was.advantages, scored, after)
        for (was, scored), after in zip(pairs, values, strict=True)
    ]


def _replaced(step: RecordedStep) -> set[str]:
    """Problems that the run replaced by others: their rollouts have scores, and no advantages."""
    return {
        one.scored.rollout.problem_id
        for one in step.rollouts
        if not (one.scored.missing or one.scored.masked) and np.isnan(one.advantages).any()
    }


def _count_silent(pairs: Sequence[tuple[Recorded, Scored]], cfg: config.Config) -> int:
    """Of the groups that the run replaced, those that would be replaced again."""
    if not pairs:
        return 0
    scored = [s for _, s in pairs]
    width = cfg.rollout.max_response_tokens
    return len(
        silent_groups(scored, segment_advantages(scored, cfg.treatment, cfg.advantage, width))
    )
