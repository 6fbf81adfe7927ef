"""Adapters of the rivals: each is given what its own documentation asks for.

All compute the mean over tokens (DAPO) of the clipped objective with k3. They are imported where
they run, so that one that is not installed is a row that says so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from _loss_problem import CLIP_HIGH, CLIP_LOW, KL_COEF, Problem
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

COMPILED_CHUNK = 4096
# A block of logits of prime-rl's head.
PRIME_CHUNK, PRIME_VOCAB = 1024, 8192
# Sequences per chunk of Liger's head where every token is handed over as a sequence of its own.
LIGER_TOKEN_CHUNK = 2048


def torch_loss(problem: Problem, logp: Tensor) -> Tensor:
    """The objective of TRL's `GRPOTrainer._compute_loss` (loss_type "dapo") on logp [B, T]."""
    adv = problem.token_adv
    ratio = torch.exp(logp - problem.trainer_logp)
    clipped = torch.clamp(ratio, 1 - CLIP_LOW, 1 + CLIP_HIGH)
    loss = -torch.min(ratio * adv, clipped * adv)
    gap = problem.initial_logp - logp
    loss = loss + KL_COEF * (torch.exp(gap) - gap - 1)
    return (loss * problem.mask).sum() / problem.mask.sum()


def torch_loss_of(logp: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The torch loss on what `logp(problem, *leaves)` [N] gives."""
    return lambda problem, *leaves: torch_loss(
        problem, logp(problem, *leaves).view_as(problem.mask)
    )


def trl_logp(problem: Problem, logits: Tensor, upcast: bool) -> Tensor:
    """TRL's `selective_log_softmax` [N], which branches on the logits' dtype.

    upcast: as under accelerate's mixed precision, which turns a model's outputs into fp32.
    """
    shape = problem.shape
    logits = logits.view(shape.sequences, shape.tokens, shape.vocab)
    index = problem.targets[..., None]
    if upcast:
        logits = logits.float()
    if logits.dtype == torch.float32:
        lse = torch.stack([torch.logsumexp(row, dim=-1) for row in logits])
        return (logits.gather(-1, index)[..., 0] - lse).flatten()
    rows = zip(logits, index, strict=True)
    return torch.cat([functional.log_softmax(row, dim=-1).gather(-1, at)[:, 0] for row, at in rows])


def trl_head_logp(problem: Problem, hidden: Tensor, weight: Tensor, upcast: bool) -> Tensor:
    return trl_logp(problem, hidden @ weight.T, upcast)


@torch.compile
def _compiled_chunk(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    logits = (hidden @ weight.T).float()
    return torch.log_softmax(logits, dim=-1).gather(-1, targets[:, None])[:, 0]


def compiled_logp(problem: Problem, hidden: Tensor, weight: Tensor) -> Tensor:
    """torch.compile over chunks of tokens, each recomputed in the backward."""
    chunks = zip(
        hidden.split(COMPILED_CHUNK), problem.targets.flatten().split(COMPILED_CHUNK), strict=True
    )
    return torch.cat(
        [checkpoint(_compiled_chunk, h, weight, t, use_reentrant=False) for h, t in chunks]
    )


@functools.cache
def _liger(chunk_size: int) -> Any:
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    return LigerFusedLinearGRPOLoss(
        beta=KL_COEF,
        chunk_size=chunk_size,
        epsilon_low=CLIP_LOW,
        epsilon_high=CLIP_HIGH,
        loss_type="dapo",
        use_ref_model=True,
    )


def liger_linear(
    problem: Problem, hidden: Tensor, weight: Tensor, adv: Tensor, chunk_size: int = 1
) -> Tensor:
    """Liger's fused-linear GRPO; chunk_size counts sequences."""
    loss, _ = _liger(chunk_size)(
        hidden.view(*problem.targets.shape, -1),
        weight,
        problem.targets,
        problem.mask,
        adv,
        ref_per_token_logps=problem.initial_logp,
        old_per_token_logps=problem.trainer_logp,
    )
    return loss


def liger_sequences(problem: Problem, hidden: Tensor, weight: Tensor) -> Tensor:
    return liger_linear(problem, hidden, weight, problem.sequence_adv)


def liger_token_adv(problem: Problem, hidden: Tensor, weight: Tensor, chunk_size: int) -> Tensor:
    return liger_linear(problem, hidden, weight, problem.token_adv, chunk_size)


def liger_tokens(problem: Problem, hidden: Tensor, weight: Tensor) -> Tensor:
    """Every token as a sequence of one: within Liger's contract, also with segments."""
    single = replace(
        problem,
        targets=problem.targets.view(-1, 1),
        mask=problem.mask.view(-1, 1),
        trainer_logp=problem.trainer_logp.view(-1, 1),
        initial_logp=problem.initial_logp.view(-1, 1),
    )
    return liger_linear(single, hidden, weight, problem.token_adv.flatten(), LIGER_TOKEN_CHUNK)


def liger_logp(problem: Problem, hidden: Tensor, weight: Tensor) -> Tensor:
    """What its loss computes inside of each chunk."""
    from liger_kernel.chunked_loss.fused_linear_ppo import LigerFusedLinearPPOBase

    return LigerFusedLinearPPOBase.chunk_forward(
        hidden.view(*problem.targets.shape, -1), weight, problem.targets
    ).flatten()


def liger_logits(problem: Problem) -> tuple[Tensor]:
    """[B, T+1, V]: Liger's Triton loss expects the model's logits, with one row past the end."""
    return ((_with_last_row(problem, problem.hidden) @ problem.weight.T).requires_grad_(),)


def _with_last_row(problem: Problem, hidden: Tensor) -> Tensor:
    """hidden [N, H] as [B, T+1, H]."""
    return functional.pad(hidden.view(*problem.targets.shape, -1), (0, 0, 0, 1))


def liger_triton(problem: Problem, logits: Tensor, adv: Tensor) -> Tensor:
    from liger_kernel.transformers.grpo_loss import triton_grpo_loss

    # A view has the leaf's storage, which the backward overwrites (inplace, its default).
    loss, _ = triton_grpo_loss(
        logits.view_as(logits),
        problem.trainer_logp,
        problem.initial_logp,
        problem.targets,
        adv,
        problem.mask,
        temperature=1.0,
        beta=KL_COEF,
        eps_low=CLIP_LOW,
        eps_high=CLIP_HIGH,
        loss_type="dapo",
        reduce=True,
    )
    return loss


def liger_triton_sequences(problem: Problem, logits: Tensor) -> Tensor:
    return liger_triton(problem, logits, problem.sequence_adv)


def liger_triton_token_adv(problem: Problem, logits: Tensor) -> Tensor:
    return liger_triton(problem, logits, problem.token_adv)


def liger_triton_head(problem: Problem, hidden: Tensor, weight: Tensor) -> Tensor:
    logits = _with_last_row(problem, hidden) @ weight.T
    return liger_triton(problem, logits, problem.sequence_adv)


def liger_triton_head_logp(problem: Problem, hidden: Tensor, weight: Tensor) -> Tensor:
    return liger_triton_logp(problem, _with_last_row(problem, hidden) @ weight.T)


def liger_triton_logp(problem: Problem, logits: Tensor) -> Tensor:
    from liger_kernel.ops.grpo_loss import fused_selective_log_softmax

    logp = fused_selective_log_softmax(logits, problem.targets, 1.0, problem.mask)
    return logp.flatten()


def cce_logp(problem: Problem, hidden: Tensor, weight: Tensor, **options: Any) -> Tensor:
    """Apple's cut cross-entropy; its loss per token is -logp."""
    from cut_cross_entropy import linear_cross_entropy

    targets = problem.targets.flatten()
    return -linear_cross_entropy(hidden, weight, targets, reduction="none", **options).float()


class _PrimeLogp(torch.autograd.Function):
    """Log-probs [N] as prime-rl's head computes them: blocks of logits, formed again backwards.

    A block is PRIME_CHUNK tokens by PRIME_VOCAB rows of the head, in the head's dtype; softmax in
    fp32; gradients are added up in the dtype of what they belong to.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        lse = hidden.new_full(targets.shape, float("-inf"), dtype=torch.float32)
        chosen = torch.zeros_like(lse)
        for rows, words in _blocks(hidden, weight):
            logits = (hidden[rows] @ weight[words].T).float()
            lse[rows] = torch.logaddexp(lse[rows], logits.logsumexp(dim=-1))
            at, inside = _within(targets[rows], words)
            chosen[rows] += inside * logits.gather(-1, at[:, None])[:, 0]
        ctx.save_for_backward(hidden, weight, targets, lse)
        return chosen - lse

    @staticmethod
    def backward(ctx: Any, d_logp: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden, weight, targets, lse = ctx.saved_tensors
        d_hidden, d_weight = torch.zeros_like(hidden), torch.zeros_like(weight)
        for rows, words in _blocks(hidden, weight):
            logits = (hidden[rows] @ weight[words].T).float()
            d_logits = (logits - lse[rows, None]).exp_().mul_(-d_logp[rows, None])
            at, inside = _within(targets[rows], words)
            d_logits.scatter_add_(-1, at[:, None], (inside * d_logp[rows])[:, None])
            d_hidden[rows] += d_logits.to(weight.dtype) @ weight[words]
            d_weight[words] += d_logits.to(hidden.dtype).T @ hidden[rows]
        return d_hidden, d_weight, None


def _blocks(hidden: Tensor, weight: Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows of `hidden` and rows of `weight` of each block of logits."""
    for row in range(0, len(hidden), PRIME_CHUNK):
        for word in range(0, len(weight), PRIME_VOCAB):
            stop = min(word + PRIME_VOCAB, len(weight))
            yield slice(row, row + PRIME_CHUNK), slice(word, stop)


def _within(targets: Tensor, words: slice) -> tuple[Tensor, Tensor]:
    """Columns of the targets in a block of logits, and which of them lie in it."""
    inside = (targets >= words.start) & (targets < words.stop)
    return (targets - words.start).clamp(0, words.stop - words.start - 1), inside


def prime_logp(problem: Problem, hidden: Tensor, weight: Tensor) -> Tensor:
    return _PrimeLogp.apply(hidden, weight, problem.targets.flatten())


def liger_scaled_logp(problem: Problem, hidden: Tensor, weight: Tensor) -> Tensor:
    """Liger's per-token NLL: torch in chunks of 512, or CuTe on Hopper where that is installed."""
    from liger_kernel.ops import LigerFusedLinearScaledCrossEntropyFunction

    targets = problem.targets.flatten()
    return -LigerFusedLinearScaledCrossEntropyFunction.apply(hidden, weight, targets)


def liger_sm90_logp(problem: Problem, hidden: Tensor, weight: Tensor) -> Tensor:
    """Liger's per-token NLL in CuTe, for bf16 on Hopper: no logits in memory."""
    from liger_kernel.ops.cutedsl.ops import fused_scaled_cross_entropy_sm90 as sm90

    targets = problem.targets.flatten()
    return -sm90.LigerFusedScaledCrossEntropySM90Function.apply(hidden, weight, targets)


def quack_logp(problem: Problem, hidden: Tensor, weight: Tensor) -> Tensor:
    """quack's cross-entropy of whole logits: the only one of its two that has a loss per token."""
    from quack.linear_cross_entropy import linear_cross_entropy_func

    targets = problem.targets.flatten()
    options = {"reduction": "none", "inplace_backward": True}
    return -linear_cross_entropy_func(hidden, weight, None, targets, **options).float()


def quack_cross_entropy(problem: Problem, hidden: Tensor, weight: Tensor) -> Tensor:
    """quack's chunked loss: every token's weight is the same, so it is no policy gradient."""
    from quack.linear_cross_entropy import chunked_linear_cross_entropy

    return chunked_linear_cross_entropy(hidden, weight, problem.targets.flatten())
