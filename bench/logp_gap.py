"""How far the trainer's log-probs lie from the engine's, in bf16, on the miniature's base policy.

256 rollouts, sampled by vLLM in bf16, are read again by the trainer (`model.dtype = "bfloat16"`),
by transformers with everything in bf16, and by transformers in fp32. What is left between engine
and trainer on the same weights is rounding; `rollout.sync_gap_limit` has to lie above it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
BASE = Path(__file__).parents[1] / "examples" / "division" / "base"

import numpy as np  # noqa: E402
import torch  # noqa: E402
from _row import Row, report  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from exprl import config, data  # noqa: E402
from exprl.batch import from_rollouts, pack  # noqa: E402
from exprl.policy import Policy  # noqa: E402
from exprl.rollout import open_engine  # noqa: E402
from exprl.types import Rollout, Scored, Segment  # noqa: E402

GROUP, TEMPERATURE = 16, 1.0


def main() -> None:
    torch.set_num_threads(1)
    model = config.Model(path=str(BASE), dtype="bfloat16")
    rollouts = sampled(model)
    readers = {
        "trainer": by_trainer(model, rollouts),
        "transformers bf16": by_transformers(rollouts, torch.bfloat16),
        "transformers fp32": by_transformers(rollouts, torch.float32),
        "engine": np.concatenate([r.generator_logp for r in rollouts]),
    }
    names = list(readers)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    rows = [row(f"{a} - {b}", np.abs(readers[a] - readers[b]), rollouts) for a, b in pairs]
    report("logp_gap", rows, ("torch", "transformers", "vllm"))


def row(name: str, gaps: np.ndarray, rollouts: Sequence[Rollout]) -> Row:
    """Mean and largest gap over all tokens; the values are the means of each rollout."""
    means = [part.mean() for part in np.split(gaps, np.cumsum([len(r.token_ids) for r in rollouts]))
             if len(part)]  # fmt: skip
    extra = {"mean": float(gaps.mean()), "max": float(gaps.max()), "tokens": len(gaps)}
    note = f"over all tokens: mean {gaps.mean():.2e}, largest {gaps.max():.2e}"
    return Row(name, [float(mean) for mean in means], unit="nats", note=note, extra=extra)


def sampled(model: config.Model) -> list[Rollout]:
    """Rollouts of the engine, in the order of their problems."""
    path = BASE.parent / "train.jsonl"
    problems = data.load_problems(
        config.Data(path=str(path), domain="division", columns={"id": "id"})
    )
    limits = config.Rollout(max_prompt_tokens=32, max_response_tokens=96)
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    engine = open_engine(model, limits, tokenizer=tokenizer, weights=model.path)
    prompts = [p.prompt for p in problems]
    found = engine.sample(prompts, GROUP, 0, TEMPERATURE, limits.max_response_tokens)
    return sorted(found, key=lambda r: (r.problem_id, r.index))


def by_trainer(model: config.Model, rollouts: Sequence[Rollout]) -> np.ndarray:
    """The policy's log-probs, each rollout in a micro-batch of its own."""
    policy = Policy(model, config.Optim(), temperature=TEMPERATURE, needs_initial=False)
    found = []
    for r in rollouts:
        scored = Scored(r, (Segment(0, len(r.token_ids), ""),), (1,), (0.0,), None)
        [[batch]] = pack(
            from_rollouts([scored], [np.zeros(1)]),
            mini_batches=1,
            micro_batch_tokens=1,
            aggregation="token_mean",
            max_response_tokens=96,
        )
        found.append(policy.logp(batch))
    return torch.cat(found).numpy()


@torch.no_grad()
def by_transformers(rollouts: Sequence[Rollout], dtype: torch.dtype) -> np.ndarray:
    """Each rollout alone through the library's own model, log-softmax in fp32."""
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=dtype)
    found = []
    for r in rollouts:
        ids = torch.from_numpy(np.concatenate([r.prompt_ids, r.token_ids])).long()[None]
        logits = model(ids).logits[0, len(r.prompt_ids) - 1 : -1].float()
        logp = (logits / TEMPERATURE).log_softmax(-1)
        found.append(logp.gather(1, ids[0, len(r.prompt_ids) :, None])[:, 0])
    return torch.cat(found).numpy()


if __name__ == "__main__":
    main()
