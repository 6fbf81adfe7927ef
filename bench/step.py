"""One training step of the miniature on one CPU core, without sampling: where its seconds go.

256 rollouts of the shipped base policy's kind (about 19,000 tokens), two mini-batches, KL to the
initial policy. Beside the trainer as it is: with one attention call for every sequence, and with a
forward that anchors the first mini-batch too. CPU seconds of one thread, so that other jobs on the
machine disturb little.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
EXAMPLES = Path(__file__).parents[1] / "examples" / "division"
sys.path.insert(0, str(EXAMPLES))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from _row import Row, report  # noqa: E402
from division import HARD_DIGITS, chain, draw_problem  # noqa: E402
from transformers import AttentionInterface, AutoTokenizer  # noqa: E402

from exprl import config  # noqa: E402
from exprl.learn import attention  # noqa: E402
from exprl.learn.batch import pack, rollout_examples  # noqa: E402
from exprl.learn.policy import Policy  # noqa: E402
from exprl.types import Rollout, Scored, Segment, TrainBatch  # noqa: E402

ROLLOUTS, REPEATS = 256, 7
CONFIG = Path(__file__).parents[1] / "configs" / "division_outcome.toml"


def batches(cfg: config.Config) -> list[list[TrainBatch]]:
    """A step's rollouts, packed as the trainer packs them."""
    tokenizer = AutoTokenizer.from_pretrained(EXAMPLES / "base")
    rng, advantages, scored = random.Random(0), [], []
    for i in range(ROLLOUTS):
        problem = draw_problem(rng, HARD_DIGITS)
        prompt = tokenizer.encode(tokenizer.bos_token + problem.prompt)
        tokens = tokenizer.encode(chain(problem, rng, 0.8) + tokenizer.eos_token)
        rollout = Rollout(
            f"{i}",
            0,
            np.array(prompt, np.int32),
            np.array(tokens, np.int32),
            np.full(len(tokens), -1.0, np.float32),
            "stop",
            np.zeros(len(tokens), np.int32),
        )
        scored.append(Scored(rollout, (Segment(0, len(tokens), ""),), (1,), (0.0,), None))
        advantages.append(np.array([rng.gauss(0.0, 1.0)]))
    return pack(
        rollout_examples(scored, advantages),
        mini_batches=cfg.optim.mini_batches,
        micro_batch_tokens=cfg.optim.micro_batch_tokens,
        aggregation=cfg.loss.aggregation,
        max_response_tokens=cfg.rollout.max_response_tokens,
    )


def step(
    policy: Policy, packed: list[list[TrainBatch]], loss: config.Loss, *, anchored: bool = False
) -> None:
    """A training step's updates; `anchored` forwards the first mini-batch once more."""
    if anchored:
        for batch in packed[0]:
            policy.logp(batch)
    policy.step(packed, loss)


def per_sequence(
    module: object,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: object,
    *,
    cu_seq_lens_q: torch.Tensor,
    **rest: object,
) -> tuple[torch.Tensor, None]:
    """One call for each sequence."""
    lengths = cu_seq_lens_q.diff().tolist()
    parts = zip(*(t.split(lengths, dim=2) for t in (query, key, value)), strict=True)
    outputs = [
        torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        for q, k, v in parts
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def main() -> None:
    torch.set_num_threads(1)
    cfg = config.load(CONFIG, [f"model.path={EXAMPLES / 'base'}"])
    policy = Policy(cfg.model, cfg.optim, temperature=1.0, needs_initial=True)
    packed = batches(cfg)
    tokens = sum(len(batch.input_ids) for mini in packed for batch in mini)
    taken: dict[str, list[float]] = {}
    for repeat in range(REPEATS + 1):  # interleaved; the first round warms up
        for name, how, anchored in (
            ("as it is", attention.packed_attention, False),
            ("one attention call per sequence", per_sequence, False),
            ("first mini-batch anchored too", attention.packed_attention, True),
        ):
            AttentionInterface.register(attention.PACKED, how)
            start = time.process_time()
            step(policy, packed, cfg.loss, anchored=anchored)
            if repeat:
                taken.setdefault(name, []).append(time.process_time() - start)
    note = f"{ROLLOUTS} rollouts, {tokens} tokens, one core"
    extra = {"tokens": tokens}
    rows = [Row(name, times, note=note, extra=extra) for name, times in taken.items()]
    report("step", rows, ("torch", "transformers"))


if __name__ == "__main__":
    main()
