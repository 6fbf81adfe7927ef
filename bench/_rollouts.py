"""Rollouts as long as real ones, of random tokens, packed as the trainer packs them."""

from __future__ import annotations

import numpy as np
from _shapes import Shape

from exprl.learn.batch import pack
from exprl.types import Example, TrainBatch

# Prompt and rollout together are lognormal, clipped; shares of the longest that is allowed.
PROMPT_SHARE, MEDIAN_SHARE, SIGMA = 1 / 64, 0.56, 0.5
SEGMENTS = 32  # of a rollout


def packed(shape: Shape, rollouts: int, micro_batch_tokens: int) -> list[list[TrainBatch]]:
    """One mini-batch of rollouts, in micro-batches."""
    rng = np.random.default_rng(0)
    prompt = max(1, int(shape.longest * PROMPT_SHARE))
    drawn = rng.lognormal(np.log(MEDIAN_SHARE * shape.longest), SIGMA, rollouts)
    lengths = np.clip(drawn, prompt + SEGMENTS, shape.longest).astype(int)
    examples = [_example(rng, shape.vocab, prompt, length - prompt) for length in lengths]
    return pack(
        examples,
        mini_batches=1,
        micro_batch_tokens=micro_batch_tokens,
        aggregation="token_mean",
        max_response_tokens=shape.longest,
    )


def _example(rng: np.random.Generator, vocab: int, prompt: int, tokens: int) -> Example:
    borders = np.linspace(0, tokens, SEGMENTS + 1).astype(int)
    return Example(
        prompt_ids=rng.integers(0, vocab, prompt, dtype=np.int32),
        token_ids=rng.integers(0, vocab, tokens, dtype=np.int32),
        # About what a model of random weights gives any token.
        generator_logp=np.full(tokens, -np.log(vocab), np.float32),
        advantages=rng.normal(size=SEGMENTS),
        segment_tokens=tuple(np.diff(borders).tolist()),
    )
