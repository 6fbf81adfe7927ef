"""How far the trainer's log-probs lie from the engine's, in bf16, on the same weights.

    bench/logp_gap.py                          the miniature's base policy, 256 rollouts
    bench/logp_gap.py CONFIG KEY=VALUE ...     another model and data

What vLLM samples in bf16 is read again by the trainer, by transformers with everything in bf16
(once with the logits in fp32, which is what the trainer's loss does), and by transformers in fp32.
All that is left between them is rounding; `rollout.sync_gap_limit` has to lie above it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
CONFIG = Path(__file__).parents[1] / "configs" / "division_process.toml"

import numpy as np  # noqa: E402
import torch  # noqa: E402
from _row import Row, report  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from exprl import config  # noqa: E402
from exprl.data.problems import load_problems  # noqa: E402
from exprl.data.tokenizer import load_tokenizer  # noqa: E402
from exprl.learn.batch import pack, rollout_examples  # noqa: E402
from exprl.learn.policy import Policy  # noqa: E402
from exprl.rollout.engine import open_engine  # noqa: E402
from exprl.types import Rollout, Scored, Segment  # noqa: E402


def main() -> None:
    torch.set_num_threads(1)
    path, *overrides = sys.argv[1:] or [CONFIG]
    cfg = config.load(Path(path), [*overrides, "model.dtype=bfloat16"])
    rollouts = sampled(cfg)
    readers = {
        "engine": np.concatenate([r.generator_logp for r in rollouts]),
        "trainer": by_trainer(cfg, rollouts),
        "transformers bf16": by_transformers(cfg, rollouts, torch.bfloat16, torch.bfloat16),
        "transformers bf16, logits fp32": by_transformers(
            cfg, rollouts, torch.bfloat16, torch.float32
        ),
        "transformers fp32": by_transformers(cfg, rollouts, torch.float32, torch.float32),
    }
    names = list(readers)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    rows = [row(f"{a} - {b}", np.abs(readers[a] - readers[b]), cfg, rollouts) for a, b in pairs]
    report("logp_gap", rows, ("torch", "transformers", "vllm"))


def row(name: str, gaps: np.ndarray, cfg: config.Config, rollouts: Sequence[Rollout]) -> Row:
    """The values are the rollouts' means; the mean and the largest are of all tokens."""
    ends = np.cumsum([len(r.token_ids) for r in rollouts])[:-1]
    note = f"all {len(gaps)} tokens: mean {gaps.mean():.2e}, largest {gaps.max():.2e}"
    return Row(
        name,
        [float(part.mean()) for part in np.split(gaps, ends)],
        unit="nats",
        note=note,
        extra={
            "model": Path(cfg.model.path).name,
            "mean": float(gaps.mean()),
            "max": float(gaps.max()),
            "tokens": len(gaps),
        },
    )


def sampled(cfg: config.Config) -> list[Rollout]:
    """One training step's rollouts, in the order of their problems."""
    problems = load_problems(cfg.data)[: cfg.rollout.problems_per_step]
    tokenizer = load_tokenizer(cfg.model)
    engine = open_engine(cfg.model, cfg.rollout, tokenizer=tokenizer, weights=cfg.model.path)
    limits = cfg.rollout
    found = engine.sample(
        [p.prompt for p in problems],
        limits.group_size,
        0,
        limits.temperature,
        limits.max_response_tokens,
    )
    return sorted(found, key=lambda r: (r.problem_id, r.index))


def by_trainer(cfg: config.Config, rollouts: Sequence[Rollout]) -> np.ndarray:
    """The policy's log-probs, each rollout in a micro-batch of its own."""
    policy = Policy(cfg.model, cfg.optim, temperature=cfg.rollout.temperature, needs_initial=False)
    found = []
    for r in rollouts:
        scored = Scored(r, (Segment(0, len(r.token_ids), ""),), (1,), (0.0,), None)
        [[batch]] = pack(
            rollout_examples([scored], [np.zeros(1)]),
            mini_batches=1,
            micro_batch_tokens=1,
            aggregation="token_mean",
            max_response_tokens=cfg.rollout.max_response_tokens,
        )
        found.append(policy.logp(batch))
    return torch.cat(found).numpy()


@torch.no_grad()
def by_transformers(
    cfg: config.Config, rollouts: Sequence[Rollout], body: torch.dtype, head: torch.dtype
) -> np.ndarray:
    """Each rollout alone through the library's own model, log-softmax in fp32."""
    model = AutoModelForCausalLM.from_pretrained(cfg.model.path, dtype=body)
    weight = model.get_output_embeddings().weight.to(head)
    found = []
    for r in rollouts:
        ids = torch.from_numpy(np.concatenate([r.prompt_ids, r.token_ids])).long()[None]
        hidden = model.base_model(ids).last_hidden_state[0, len(r.prompt_ids) - 1 : -1]
        logits = (hidden.to(head) @ weight.T).float()
        logp = (logits / cfg.rollout.temperature).log_softmax(-1)
        found.append(logp.gather(1, ids[0, len(r.prompt_ids) :, None])[:, 0])
    return torch.cat(found).numpy()


if __name__ == "__main__":
    main()
