"""What a step has to show: its rollouts, grades and updates, as one flat row of metrics."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import get_args

import numpy as np

from exprl.judge import JudgeStats
from exprl.learn.batch import find_recent
from exprl.learn.loss import LossStats
from exprl.learn.policy import UpdateStats
from exprl.monitor import text_signs
from exprl.run.checkpoint import RunState
from exprl.steps import StepRule, split_text
from exprl.types import Example, Problem, Scored

PLACES = {"first": 0.0, "middle": 0.5, "last": 1.0}
"""Of a step in its rollout, from the first to the last one."""


def step_row(
    scored: Sequence[Scored],
    updates: Sequence[UpdateStats],
    problems: Sequence[Problem],
    references: Mapping[str, str | None],
    state: RunState,
    judged: JudgeStats | None,
    delimiter: str = "###",
) -> dict[str, float]:
    """The row of metrics.jsonl for a step, times excepted. NaN = there was nothing to measure.

    Args:
        references: the hidden ones by problem id, of those that this run knows.
        judged: what the dispatcher counted in this step; None where no judge is asked.
        delimiter: of reward.delimiter, for what other rules would make of rollouts of one step.
    """
    row = _updates(updates)
    if not scored:  # SFT
        return row
    row |= _rewards(scored) | _steps(scored, delimiter) | _rollouts(scored)
    if any(p.answer is not None for p in problems):
        row["reward/unsolved"] = 1.0 - len(state.solved) / len(problems)
    if judged is not None:
        row |= _judge(scored, judged)
    domains = {p.domain for p in problems}
    if len(domains) > 1:
        for domain in sorted(domains):
            row |= _domain(domain, scored, problems, state)
    return row | _texts(scored, problems, references)


def _domain(
    name: str, scored: Sequence[Scored], problems: Sequence[Problem], state: RunState
) -> dict[str, float]:
    """What a mixed run shows for each domain; NaN where the step has none of its rows."""
    own = [s for s in scored if s.domain == name]
    rewards = _rewards(own)
    known = [p for p in problems if p.domain == name and p.answer is not None]
    row = {
        f"rollouts/{name}": len(own),
        f"score/{name}": rewards["reward/mean"],
        f"missing/{name}": _mean([s.ungraded for s in own]),
    }
    if known:
        row[f"correct/{name}"] = rewards.get("reward/correct_rate", float("nan"))
        row[f"unsolved/{name}"] = 1.0 - sum(p.id in state.solved for p in known) / len(known)
    return row


def lag_row(
    examples: Sequence[Example], version: int, oldest_version: int | None = None
) -> dict[str, float]:
    """How many updates the policy is ahead of the tokens of the loss when their step is trained.

    Args:
        examples: of the step, those included that are too old; from an engine.
        version: of the policy before the step's first update.
        oldest_version: older tokens weigh nothing (rollout.max_lag).
    """
    versions = [e.versions for e in examples if e.versions is not None]
    lags = version - np.concatenate([np.empty(0, np.int32), *versions])
    old = [len(e.token_ids) - int(find_recent(e, oldest_version).sum()) for e in examples]
    return {
        "lag/mean": _mean(lags),
        "lag/max": float(lags.max()) if len(lags) else float("nan"),
        **{f"lag/hist_{lag}": _mean(lags.clip(max=4) == lag) for lag in range(5)},
        "lag/mixed_rate": _mean([v.min() != v.max() for v in versions]),
        "lag/masked": sum(old),
    }


def _rewards(scored: Sequence[Scored]) -> dict[str, float]:
    """A rollout's reward is the mean of its scores; the histogram counts the judge's grades."""
    given = [
        [0.0 if s.overlong else x for x in s.scores if x is not None]
        for s in scored
        if s.scores and not s.missing | s.masked
    ]
    rewards = np.array([s.reward for s in scored if s.reward is not None])
    verified = [s.correct for s in scored if s.correct is not None]
    grades = Counter(g for s in scored for g in s.grades if g is not None)
    row = {
        "reward/mean": _mean(rewards),
        "reward/std": float(rewards.std()) if len(rewards) else float("nan"),
        "reward/final": _mean([scores[-1] for scores in given]),
        "reward/excluded_rate": _mean([s.missing or s.masked for s in scored]),
    }
    if verified:
        row["reward/correct_rate"] = _mean(verified)
    if grades:
        row |= {f"reward/hist_{g}": grades[g] / grades.total() for g in range(1, 6)}
    return row


def _steps(scored: Sequence[Scored], delimiter: str) -> dict[str, float]:
    counts = [len(s.segments) for s in scored if s.segments]
    # Where some domains reward steps, only theirs can be too few.
    process = [len(s.segments) for s in scored if s.segments and s.per_segment]
    tokens = sum(len(s.rollout.token_ids) for s in scored if s.segments)
    row = {
        "steps/per_rollout": _mean(counts),
        "steps/per_1k_tokens": 1000.0 * sum(counts) / tokens if tokens else float("nan"),
        "steps/single_rate": _mean([n == 1 for n in process or counts]),
        **_grades_by_place(scored),
    }
    if process:
        single = [s.text for s in scored if len(s.segments) == 1 and s.per_segment]
        for rule in get_args(StepRule):
            cut = [len(split_text(text, rule, delimiter=delimiter)) > 1 for text in single]
            row[f"steps/single_cut_by_{rule}"] = _mean(cut)
    return row


def _grades_by_place(scored: Sequence[Scored]) -> dict[str, float]:
    """Mean grades along a rollout: of the same rollouts, so that only the place differs."""
    if not any(s.per_segment and s.grades for s in scored):
        return {}
    long = [s.grades for s in scored if s.per_segment and len(s.grades) >= len(PLACES)]

    def mean(place: float) -> float:
        found = [grades[round(place * (len(grades) - 1))] for grades in long]
        return _mean([grade for grade in found if grade is not None])

    return {f"steps/grade_{name}": mean(place) for name, place in PLACES.items()}


def _rollouts(scored: Sequence[Scored]) -> dict[str, float]:
    done = [s.rollout for s in scored if s.rollout.finish_reason != "failed"]
    lengths = np.array([len(rollout.token_ids) for rollout in done])
    return {
        "rollout/count": len(scored),
        "rollout/tokens": sum(len(s.rollout.token_ids) for s in scored),
        "rollout/length_mean": _mean(lengths),
        **{
            f"rollout/length_p{q}": float(np.percentile(lengths, q)) if len(lengths) else math.nan
            for q in (10, 50, 90)
        },
        "rollout/length_max": float(lengths.max()) if len(lengths) else math.nan,
        "rollout/overlong_rate": _mean([s.rollout.finish_reason == "length" for s in scored]),
        "rollout/blank_rate": _mean([s.blank for s in scored]),
        "rollout/failed_rate": _mean([s.rollout.finish_reason == "failed" for s in scored]),
    }


def _texts(
    scored: Sequence[Scored], problems: Sequence[Problem], references: Mapping[str, str | None]
) -> dict[str, float]:
    """What is copied from hidden references, and what speaks to the judge (text_signs.py)."""
    written = [s for s in scored if s.segments]
    wanted = {s.rollout.problem_id for s in written}
    hidden = {
        p.id: text_signs.Hidden(reference, p.question)
        for p in problems
        if p.id in wanted and (reference := references.get(p.id)) is not None
    }
    found = text_signs.find_signs(
        [s.text for s in written], [hidden.get(s.rollout.problem_id) for s in written]
    )
    counts = Counter(kind for one in found for kind in one.injections)
    return {
        "text/reference_overlap": _mean([x.overlap for x in found if not math.isnan(x.overlap)]),
        "text/injections": sum(bool(one.injections) for one in found),
        "text/injection_rate": _mean([bool(one.injections) for one in found]),
        **{f"text/injection_{kind}": counts[kind] for kind in text_signs.INJECTIONS},
    }


def _updates(updates: Sequence[UpdateStats]) -> dict[str, float]:
    total = LossStats()
    for update in updates:
        total.add(update.loss)
    tokens = total.tokens or float("nan")
    row = {
        "policy/loss": total.loss / len(updates) if updates else float("nan"),
        "policy/kl": total.kl / tokens,
        "policy/entropy": total.entropy / tokens,
        "policy/clip_fraction": total.clipped / tokens,
        "policy/capped": total.capped / tokens,
        "policy/teacher_gap": total.teacher_gap / tokens,
        "policy/ratio_max": total.ratio_max or float("nan"),
        "policy/bad_rows": total.bad_rows,
        "policy/updates": len(updates),
        "policy/skipped": sum(u.skipped for u in updates),
        "policy/grad_norm": _mean([u.grad_norm for u in updates]),
        "policy/lr": updates[-1].lr if updates else float("nan"),
    }
    row["sync/logp_gap"] = total.logp_gap / tokens
    return row


def _judge(scored: Sequence[Scored], stats: JudgeStats) -> dict[str, float]:
    return {
        "judge/missing_steps": sum(s.ungraded_steps for s in scored),
        "judge/bridged_steps": sum(s.bridged_steps for s in scored),
        "judge/missing": sum(s.ungraded for s in scored),
        "judge/missing_rate": _mean([s.ungraded for s in scored]),
        "judge/missing_length": _mean_length([s for s in scored if s.ungraded]),
        "judge/graded_length": _mean_length([s for s in scored if not s.missing]),
        "judge/requests": stats.requests_sent,
        "judge/cached": stats.from_ledger,
        "judge/retries": stats.retries,
        "judge/over_context": stats.over_context,
        # 0 seconds = no request was answered.
        "judge/latency_p50_s": stats.latency_p50_s or float("nan"),
        "judge/latency_p95_s": stats.latency_p95_s or float("nan"),
        "judge/reasks": stats.reasks,
        "judge/repaired_rate": _repaired_rate(stats),
        "judge/truncated": stats.truncated,
        "judge/readout_fallbacks": stats.readout_fallbacks,
        "judge/prompt_tokens": stats.prompt_tokens,
        "judge/completion_tokens": stats.completion_tokens,
    }


def _repaired_rate(stats: JudgeStats) -> float:
    graded = stats.statuses["ok"] + stats.repaired
    return stats.repaired / graded if graded else float("nan")


def _mean_length(scored: Sequence[Scored]) -> float:
    """Tokens of a rollout, those that the engine gave up left out."""
    done = [s.rollout for s in scored if s.rollout.finish_reason != "failed"]
    return _mean([len(rollout.token_ids) for rollout in done])


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


class Clock:
    """Seconds of each phase of a step."""

    def __init__(self, engine_seconds: Callable[[], float] = lambda: 0.0, engines: int = 1) -> None:
        """Start.

        Args:
            engine_seconds: in which the engine was sampling, since the beginning of the run.
            engines: how many of them sample at once; 0 where nothing is sampled.
        """
        self._start = self._mark = time.monotonic()
        self._engine_seconds = engine_seconds
        self._engine_start = engine_seconds()
        self._engines = engines
        self._seconds: dict[str, float] = {}

    def take(self, seconds: Mapping[str, float]) -> None:
        """Take over what has been measured by others up to now, by name."""
        self._seconds |= seconds
        self._mark = time.monotonic()

    def lap(self, name: str) -> None:
        """What has passed since the last call belongs to `name`."""
        now = time.monotonic()
        self._seconds[name] = now - self._mark
        self._mark = now

    def row(self) -> dict[str, float]:
        """The phases and the whole step as metrics, and the share of it in which nothing worked."""
        step = time.monotonic() - self._start
        sampling = self._engine_seconds() - self._engine_start
        busy = self._seconds.get("train", 0.0) + self._engines * sampling
        row = {f"time/{name}_s": value for name, value in self._seconds.items()}
        return row | {
            **({"time/engine_idle_s": max(0.0, step - sampling)} if self._engines else {}),
            "time/step_s": step,
            "bubble": max(0.0, 1.0 - busy / (1 + self._engines) / step),
        }
