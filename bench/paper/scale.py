"""How large the miniature is: the shipped one for a CPU, or one for a GPU, made on the spot.

`short` is the shipped one with a Stage I that ends before everything is learned, so that Stage II
has something left to learn.

The larger one has the same task with dividends of 8 to 12 digits, so its traces are about twice as
long, and a policy of 25 M parameters that it trains itself, from the same mixture of chains as
examples/division/make_base.py. `smoke` is that machinery at a size which a CPU runs in a minute.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

EXAMPLES = Path(__file__).parents[2] / "examples" / "division"
sys.path.insert(0, str(EXAMPLES))

from division import Problem, chain, draw_problem  # noqa: E402
from make_base import EASY_SHARE, EASY_SLIP_RATE, HINT_SHARE, Stage, collate  # noqa: E402
from make_data import rows as data_rows  # noqa: E402
from tokenizer import build_tokenizer  # noqa: E402
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM  # noqa: E402

Held = set[Problem]
WARMUP_STEPS = 20


@dataclass(frozen=True, slots=True)
class Made:
    """A task and a base policy that are made for a scale.

    hard_digits, easy_digits: lengths of the dividends that the base spoils, and of those it can do.
    stages: of the base's training, as in make_base.py.
    """

    hard_digits: tuple[int, ...]
    easy_digits: tuple[int, ...]
    hidden: int
    layers: int
    heads: int
    mlp: int
    batch: int
    stages: tuple[Stage, ...]
    train_problems: int
    test_problems: int
    max_length: int = 512


@dataclass(frozen=True, slots=True)
class Scale:
    """Overrides of the configs, and what has to be made first; None = examples/division as it is.

    steps: of each stage.
    first_steps: of Stage I where it is shorter; None = `steps`.
    """

    name: str
    steps: int
    made: Made | None
    overrides: tuple[str, ...] = ()
    first_steps: int | None = None


SCALES = {
    "cpu": Scale("cpu", 16, None),
    "short": Scale("short", 16, None, ("rollout.engine=transformers",), first_steps=4),
    "gpu": Scale(
        "gpu",
        40,
        Made(
            hard_digits=(8, 9, 10, 11, 12),
            easy_digits=(2, 3, 4, 5, 6),
            hidden=512,
            layers=8,
            heads=8,
            mlp=1536,
            batch=256,
            stages=(Stage(1500, 1e-3, 0.75), Stage(1000, 5e-4, 0.75), Stage(300, 2e-4, 0.85)),
            train_problems=64,
            test_problems=64,
        ),
        (
            "model.dtype=bfloat16",
            "train.torch_threads=none",
            "rollout.problems_per_step=32",
            "rollout.max_prompt_tokens=64",
            "rollout.max_response_tokens=192",
            "rollout.max_num_seqs=512",
            "rollout.gpu_memory_utilization=0.4",
            "optim.lr=1e-4",
            "optim.micro_batch_tokens=65536",
        ),
    ),
    "smoke": Scale(
        "smoke",
        1,
        Made(
            hard_digits=(8, 9),
            easy_digits=(2, 3),
            hidden=32,
            layers=1,
            heads=1,
            mlp=32,
            batch=8,
            stages=(Stage(4, 1e-3, 0.75),),
            train_problems=4,
            test_problems=2,
        ),
        (
            "rollout.problems_per_step=2",
            "rollout.group_size=2",
            "rollout.max_response_tokens=160",
            "eval.samples=2",
            "rollout.engine=transformers",
            "optim.mini_batches=1",
        ),
    ),
}


def prepared(scale: Scale, out: Path) -> dict[int, list[str]]:
    """Make what is missing under `out`, and give the overrides of each stage that point to it."""
    common = [*scale.overrides, *_made(scale, out)]
    first = scale.first_steps or scale.steps
    return {
        stage: [f"train.steps={steps}", *common] for stage, steps in ((1, first), (2, scale.steps))
    }


def _made(scale: Scale, out: Path) -> list[str]:
    if scale.made is None:
        return []
    folder = out / "base"
    if not (folder / "done").exists():
        make(scale.made, folder)
        (folder / "done").touch()
    return [
        f"model.path={json.dumps(str(folder / 'model'))}",
        f"data.path={json.dumps(str(folder / 'train.jsonl'))}",
        f"eval.data.path={json.dumps(str(folder / 'test.jsonl'))}",
    ]


def make(made: Made, folder: Path, seed: int = 0) -> None:
    """Write train.jsonl, test.jsonl and the base policy."""
    rng = random.Random(seed)
    drawn: dict[Problem, None] = {}
    while len(drawn) < made.train_problems + made.test_problems:
        drawn[draw_problem(rng, rng.choice(made.hard_digits))] = None
    problems = list(drawn)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (
        ("train", problems[: made.train_problems]),
        ("test", problems[made.train_problems :]),
    ):
        lines = (json.dumps(row) + "\n" for row in data_rows(name, part))
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    tokenizer = build_tokenizer(made.max_length)
    train_base(made, tokenizer, rng, set(problems)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


def train_base(
    made: Made, tokenizer: PreTrainedTokenizerFast, rng: random.Random, held_out: Held
) -> Qwen3ForCausalLM:
    """Train the base policy from scratch, on a GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(rng.randrange(2**31))
    model = Qwen3ForCausalLM(model_config(made, tokenizer)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    for step, (lr, slip_rate) in enumerate(schedule(made)):
        examples = [draw_example(made, rng, slip_rate, held_out) for _ in range(made.batch)]
        ids, labels = (part.to(device) for part in collate(tokenizer, examples))
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"base: step {step:4d}  loss {loss.item():.4f}", flush=True)
    return model.eval()


def draw_example(
    made: Made, rng: random.Random, hard_slip_rate: float, held_out: Held
) -> tuple[str, str]:
    """A prompt, with or without the hint, and the chain to learn from it."""
    easy = rng.random() < EASY_SHARE
    digits = made.easy_digits if easy else made.hard_digits
    while (problem := draw_problem(rng, rng.choice(digits))) in held_out:
        pass
    prompt = problem.hinted_prompt if rng.random() < HINT_SHARE else problem.prompt
    return prompt, chain(problem, rng, EASY_SLIP_RATE if easy else hard_slip_rate)


def schedule(made: Made) -> Iterator[tuple[float, float]]:
    """(learning rate, slip rate of the hard chains) of every step, one cosine a stage."""
    for stage in made.stages:
        for step in range(stage.steps):
            warmup = min(1.0, (step + 1) / WARMUP_STEPS)
            yield (
                stage.lr * warmup * 0.5 * (1 + math.cos(math.pi * step / stage.steps)),
                stage.hard_slip_rate,
            )


def model_config(made: Made, tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    """A Qwen3 whose heads are as wide as vLLM's attention wants them."""
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=made.hidden,
        num_hidden_layers=made.layers,
        num_attention_heads=made.heads,
        num_key_value_heads=max(1, made.heads // 2),
        head_dim=max(32, made.hidden // made.heads),
        intermediate_size=made.mlp,
        max_position_embeddings=made.max_length,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
