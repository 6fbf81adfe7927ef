"""The runs of a pilot: each arm with each seed, through the trainer, until the verdict stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exprl import config, train
from exprl.data.tokenizer import load_tokenizer
from exprl.evaluate.during_training import append_evaluation, read_evaluations
from exprl.evaluate.pass_at_k import Evaluation
from exprl.monitor.progress import Progress
from exprl.rollout.engine import Engine, open_engine
from exprl.run.open import open_run
from exprl.run.policy import set_threads
from exprl.study.prove.arms import ARMS, Arm, arm_config
from exprl.study.prove.effect import Effect, estimate_effect
from exprl.study.prove.plan import Plan
from exprl.study.prove.verdict import CONTROLS, LEAST_SEEDS, Verdict, decide
from exprl.types import Float64Array

RUNS = "runs"
"""Folder of the runs, in that of the pilot."""


@dataclass(frozen=True, slots=True)
class ArmRun:
    """A finished run of one arm with one seed: held-out pass@k before and after."""

    arm: Arm
    seed: int
    run_dir: Path
    before: Evaluation
    after: Evaluation


@dataclass(frozen=True, slots=True)
class Pilot:
    """What has been run of a pilot.

    seeds: those of which every arm is finished, in the plan's order.
    """

    runs: Sequence[ArmRun]
    seeds: Sequence[int]

    def of(self, arm: Arm) -> list[ArmRun]:
        """The finished runs of an arm, of the seeds that count."""
        return [run for run in self.runs if run.arm == arm and run.seed in self.seeds]


def run_pilot(plan: Plan, base: config.Config, folder: Path, tell: Callable[[str], object]) -> bool:
    """Train what is not done, until the stopping rule holds.

    Returns:
        Whether it came to its end; False after Ctrl-C, which saves the step.
    """
    nothing: AbstractContextManager[Engine | None] = nullcontext(None)
    with nothing if _is_done(plan, base, folder) else _shared_engine(base) as engine:
        for seed in plan.seeds:
            for arm in ARMS:
                cfg = arm_config(base, arm, seed, name_run(folder, arm, seed))
                if read_run(cfg, arm, seed) is None:
                    tell(f"arm {arm}, seed {seed}")
                    _share_start(cfg, folder, seed)
                    if not _train(cfg, engine):
                        return False
            pilot = read_pilot(plan, base, folder)
            if (verdict := conclude(plan, pilot)) and verdict.answer != "cannot tell":
                tell(f"stops after {len(pilot.seeds)} of {len(plan.seeds)} seeds: {verdict.answer}")
                break
    return True


def conclude(plan: Plan, pilot: Pilot) -> Verdict | None:
    """The verdict over the finished seeds; None before the first one is finished."""
    if not pilot.seeds:
        return None
    return decide(find_effects(plan, pilot), plan.least_effect)


def find_effects(plan: Plan, pilot: Pilot) -> list[Effect]:
    """What `right` gains over each control."""
    measured: dict[str, Float64Array] = {
        arm: _values([run.after for run in pilot.of(arm)], plan.held_out) for arm in ARMS
    }
    measured["before"] = _values([run.before for run in pilot.of("right")], plan.held_out)
    return [
        estimate_effect(control, measured["right"], measured[control], plan.level)
        for control in CONTROLS
    ]


def read_pilot(plan: Plan, base: config.Config, folder: Path) -> Pilot:
    """The finished runs; a seed counts if the stopping rule had not held before it."""
    runs = []
    for seed in plan.seeds:
        for arm in ARMS:
            cfg = arm_config(base, arm, seed, name_run(folder, arm, seed))
            if (run := read_run(cfg, arm, seed)) is not None:
                runs.append(run)
    done = {(run.arm, run.seed) for run in runs}
    whole: list[int] = []
    for seed in plan.seeds:
        if any((arm, seed) not in done for arm in ARMS):
            break
        whole.append(seed)
        verdict = conclude(plan, Pilot(runs, whole))
        if len(whole) >= LEAST_SEEDS and verdict and verdict.answer != "cannot tell":
            break
    return Pilot(runs, whole)


def name_run(folder: Path, arm: Arm, seed: int) -> Path:
    """The folder of a run."""
    return folder / f"{arm}-seed{seed}"


def read_run(cfg: config.Config, arm: Arm, seed: int) -> ArmRun | None:
    """A run with both evaluations; None where it is not finished."""
    run_dir = Path(cfg.run_dir)
    found = {one.step: one for one in read_evaluations(run_dir)}
    if not {0, cfg.train.steps} <= found.keys():
        return None
    return ArmRun(arm, seed, run_dir, found[0], found[cfg.train.steps])


def _is_done(plan: Plan, base: config.Config, folder: Path) -> bool:
    pilot = read_pilot(plan, base, folder)
    verdict = conclude(plan, pilot)
    return len(pilot.seeds) == len(plan.seeds) or bool(verdict and verdict.answer != "cannot tell")


def _shared_engine(base: config.Config) -> AbstractContextManager[Engine | None]:
    """One engine for all runs where it lives on this machine; servers are opened by each run."""
    if base.engine.kind == "servers":
        return nullcontext(None)
    set_threads(base.train.torch_threads)
    return closing(
        open_engine(
            base.model,
            base.rollout,
            tokenizer=load_tokenizer(base.model),
            weights=base.model.path,
            beside=base.engine.kind == "child",
        )
    )


def _share_start(cfg: config.Config, folder: Path, seed: int) -> None:
    """Give a run the evaluation of the start, which is the same for all arms of a seed."""
    run_dir = Path(cfg.run_dir)
    if read_evaluations(run_dir):
        return
    for arm in ARMS:
        known = read_evaluations(name_run(folder, arm, seed))
        if known and known[0].step == 0:
            run_dir.mkdir(parents=True, exist_ok=True)
            append_evaluation(run_dir, known[0])
            return


def _train(cfg: config.Config, engine: Engine | None) -> bool:
    with Progress() as progress, open_run(cfg, engine, progress.note) as (parts, state):
        progress.start(state.step, cfg.train.steps)
        return not train.train(cfg, parts, state, progress).interrupted


def _values(evaluations: Sequence[Evaluation], problems: Sequence[str]) -> Float64Array:
    """[S, P]: pass@1 of each problem; NaN where it was not measured, or no sample counts."""
    rows = []
    for evaluation in evaluations:
        rates: Mapping[str, float] = {
            one.problem_id: one.c / one.n for one in evaluation.outcomes if one.n
        }
        rows.append([rates.get(problem, np.nan) for problem in problems])
    return np.array(rows, dtype=np.float64)
