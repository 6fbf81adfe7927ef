"""What LoRA's forward may cost in bf16: log-probs of an adapter against the engine's weights.

    exprl train configs/division_lora.toml model.dtype=bfloat16 run_dir=RUN
    bench/lora_gap.py RUN

The rollouts of the run's last step are read by the trainer, with the same packing and attention:
with the merged checkpoint, which is what an engine holds; with base and adapter by exprl's forward,
which rounds W + B A once; by peft's, which adds B A x to the rounded W x; and, as a yardstick, in
fp32.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from _row import Row, report
from peft.tuners.lora import LoraLayer
from pyarrow import parquet

from exprl import config
from exprl.data.tokenizer import load_tokenizer, prompt_ids
from exprl.learn.batch import pack
from exprl.learn.policy import Policy
from exprl.run import checkpoint
from exprl.run.problems import load_training_problems
from exprl.types import Example, TrainBatch


def main() -> None:
    torch.set_num_threads(1)
    run = Path(sys.argv[1])
    cfg = config.load(run / "config.toml")
    folder = checkpoint.latest(run)
    tokenizer = load_tokenizer(cfg.model)
    prompts = {
        p.id: prompt_ids(tokenizer, p.prompt) for p in load_training_problems(cfg, tokenizer)
    }
    batches = read(sorted((run / "rollouts").glob("step-*.parquet"))[-1], prompts)

    def logps(lora: config.Lora, *, by_peft: bool = False, **model: str) -> list[np.ndarray]:
        settings = cfg.model.model_copy(update=model)
        policy = Policy(
            settings, cfg.optim, lora, temperature=1.0, needs_initial=False, weights=str(folder)
        )
        for layer in policy.model.modules():
            if by_peft and isinstance(layer, LoraLayer):
                del layer.forward  # back to the class's own
        return [policy.logp(batch).numpy() for batch in batches]

    merged = logps(config.Lora())
    rows = [
        row("exprl's forward", logps(cfg.lora), merged),
        row("peft's forward", logps(cfg.lora, by_peft=True), merged),
        row("fp32", logps(cfg.lora, dtype="float32"), merged),
    ]
    report("lora_gap", rows, ("torch", "transformers", "peft"))


def row(name: str, found: list[np.ndarray], merged: list[np.ndarray]) -> Row:
    """Mean and largest gap over all tokens; the values are the means of each rollout."""
    gaps = [np.abs(a - b) for a, b in zip(found, merged, strict=True)]
    every = np.concatenate(gaps)
    extra = {"mean": float(every.mean()), "max": float(every.max()), "tokens": len(every)}
    note = f"over all tokens: mean {every.mean():.2e}, largest {every.max():.2e}"
    return Row(name, [float(g.mean()) for g in gaps], unit="nats", note=note, extra=extra)


def read(path: Path, prompts: Mapping[str, Sequence[int]]) -> list[TrainBatch]:
    """The rollouts of a step, each in a micro-batch of its own."""
    examples = [
        Example(
            prompt_ids=np.array(prompts[one["problem_id"]], np.int32),
            token_ids=np.array(one["token_ids"], np.int32),
            generator_logp=np.array(one["generator_logp"], np.float32),
            advantages=np.zeros(1),
            segment_tokens=(len(one["token_ids"]),),
        )
        for one in parquet.read_table(path).to_pylist()
    ]
    [mini] = pack(
        examples,
        mini_batches=1,
        micro_batch_tokens=1,
        aggregation="token_mean",
        max_response_tokens=1,
    )
    return mini


if __name__ == "__main__":
    main()
