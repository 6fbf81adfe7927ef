"""The losses of the baselines that have no reward: SFT and self-distillation.

Per response token k, with weight w_k that sums to 1 over an optimizer step (token mean):

    cross-entropy    loss = -sum_k w_k log p(reference token k)              temperature 1
    reverse KL       loss =  sum_k w_k sum_v p_k(v) (log p_k(v) - log q_k(v))

p is the student. q is the teacher: the frozen initial policy, which reads the student's own tokens
after a prompt that shows the reference; both at the sampling temperature. The KL's gradient goes
through p_k alone, not through the sampling of the tokens before k (GKD, arXiv 2306.13649).

The cross-entropy is fused as in loss.py; the KL is plain torch over chunks of tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from exprl.learn.loss import Head, LossSums

# The KL needs both whole distributions: no more than this many tokens' logits live at a time.
CHUNK_TOKENS = 4096


def cross_entropy(
    hidden: Tensor, head: Head, targets: Tensor, token_weight: Tensor
) -> tuple[Tensor, LossSums]:
    """The differentiable loss of a micro-batch and its sums.

    Args:
        hidden: [N, H], the state that predicts each token of the references.
        targets: [N] int64.
        token_weight: [N].
    """
    logp, entropy, _ = head.logp(hidden, targets, temperature=1.0)
    loss = -(token_weight * logp).sum()
    return loss, _sums(loss, token_weight, entropy.sum(), hidden.new_full((), math.nan))


def reverse_kl(
    hidden: Tensor,
    head: Head,
    teacher_hidden: Tensor,
    teacher_head: Head,
    targets: Tensor,
    token_weight: Tensor,
    generator_logp: Tensor,
    trainer_logp: Tensor | None,
    temperature: float,
) -> tuple[Tensor, LossSums]:
    """The differentiable loss of a micro-batch and its sums.

    Args:
        hidden: [N, H], the student's states.
        teacher_hidden: [N, H'], the teacher's states of the same tokens.
        targets, token_weight: [N].
        generator_logp: [N], by the engine, which sampled the tokens.
        trainer_logp: [N], by the student before the step; None = it has not moved since.
    """
    losses, entropies, gaps = [], [], []
    for start in range(0, len(hidden), CHUNK_TOKENS):
        part = slice(start, start + CHUNK_TOKENS)
        divergence, logp, entropy = checkpoint(
            _reverse_kl,
            hidden[part],
            head,
            teacher_hidden[part],
            teacher_head,
            targets[part],
            temperature,
            use_reentrant=False,
        )
        losses.append((token_weight[part] * divergence).sum())
        entropies.append(entropy.sum())
        before = logp.detach() if trainer_logp is None else trainer_logp[part]
        gaps.append((before - generator_logp[part]).abs().sum())
    loss, entropy, gap = (torch.stack(parts).sum() for parts in (losses, entropies, gaps))
    return loss, _sums(loss, token_weight, entropy, gap)


def _reverse_kl(
    hidden: Tensor,
    head: Head,
    teacher_hidden: Tensor,
    teacher_head: Head,
    targets: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """KL(p || q) [N], log p of each target [N] and the entropy [N], the last two for metrics."""
    log_p = head.log_softmax(hidden, temperature)
    log_q = teacher_head.log_softmax(teacher_hidden, temperature)
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
    return divergence, _at(log_p, targets), _entropy(log_p)


def _at(log_p: Tensor, targets: Tensor) -> Tensor:
    return log_p.gather(-1, targets[:, None])[:, 0]


def _entropy(log_p: Tensor) -> Tensor:
    fixed = log_p.detach()
    return -(fixed.exp() * fixed).sum(-1)


def _sums(loss: Tensor, token_weight: Tensor, entropy: Tensor, logp_gap: Tensor) -> LossSums:
    """Neither loss has a KL to the initial policy, or a ratio."""
    zero = torch.zeros_like(loss)
    return LossSums(
        tokens=(token_weight != 0).sum(),
        loss=loss,
        kl=torch.full_like(loss, math.nan),
        entropy=entropy,
        clipped=zero,
        capped=torch.full_like(loss, math.nan),
        logp_gap=logp_gap,
        ratio_max=zero,
        bad_rows=zero,
        teacher_gap=torch.full_like(loss, math.nan),
    )
