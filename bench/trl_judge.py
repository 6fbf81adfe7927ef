"""TRL's GRPOTrainer with exprl's judge beside exprl itself, on the miniature: what each learns.

    python bench/trl_judge.py            20 minutes on two quiet cores

Both train the shipped base policy on the same 16 problems: steps of 16 problems x 16 rollouts, two
optimizer steps each, at most 96 tokens, temperature 1, clip 0.2 and 0.28, KL 0.001, AdamW at 3e-4,
fp32 on one thread. Both sample by transformers' `generate`, ask the same rule judge, and are
measured by `exprl eval` on 32 other problems. The seconds are those of training; on a busy machine
only the CPU seconds, of the trainer's process, can be compared.

Judges: one that grades everything; one that never grades 20 % of the contents; one that answers
every request with 500; one that is not there. Both trainers stop where more than half of a step's
rollouts have no grade.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from _row import Row, append

REPOSITORY = Path(__file__).parents[1]
DIVISION = REPOSITORY / "examples" / "division"
PROBLEMS, GROUP, MINI_BATCHES, RATE = 16, 16, 2, 3e-4
MAX_MISSING_RATE = 0.5
"""Above the default, which a judge without a fifth of the grades comes close to by chance."""
TRAINERS = ("exprl, outcome", "TRL, outcome", "exprl, steps", "TRL, steps")
JUDGES = ("good", "20 % without a grade", "500", "not there")


class BrokenServer(BaseHTTPRequestHandler):
    """Answers 500, and counts."""

    requests = 0

    def do_POST(self) -> None:
        """Read the request and refuse it."""
        type(self).requests += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_error(500)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serve(judge: str) -> Iterator[tuple[str, Any]]:
    """The URL of a judge, and a function that counts the requests that it got."""
    from exprl.judge import RuleJudge

    if judge in JUDGES[:2]:
        with RuleJudge("division", no_grade_rate=0.0 if judge == "good" else 0.2) as server:
            yield server.url, lambda: server.stats()["requests"]
        return
    BrokenServer.requests = 0
    broken = ThreadingHTTPServer(("127.0.0.1", 0), BrokenServer)
    url = f"http://127.0.0.1:{broken.server_port}/v1"
    if judge == "not there":
        broken.server_close()
        yield url, lambda: None
        return
    threading.Thread(target=broken.serve_forever, daemon=True).start()
    try:
        yield url, lambda: BrokenServer.requests
    finally:
        broken.shutdown()
        broken.server_close()


def times() -> dict[str, float]:
    """The clocks of training, now."""
    return {"seconds": time.perf_counter(), "cpu_s": time.process_time()}


def since(start: dict[str, float]) -> dict[str, float]:
    """What has passed on each clock."""
    return {name: now - start[name] for name, now in times().items()}


def run_exprl(view: str, url: str, folder: Path, steps: int, seed: int) -> dict[str, Any]:
    """Train with exprl's loop; the policy is the run folder's last checkpoint."""
    import transformers  # noqa: F401  (imports are no part of the seconds)

    from exprl import load_config
    from exprl.errors import ExprlError
    from exprl.monitor.metrics_log import read_metrics
    from exprl.train import run_training

    start = times()
    name = "outcome" if view == "outcome" else "process"
    overrides = [
        f"run_dir={folder}",
        f"model.path={DIVISION / 'base'}",
        f"data.path={DIVISION / 'train.jsonl'}",
        "eval.data=none",
        "rollout.engine=transformers",
        "judge.kind=server",
        f"judge.endpoints=['{url}']",
        "judge.model=rules-division",
        f"judge.max_missing_rate={MAX_MISSING_RATE}",
        "reward.overlong=none",  # TRL's judge grades what was cut, too
        f"optim.lr={RATE}",
        f"train.steps={steps}",
        f"seed={seed}",
    ]
    ended = "finished"
    try:
        run_training(
            load_config(REPOSITORY / f"configs/division_{name}.toml", overrides),
            show_progress=False,
        )
    except ExprlError as error:
        ended = str(error)
    seconds = since(start)
    rows = read_metrics(folder) if (folder / "metrics.jsonl").exists() else []
    missing = [row["judge/missing_rate"] for row in rows]
    return {"ended": ended, "steps": len(rows), "missing": missing, **seconds}


def run_trl(view: str, url: str, folder: Path, steps: int, seed: int) -> dict[str, Any]:
    """Train with TRL's loop; it is given exprl's judge, and for steps exprl's advantages."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from exprl.errors import ExprlError
    from exprl.integrations.trl import JudgeReward
    from exprl.integrations.trl_steps import StepReward, StepTrainer
    from exprl.judge import JudgeSettings

    start = times()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(DIVISION / "base")
    lines = (DIVISION / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    data = [{**row, "prompt": f"{tokenizer.bos_token}{row['problem']}"} for row in rows]
    settings = GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=PROBLEMS * GROUP // MINI_BATCHES,
        gradient_accumulation_steps=1,
        steps_per_generation=MINI_BATCHES,
        num_generations=GROUP,
        max_completion_length=96,
        temperature=1.0,
        beta=0.001,
        epsilon=0.2,
        epsilon_high=0.28,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        max_steps=steps * MINI_BATCHES,
        save_strategy="no",
        logging_steps=MINI_BATCHES,
        report_to=[],
        disable_tqdm=True,
        seed=seed,
    )
    kind, reward = (GRPOTrainer, JudgeReward) if view == "outcome" else (StepTrainer, StepReward)
    trainer = kind(
        AutoModelForCausalLM.from_pretrained(DIVISION / "base", dtype=torch.float32),
        reward(
            JudgeSettings((url,), "rules-division", view=view), max_missing_rate=MAX_MISSING_RATE
        ),
        args=settings,
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
    )
    ended = "finished"
    try:
        trainer.train()
    except ExprlError as error:
        ended = str(error)
    seconds = since(start)
    trainer.save_model(str(folder))
    log = trainer.state.log_history
    missing = [entry["judge/missing_rate"] for entry in log if "judge/missing_rate" in entry]
    return {"ended": ended, "steps": len(missing), "missing": missing, **seconds}


def train(trainer: str, url: str, folder: Path, steps: int, seed: int) -> None:
    """The work of a child: train, and print what became of it."""
    name, _, reward = trainer.partition(", ")
    view = "outcome" if reward == "outcome" else "prefix"
    run = run_exprl if name == "exprl" else run_trl
    print(json.dumps(run(view, url, folder, steps, seed)), flush=True)


def measure(folder: Path) -> dict[str, Any]:
    """pass@1 of a run folder or a model on the held-out problems, by `exprl eval`."""
    out = folder.parent / f"{folder.name}.json"
    command = [sys.executable, "-m", "exprl", "eval", str(folder), "-n", "16", "-k", "1"]
    command += ["--data", str(DIVISION / "test.jsonl"), "--out", str(out)]
    if not (folder / "config.toml").exists():
        command += ["--config", str(REPOSITORY / "configs/division_outcome.toml")]
        command += ["--set", "rollout.engine=transformers"]
    subprocess.run(command, check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    [evaluation] = json.loads(out.read_text(encoding="utf-8"))["evaluations"]
    return {name: evaluation["pass_at"]["1"][name] for name in ("value", "low", "high")}


def compare(trainer: str, judge: str, steps: int, seed: int, folder: Path) -> Row:
    """One trainer with one judge, in a process of its own."""
    with serve(judge) as (url, count):
        arguments = ["--child", trainer, url, str(folder), "--steps", str(steps)]
        done = subprocess.run(
            [sys.executable, __file__, *arguments, "--seed", str(seed)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )
        requests = count()
    outcome = json.loads(done.stdout.splitlines()[-1])
    finished = outcome["ended"] == "finished"
    extra = {"judge": judge, "seed": seed, "requests": requests, **outcome}
    extra["pass_at_1"] = measure(folder) if finished else None
    return Row(trainer, [outcome["seconds"]], note=outcome["ended"], extra=extra)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judges", default=",".join(map(str, range(len(JUDGES)))))
    parser.add_argument("--trainers", default=",".join(map(str, range(len(TRAINERS)))))
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        trainer, url, folder = args.child
        train(trainer, url, Path(folder), args.steps, args.seed)
        return
    with tempfile.TemporaryDirectory() as scratch:
        for judge in [JUDGES[int(i)] for i in args.judges.split(",")]:
            for i in map(int, args.trainers.split(",")):
                folder = Path(scratch) / f"{JUDGES.index(judge)}-{i}"
                row = compare(TRAINERS[i], judge, args.steps, args.seed, folder)
                about = row.extra
                print(judge, "|", row.name, "|", about["pass_at_1"], about["requests"], row.note)
                append("trl_judge", [row], ("torch", "transformers", "trl"))


if __name__ == "__main__":
    main()
