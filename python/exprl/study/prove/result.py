"""What a pilot found, for the page, the terminal and prove.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from exprl import config
from exprl.monitor.metrics_log import read_metrics
from exprl.run.starts import read_starts
from exprl.study.prove.arms import ARMS, SAYS, Arm, arm_config
from exprl.study.prove.cost import Cost, count_cost
from exprl.study.prove.pilot import RUNS, ArmRun, Pilot, conclude, read_pilot
from exprl.study.prove.plan import Plan, hash_plan, read_plan
from exprl.study.prove.verdict import Verdict


@dataclass(frozen=True, slots=True)
class ArmResult:
    """What an arm shows over its seeds.

    before, after: held-out pass@1 of each seed.
    solved, reward: of each training step, mean over the seeds; NaN where there is no such number.
    missing: share of the training rollouts without a grade.
    alarms: name -> how many runs told it.
    """

    arm: Arm
    says: str
    before: tuple[float, ...]
    after: tuple[float, ...]
    solved: tuple[float, ...]
    reward: tuple[float, ...]
    missing: float
    alarms: Mapping[str, int]
    cost: Cost


@dataclass(frozen=True, slots=True)
class Result:
    """A pilot at its end.

    seeds: those that count, of the plan's.   planned: when the plan was written, UTC.
    started: seconds since the epoch of the first run's start.
    """

    plan: Plan
    digest: str
    planned: str
    started: float
    seeds: tuple[int, ...]
    verdict: Verdict
    arms: tuple[ArmResult, ...]
    cost: Cost

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values; a number that does not exist is null."""
        tree: dict[str, Any] = {
            "verdict": self.verdict.answer,
            "reasons": list(self.verdict.reasons),
            "effects": [asdict(effect) for effect in self.verdict.effects],
            "seeds": list(self.seeds),
            "arms": {arm.arm: asdict(arm) for arm in self.arms},
            "cost": asdict(self.cost),
            "plan": self.plan.to_json(),
            "plan_sha256": self.digest,
            "plan_written": self.planned,
            "first_run_started": self.started,
        }
        return _plain(tree)  # type: ignore[no-any-return]


def read_result(plan: Plan, base: config.Config, folder: Path) -> Result | None:
    """The result over the finished seeds; None before the first one is finished."""
    pilot = read_pilot(plan, base, folder / RUNS)
    verdict = conclude(plan, pilot)
    if verdict is None:
        return None
    arms = tuple(_summarize(base, pilot, arm, plan) for arm in ARMS)
    starts = [start["time_s"] for run in pilot.runs for start in read_starts(run.run_dir)[:1]]
    return Result(
        plan=plan,
        digest=hash_plan(folder),
        planned=read_plan(folder)["written"],
        started=min(starts),
        seeds=tuple(pilot.seeds),
        verdict=verdict,
        arms=arms,
        cost=reduce(Cost.plus, (arm.cost for arm in arms)),
    )


def _summarize(base: config.Config, pilot: Pilot, arm: Arm, plan: Plan) -> ArmResult:
    runs = pilot.of(arm)
    rows = [read_metrics(run.run_dir) for run in runs]
    alarms: dict[str, int] = {}
    for own in rows:
        told = {key for row in own for key, value in row.items() if key[:6] == "alarm/" and value}
        for name in sorted(told):
            alarms[name[6:]] = alarms.get(name[6:], 0) + 1
    rollouts = sum(row.get("rollout/count") or 0.0 for own in rows for row in own)
    missing = sum(row.get("judge/missing") or 0.0 for own in rows for row in own)
    return ArmResult(
        arm=arm,
        says=SAYS[arm],
        before=tuple(run.before.at(1) for run in runs),
        after=tuple(run.after.at(1) for run in runs),
        solved=_curve(rows, "reward/correct_rate"),
        reward=_curve(rows, "reward/mean"),
        missing=missing / rollouts if rollouts else float("nan"),
        alarms=alarms,
        cost=reduce(Cost.plus, (_count(base, run, plan) for run in runs)),
    )


def _count(base: config.Config, run: ArmRun, plan: Plan) -> Cost:
    """What a run took; the start was sampled in the first arm only."""
    cfg = arm_config(base, run.arm, run.seed, run.run_dir)
    evaluations = 2 if run.arm == ARMS[0] else 1
    return count_cost(cfg, run.run_dir, evaluations * len(plan.held_out) * plan.samples)


def _curve(rows: Sequence[Sequence[Mapping[str, Any]]], name: str) -> tuple[float, ...]:
    """A metric step by step, mean over the runs that have it."""
    values = np.array([[_number(row.get(name)) for row in own] for own in rows])
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means = np.where(known, values, 0.0).sum(axis=0) / known.sum(axis=0)
    return tuple(means.tolist())


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _plain(value: Any) -> Any:
    """Values that JSON has: null for NaN, lists for tuples."""
    match value:
        case dict():
            return {key: _plain(below) for key, below in value.items()}
        case list() | tuple():
            return [_plain(below) for below in value]
        case float():
            return value if np.isfinite(value) else None
        case _:
            return value
