"""What a server of the policy is asked, and what its answers say: vLLM's /inference/v1/generate.

Token ids go in and token ids come out, as numbers in JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from exprl.rollout.vllm_core import Sample, Sampling
from exprl.types import Float32Array, Int32Array

GENERATE = "/inference/v1/generate"
FRESH = "default"
"""Weight version that a server names until it is given weights."""


def generate_request(
    ids: list[int], max_tokens: int, seed: int, how: Sampling, stops: Sequence[int]
) -> dict[str, Any]:
    """Ask for at most `max_tokens` tokens after `ids`, and for the log-prob of each.

    Args:
        stops: token ids that end a rollout; these servers have no tokenizer that knows an end.
    """
    params = {
        **how._asdict(),
        "max_tokens": max_tokens,
        "seed": seed,
        "stop_token_ids": list(stops),
        "logprobs": 0,
        "detokenize": False,
    }
    return {"token_ids": ids, "sampling_params": params}


def read_sample(answer: dict[str, Any], first_version: int) -> Sample:
    """What the server sampled.

    Args:
        first_version: policy version of the weights that it was started with.
    """
    [choice] = answer["choices"]
    content = (choice["logprobs"] or {}).get("content") or ()
    return Sample(
        token_ids=choice["token_ids"] or [],
        logp=[at["logprob"] for at in content],
        finish_reason=choice["finish_reason"],
        versions=[
            (
                first_version if span["version"] == FRESH else int(span["version"]),
                span["end"] - span["start"],
            )
            for span in choice["weight_versions"] or ()
        ],
    )


def logp_request(ids: Int32Array) -> dict[str, Any]:
    """Ask for the log-probs of these tokens [L]; vLLM refuses to sample none after them."""
    params = {"temperature": 0, "max_tokens": 1, "prompt_logprobs": 0, "detokenize": False}
    return {"token_ids": ids.tolist(), "sampling_params": params}


def read_logp(answer: dict[str, Any], ids: Int32Array) -> Float32Array:
    """The log-probs [L-1] of the tokens [L] but the first."""
    pairs = zip(answer["prompt_logprobs"][1:], ids[1:].tolist(), strict=True)
    return np.array([at[str(token)]["logprob"] for at, token in pairs], dtype=np.float32)
