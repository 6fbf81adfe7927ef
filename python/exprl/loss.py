"""A micro-batch's hidden states, to the loss and what the metrics need of it.

The head is applied to chunks of tokens under checkpointing, so that no more than one chunk's
logits live at a time. The arithmetic is `exprl_kernels.reference`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from exprl import config
from exprl_kernels import ClipCode, linear_grpo_loss, linear_logp

CHUNK_TOKENS = 4096


class LossInputs(NamedTuple):
    """Tensors of a TrainBatch on the device; N response tokens, S segments, natural logs."""

    targets: Tensor  # [N] int64
    seg_adv: Tensor  # [S]
    seg_id: Tensor  # [N] int32
    token_weight: Tensor  # [N]
    generator_logp: Tensor  # [N], by the engine
    trainer_logp: Tensor | None  # [N], before the update; None = this forward is on-policy
    reference_logp: Tensor | None  # [N], by the frozen initial policy


@dataclass(slots=True)
class LossStats:
    """Sums over tokens; `tokens` turns them into means."""

    tokens: int = 0
    loss: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    clipped: int = 0
    logp_gap: float = 0.0
    ratio_max: float = 0.0
    bad_rows: int = 0

    def add(self, other: LossStats) -> None:
        """Take in the sums of another micro-batch."""
        self.tokens += other.tokens
        self.loss += other.loss
        self.kl += other.kl
        self.entropy += other.entropy
        self.clipped += other.clipped
        self.logp_gap += other.logp_gap
        self.ratio_max = max(self.ratio_max, other.ratio_max)
        self.bad_rows += other.bad_rows


def policy_loss(
    hidden: Tensor, head: Tensor, inputs: LossInputs, settings: config.Loss, temperature: float
) -> tuple[Tensor, LossStats]:
    """The differentiable loss of a micro-batch and its sums.

    Args:
        hidden: [N, H], the state that predicts each response token.
        head: [V, H].
    """
    total = hidden.new_zeros((), dtype=torch.float32)
    stats = LossStats()
    for start in range(0, len(hidden), CHUNK_TOKENS):
        part = slice(start, start + CHUNK_TOKENS)
        out = checkpoint(
            linear_grpo_loss,
            hidden[part],
            head,
            inputs.targets[part],
            seg_adv=inputs.seg_adv,
            seg_id=inputs.seg_id[part],
            token_weight=inputs.token_weight[part],
            behavior_logp=_part(inputs.trainer_logp, part),
            ref_logp=_part(inputs.reference_logp, part),
            rollout_logp=inputs.generator_logp[part],
            temperature=temperature,
            clip_low=settings.clip_low,
            clip_high=settings.clip_high,
            kl_coef=settings.kl_coef,
            entropy_coef=settings.entropy_coef,
            importance_cap=settings.importance_cap,
            use_reentrant=False,
        )
        total = total + out.loss
        before = out.logp if inputs.trainer_logp is None else inputs.trainer_logp[part]
        stats.add(
            LossStats(
                tokens=len(out.logp),
                loss=out.loss.item(),
                kl=out.k3.sum().item(),
                entropy=out.entropy.sum().item(),
                clipped=int((out.clip_code != ClipCode.NONE).sum()),
                logp_gap=(before - inputs.generator_logp[part]).abs().sum().item(),
                ratio_max=out.ratio.max().item(),
                bad_rows=int(out.bad_rows),
            )
        )
    return total, stats


@torch.no_grad()
def token_logp(hidden: Tensor, head: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Log-probabilities [N] of the targets, without a graph."""
    parts = [
        linear_logp(h, head, t, temperature=temperature).logp
        for h, t in zip(hidden.split(CHUNK_TOKENS), targets.split(CHUNK_TOKENS), strict=True)
    ]
    return torch.cat(parts)


def _part(values: Tensor | None, part: slice) -> Tensor | None:
    return None if values is None else values[part]
