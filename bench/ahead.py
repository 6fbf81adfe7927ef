"""What sampling ahead costs in learning: the miniature with rollout.ahead = 0, 1 and 2.

    python bench/ahead.py                         # three arms, three seeds, 24 steps
    python bench/ahead.py --report-only

The miniature's ExpRL-Process run. All arms sample with one vLLM in a second process, so that they
differ by `ahead` alone; new weights reach rollouts that are being sampled. pass@1 is measured on
the held-out problems, and the lag of a token counts optimizer steps, two for each training step.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import _arms
import numpy as np

from exprl import train
from exprl.evaluate.during_training import read_evaluations
from exprl.monitor.progress import Progress
from exprl.rollout.engine import Engine
from exprl.run import checkpoint
from exprl.run.open import open_run

STEPS = 24
MARKS = (8, 16, 24)
"""Steps after which the policy is evaluated."""
COMMON = (f"train.steps={STEPS}", "eval.every=8", "eval.samples=16", "engine.kind=child")
ARMS = {f"ahead {ahead}": (f"rollout.ahead={ahead}",) for ahead in (0, 1, 2)}
LAGS = range(5)
COLUMNS = {
    "right": "reward/correct_rate",
    "reward": "reward/mean",
    "lag_mean": "lag/mean",
    **{f"lag_{lag}": f"lag/hist_{lag}" for lag in LAGS},
    "mixed_rate": "lag/mixed_rate",
    "capped": "policy/capped",
    "clip_fraction": "policy/clip_fraction",
    "kl": "policy/kl",
    "logp_gap": "sync/logp_gap",
    "probe_gap": "sync/probe_gap",
    "step_s": "time/step_s",
    "trainer_wait_s": "time/trainer_wait_s",
    "engine_idle_s": "time/engine_idle_s",
    "bubble": "bubble",
}


def is_done(run: _arms.Run) -> bool:
    """Whether the run has its last step and all its evaluations."""
    last = checkpoint.latest(run.folder)
    if last is None or checkpoint.load_state(last).step < STEPS:
        return False
    return {e.step for e in read_evaluations(run.folder)} >= set(MARKS)


def train_arm(run: _arms.Run, engine: Engine) -> None:
    """Train to the end, with the evaluations on the way."""
    cfg = run.settings()
    with Progress() as progress, open_run(cfg, engine) as (parts, state):
        if train.train(cfg, parts, state, progress).interrupted:
            raise SystemExit(130)


def row(run: _arms.Run) -> dict[str, Any]:
    """A run's row, with pass@1 at every mark and the shares of all its tokens by lag."""
    found = _arms.row(run, COLUMNS)
    found["pass_at_1"] = {str(e.step): round(e.at(1), 4) for e in read_evaluations(run.folder)}
    # The first steps of a run cannot be behind: they are left out of the shares.
    found["lag_shares"] = [round(float(np.mean(found[f"lag_{lag}"][4:])), 4) for lag in LAGS]
    return found


def table(found: Sequence[dict[str, Any]]) -> None:
    """pass@1 after 16 and 24 steps, each seed and their mean, and the lag."""
    for arm in ARMS:
        own = sorted((one for one in found if one["arm"] == arm), key=lambda one: one["seed"])
        if not own:
            continue
        shares = np.mean([one["lag_shares"] for one in own], axis=0)
        marks = {mark: [one["pass_at_1"][str(mark)] for one in own] for mark in MARKS}
        words = [
            f"after {mark}: {np.mean(values):.3f} ({', '.join(f'{v:.3f}' for v in values)})"
            for mark, values in marks.items()
        ]
        lags = "  ".join(f"{lag}: {share:.2f}" for lag, share in zip(LAGS, shares, strict=True))
        print(f"{arm}  pass@1 {'  '.join(words)}  lag {lags}")


def main() -> None:
    parser = _arms.make_parser(__doc__, "ahead", ARMS)
    options = parser.parse_args()
    os.chdir(_arms.REPOSITORY)
    arms = {arm: ARMS[arm] for arm in options.arms}
    runs = _arms.plan(arms, options.seeds, COMMON, options.out.resolve(), evaluated=True)
    left = [run for run in runs if not is_done(run)]
    if left and not options.report_only:
        engine = _arms.open_shared_engine([run.settings() for run in left])
        try:
            for run in left:
                print(f"== {run.arm}, seed {run.seed}", flush=True)
                train_arm(run, engine)
        finally:
            engine.close()
    done = [run for run in runs if is_done(run)]
    table(_arms.save("ahead", [_arms.about("ahead") | row(run) for run in done]))


if __name__ == "__main__":
    main()
