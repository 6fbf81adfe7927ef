"""A run of three steps, logged to all trackers with one resume: `tracked_run.py RUN`.

Prints what trackio kept, as JSON. It runs in a process of its own, since W&B and trackio read the
environment when they are loaded.
"""

import json
import sys
from pathlib import Path

import numpy as np
import trackio

from exprl import config
from exprl.monitor.metrics_log import MetricsLog
from exprl.types import Message, Problem, Prompt, Rollout, Scored, Segment

HOSTILE = "<script>alert(1)</script> ![x](http://127.0.0.1:9/x.png) | a\n\n# b \u202e"
SETTINGS = {"optim.lr": 1e-6, "train.steps": 3, "init_from": None, "domains": {}, "seed": 7}
ASKED = config.Logging(tensorboard=True, wandb_project="p", trackio_project="p", samples=2)
PROBLEMS = [
    Problem(f"p{i}", Prompt(f"p{i}", (Message("user", f"What is {i} + 1?"),)), f"{i + 1}", "math")
    for i in range(3)
]


def rollout(problem: str, index: int, text: str) -> Scored:
    ids, logp = np.zeros(2, np.int32), np.zeros(2, np.float32)
    one = Rollout(problem, index, ids, ids, logp, "stop", np.zeros(2, np.int32))
    steps = (Segment(0, 1, "first "), Segment(1, 2, text))
    return Scored(one, steps, (5, None), (1.0, None), correct=index == 0, domain="math")


def log_step(log: MetricsLog, step: int) -> None:
    log.write(step, {"reward/mean": step / 4, "policy/kl": float("nan")})
    scored = [rollout(f"p{i}", index, HOSTILE) for i in range(3) for index in range(2)]
    log.write_samples(step, scored, [np.array([0.5, np.nan])] * 6, PROBLEMS)


def main(run_dir: Path) -> None:
    with MetricsLog(run_dir, ASKED, 1, SETTINGS) as log:
        log.write_evaluation(0, {"eval/pass_at_1": 0.25})
        log_step(log, 1)
        log_step(log, 2)
    page = run_dir / "report.html"
    page.write_text("<!doctype html><title>with a reference</title>")
    with MetricsLog(run_dir, ASKED, 3, {**SETTINGS, "train.steps": 5}, evaluated={0}) as log:
        log.write_evaluation(0, {"eval/pass_at_1": 0.25})
        log_step(log, 3)
        log.write_evaluation(3, {"eval/pass_at_1": 0.75})
        log.add_report(page)
    quiet = ASKED.model_copy(update={"samples": 0, "trackio_project": None})
    with MetricsLog(run_dir.with_name("quiet"), quiet, 1, SETTINGS) as log:
        log_step(log, 1)
        log.add_report(page)
    storage = trackio.SQLiteStorage
    runs = storage.get_runs("p")
    print(json.dumps({"runs": runs, "config": storage.get_run_config("p", runs[0])}))
    print(json.dumps(storage.get_logs("p", runs[0]), default=str))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
