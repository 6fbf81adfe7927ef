"""Peak memory of small trainings on the CPU, measured beside what exprl.learn.memory predicts.

    bench/memory.py        rows in results/memory.jsonl; exit 1 where one is more than 15 % off

Each setting trains random weights of a Qwen3 for two steps of two micro-batches, in a process of
its own. The kernel's mark of the highest resident size is reset after a tiny model has been trained
in the same way, and what was resident then is subtracted.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import numpy as np
import torch
from _row import Row, report

from exprl.learn.batch import pack
from exprl.learn.memory import Setup, Shapes, predict
from exprl.learn.memory.prediction import PROCESS_BYTES
from exprl.types import Example, TrainBatch

GIB = 2**30
BAR = 0.15


@dataclass(frozen=True, slots=True)
class Setting:
    """A shape and how it is trained."""

    hidden: int
    layers: int
    vocab: int
    tokens: int
    dtype: Literal["float32", "bfloat16"]
    optimizer: Literal["adamw", "adamw8bit"]
    checkpointing: float
    kl_coef: float
    rank: int = 0

    @property
    def name(self) -> str:
        """As a table shows it."""
        trained = f"lora {self.rank}" if self.rank else "full"
        return (
            f"{self.layers} x {self.hidden}, {self.vocab} words, {self.tokens} tokens,"
            f" {self.dtype}, {trained}, {self.optimizer}, recomputed {self.checkpointing:g},"
            f" kl {self.kl_coef:g}"
        )


SETTINGS = (
    Setting(384, 6, 16384, 1024, "float32", "adamw", 0.0, 0.001),
    Setting(512, 4, 8192, 2048, "bfloat16", "adamw8bit", 1.0, 0.001),
    Setting(256, 16, 32768, 1536, "float32", "adamw", 0.5, 0.0),
)
# Of the test: seconds.
SMALL = Setting(256, 2, 32768, 1024, "float32", "adamw", 0.0, 0.001)
WARM_UP = Setting(128, 1, 512, 64, "float32", "adamw", 0.0, 0.001)


def shape(setting: Setting) -> Any:
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=setting.vocab,
        hidden_size=setting.hidden,
        intermediate_size=3 * setting.hidden,
        num_hidden_layers=setting.layers,
        num_attention_heads=setting.hidden // 64,
        num_key_value_heads=setting.hidden // 128,
        head_dim=64,
        tie_word_embeddings=True,
    )


def predicted(setting: Setting) -> int:
    """Bytes of the peak, without the process itself."""
    setup = Setup(
        gpu=False,
        dtype=setting.dtype,
        optimizer=setting.optimizer,
        micro_batch_tokens=setting.tokens,
        recomputed=setting.checkpointing,
        needs_initial=setting.kl_coef > 0,
        lora_rank=setting.rank,
    )
    return predict(Shapes.of(shape(setting)), setup).peak - PROCESS_BYTES


def measure(setting: Setting) -> int:
    """Bytes by which the peak of two steps lies above what was resident before the model.

    A tiny model of the same settings is trained before, so that the code is in memory.
    """
    train(replace(WARM_UP, dtype=setting.dtype, optimizer=setting.optimizer, rank=setting.rank))
    before = train(setting)
    return resident("VmHWM") - before


def train(setting: Setting) -> int:
    """Load and make two steps; what was resident before, and where VmHWM began anew."""
    from transformers import Qwen3ForCausalLM

    from exprl import config
    from exprl.learn.policy import Policy

    batches = packed(setting)
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        Qwen3ForCausalLM(shape(setting)).save_pretrained(folder)
        gc.collect()
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        policy = Policy(
            config.Model(
                path=folder,
                dtype=setting.dtype,
                gradient_checkpointing=setting.checkpointing or False,
            ),
            config.Optim(kind=setting.optimizer),
            config.Lora(rank=setting.rank),
            temperature=1.0,
            needs_initial=setting.kl_coef > 0,
        )
        for _ in range(2):  # the moments are made in the first
            [update] = policy.step(batches, config.Loss(kl_coef=setting.kl_coef))
            assert not update.skipped
    return before


def packed(setting: Setting) -> list[list[TrainBatch]]:
    """Two micro-batches of four sequences each."""
    rng, n, prompt = np.random.default_rng(0), setting.tokens // 4, 8
    examples = [
        Example(
            prompt_ids=rng.integers(0, setting.vocab, prompt, dtype=np.int32),
            token_ids=rng.integers(0, setting.vocab, n - prompt, dtype=np.int32),
            generator_logp=np.full(n - prompt, -np.log(setting.vocab), np.float32),
            advantages=rng.normal(size=1),
            segment_tokens=(n - prompt,),
        )
        for _ in range(8)
    ]
    return pack(
        examples,
        mini_batches=1,
        micro_batch_tokens=setting.tokens,
        aggregation="token_mean",
        max_response_tokens=n,
    )


def resident(mark: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{mark}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {mark}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measure", help="JSON of one setting: print its peak in bytes")
    args = parser.parse_args()
    if args.measure:
        print(measure(Setting(**json.loads(args.measure))))
        return
    rows = [row(setting) for setting in SETTINGS]
    report("memory", rows, ("torch", "transformers", "torchao"))
    missed = [row.name for row in rows if abs(row.extra["error"]) > BAR]
    if missed:
        raise SystemExit(f"error: more than {BAR:.0%} off: {'; '.join(missed)}")


def row(setting: Setting) -> Row:
    """Measured, and beside it predicted and how far that is off."""
    measured = in_own_process(setting) / GIB
    found = predicted(setting) / GIB
    error = found / measured - 1
    note = f"predicted {found:.3f}, {error:+.1%}"
    extra = asdict(setting) | {"predicted": found, "error": error}
    return Row(setting.name, [measured], "GiB", note, extra)


def in_own_process(setting: Setting) -> int:
    """`measure`, where nothing else has grown the process before."""
    command = [sys.executable, __file__, "--measure", json.dumps(asdict(setting))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout.split()[-1])


if __name__ == "__main__":
    main()
