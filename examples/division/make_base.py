"""Train the base policy: it divides easy numbers and spoils every hard division.

It learns from chains in the policy's own style. Easy chains slip in 5 % of their steps; hard chains
slip so often that a right one is drawn less than once in a thousand. So the base has the skill and
the format, but on hard problems it never uses the skill to the end. measure_base.py says what it
can do.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from division import EASY_DIGITS, HARD_DIGITS, Problem, chain, draw_problem
from make_data import split
from tokenizer import build_tokenizer
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

SEED = 0
MAX_LENGTH = 256
BATCH = 64
EASY_SHARE, EASY_SLIP_RATE = 0.55, 0.05
HINT_SHARE = 0.2
WARMUP_STEPS = 20
IGNORED = -100  # label of a token outside the loss


@dataclass(frozen=True, slots=True)
class Stage:
    """Some optimizer steps with one cosine from `lr` to 0 and one slip rate of the hard chains."""

    steps: int
    lr: float
    hard_slip_rate: float


STAGES = (Stage(500, 3e-3, 0.75), Stage(450, 2e-3, 0.75), Stage(120, 1e-3, 0.85))


def model_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    """Describe a Qwen3 of 0.28 M parameters; vLLM's CPU attention wants heads of 32."""
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=192,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )


def draw_example(
    rng: random.Random, hard_slip_rate: float, held_out: set[Problem]
) -> tuple[str, str]:
    """Draw one prompt, with or without the hint, and the chain to learn from it."""
    easy = rng.random() < EASY_SHARE
    n_digits = rng.choice(EASY_DIGITS) if easy else HARD_DIGITS
    while (problem := draw_problem(rng, n_digits)) in held_out:
        pass
    prompt = problem.hinted_prompt if rng.random() < HINT_SHARE else problem.prompt
    return prompt, chain(problem, rng, EASY_SLIP_RATE if easy else hard_slip_rate)


def collate(
    tokenizer: PreTrainedTokenizerFast, examples: list[tuple[str, str]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokenize prompts and chains; returns ids and labels, both [B, L], padded on the right."""
    ids, labels = [], []
    for prompt, solution in examples:
        prompt_ids = tokenizer.encode(tokenizer.bos_token + prompt)
        chain_ids = tokenizer.encode(solution + tokenizer.eos_token)
        ids.append(torch.tensor(prompt_ids + chain_ids))
        labels.append(torch.tensor([IGNORED] * len(prompt_ids) + chain_ids))
    pad = torch.nn.utils.rnn.pad_sequence
    return (
        pad(ids, batch_first=True, padding_value=tokenizer.pad_token_id),
        pad(labels, batch_first=True, padding_value=IGNORED),
    )


def schedule() -> Iterator[tuple[float, float]]:
    """Yield (learning rate, slip rate of hard chains) for every step of every stage."""
    for stage in STAGES:
        for step in range(stage.steps):
            warmup = min(1.0, (step + 1) / WARMUP_STEPS)
            cosine = 0.5 * (1 + math.cos(math.pi * step / stage.steps))
            yield stage.lr * warmup * cosine, stage.hard_slip_rate


def train(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """Train from scratch; the same seed on the same machine gives the same weights."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    rng = random.Random(seed)
    held_out = {problem for problems in split().values() for problem in problems}
    model = Qwen3ForCausalLM(model_config(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    started_s = time.process_time()
    for step, (lr, slip_rate) in enumerate(schedule()):
        ids, labels = collate(
            tokenizer, [draw_example(rng, slip_rate, held_out) for _ in range(BATCH)]
        )
        # Padding is on the right and attention is causal, so no token sees it.
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            cpu_s = time.process_time() - started_s
            print(f"step {step:4d}  loss {loss.item():.4f}  {cpu_s:.0f} CPU s", flush=True)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "base")
    options = parser.parse_args()
    tokenizer = build_tokenizer(MAX_LENGTH)
    model = train(tokenizer, options.seed)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    print(f"{model.num_parameters():,} parameters -> {options.out}")


if __name__ == "__main__":
    main()
