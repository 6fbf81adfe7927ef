"""How much a training step saves when a group's rollouts share their prompt: one CPU core.

    python bench/shared_prompts.py

A language model of SmolLM2-135M's shape with random weights, LoRA of rank 16, fp32: an optimizer
step on a group of eight rollouts, with `model.attention = "torch"` and with `"shared_prompts"`,
in turn. CPU seconds of one thread, so that other jobs disturb little. The rows also say how far the
log-probs of the two are apart.
"""

from __future__ import annotations

import os
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import numpy as np
import torch
from _row import Row, report
from transformers import LlamaConfig, LlamaForCausalLM

from exprl import config
from exprl.learn.batch import pack
from exprl.learn.policy import Policy
from exprl.types import Example, TrainBatch

GROUP_SIZE, RESPONSE, REPEATS = 8, 36, 3
PROMPTS = (22, 88, 176)
SHAPE = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    tie_word_embeddings=True,
)
LOSS = config.Loss(kl_coef=0.0)


def draw(prompt_tokens: int) -> list[list[TrainBatch]]:
    """A group of random tokens, in one micro-batch; responses have 18 to 36 tokens."""
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, SHAPE.vocab_size, prompt_tokens, np.int32)
    examples = [
        Example(
            prompt_ids=prompt,
            token_ids=rng.integers(0, SHAPE.vocab_size, n, np.int32),
            generator_logp=np.full(n, -10.0, np.float32),
            advantages=rng.normal(size=1),
            segment_tokens=(n,),
        )
        for n in rng.integers(RESPONSE // 2, RESPONSE + 1, GROUP_SIZE).tolist()
    ]
    return pack(
        examples,
        mini_batches=1,
        micro_batch_tokens=1_000_000,
        aggregation="token_mean",
        max_response_tokens=RESPONSE,
    )


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        LlamaForCausalLM(SHAPE).save_pretrained(folder)
        policies = {
            kind: Policy(
                config.Model(path=folder, dtype="float32", attention=kind),
                config.Optim(lr=1e-9),  # both stay the same model
                config.Lora(rank=16),
                temperature=1.0,
                needs_initial=False,
            )
            for kind in ("torch", "shared_prompts")
        }
    rows = []
    for prompt in PROMPTS:
        ((batch,),) = draw(prompt)
        taken: dict[str, list[float]] = {kind: [] for kind in policies}
        own, shared = (policy.logp(batch) for policy in policies.values())
        apart = float((own - shared).abs().max())
        for repeat in range(REPEATS + 1):  # the first one warms up
            for kind, policy in policies.items():
                begin = time.process_time()
                policy.step([[batch]], LOSS)
                if repeat:
                    taken[kind].append(time.process_time() - begin)
        extra = {"prompt_tokens": prompt, "tokens": len(batch.input_ids), "logp_apart": apart}
        note = f"{GROUP_SIZE} rollouts; log-probs at most {apart:.0e} nats apart"
        for kind, times in taken.items():
            rows.append(Row(f"{kind}, prompts of {prompt}", times, note=note, extra=extra))
    report("shared_prompts", rows, ("torch", "transformers"))


if __name__ == "__main__":
    main()
