"""What the loss needs beside its inputs: the logits of a chunk of tokens, and their gradients."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from exprl.learn import distillation
from exprl.learn.loss import Head
from exprl.learn.memory.activations import Count, count
from exprl.learn.memory.shapes import FP32, Setup, Shapes
from exprl_kernels import chunks, definition
from exprl_kernels.terms import Rows, Terms
from exprl_kernels.terms import Shape as LogitShape


def training(shapes: Shapes, setup: Setup) -> int:
    """What the loss needs beside its inputs, forward and backward, at most."""
    trains_head = not setup.lora_rank
    n, vocab, hidden = setup.tokens, shapes.vocab, shapes.hidden
    narrow = setup.torch_dtype.itemsize
    states = n * hidden * narrow
    if setup.objective == "reverse_kl":
        return states + _reverse_kl(n, vocab, hidden, setup.torch_dtype).peak
    if not setup.gpu:
        return states + _torch_loss(n, vocab, hidden, setup.torch_dtype).peak
    per_token = vocab * (FP32 + (narrow if narrow < FP32 else 0))
    size = chunks.chunk_size(n, per_token, chunks.CHUNK_TOKENS, chunks.WORKSPACE_BYTES)
    d_weight = vocab * hidden if trains_head else 0
    rows = size * (per_token + FP32 * hidden)  # logits, their gradients, fp32 rows of dx
    forward = 2 * states + rows + FP32 * d_weight
    backward = 3 * states + (FP32 + narrow) * d_weight  # scaled in one pass
    return max(forward, backward)


def inference(shapes: Shapes, setup: Setup) -> int:
    """What log-probs without gradients need beside the body."""
    states = setup.tokens * shapes.hidden * setup.torch_dtype.itemsize
    per_token = FP32 * shapes.vocab
    size = chunks.chunk_size(setup.tokens, per_token, chunks.CHUNK_TOKENS, chunks.WORKSPACE_BYTES)
    copies = 1 if setup.gpu else 4  # plain torch: logits, z, log-probabilities, probabilities
    return states + copies * size * per_token


@lru_cache(maxsize=64)
def _torch_loss(n: int, vocab: int, hidden: int, dtype: torch.dtype) -> Count:
    """The loss in plain torch, as CPUs compute it."""
    chunk = chunks.chunk_size(n, 8 * vocab, chunks.CHUNK_TOKENS, chunks.WORKSPACE_BYTES)

    def loss(states: Tensor, weight: Tensor) -> Tensor:
        each = torch.zeros(n)
        index = torch.zeros(n, dtype=torch.int64)
        rows = Rows(index, torch.zeros(1), index.int(), each, each, each, each, None)
        shape, terms = LogitShape(1.0, 1.0, None), Terms(0.2, 0.2, None, 0.1, 0.0, None)
        return definition.linear_grpo_loss(
            states, weight, rows, shape, terms, dtype=dtype, chunk=chunk
        ).loss

    return count(loss, ((n, hidden), (vocab, hidden)), dtype)


@lru_cache(maxsize=64)
def _reverse_kl(n: int, vocab: int, hidden: int, dtype: torch.dtype) -> Count:
    """The divergence over the whole vocabulary, one chunk of tokens at a time."""

    def loss(states: Tensor, weight: Tensor) -> Tensor:
        teacher, index = Head(weight.detach()), torch.zeros(len(states), dtype=torch.int64)
        parts = distillation._reverse_kl(states, Head(weight), states.detach(), teacher, index, 1.0)
        return parts[0].sum()

    return count(loss, ((min(n, distillation.CHUNK_TOKENS), hidden), (vocab, hidden)), dtype)
