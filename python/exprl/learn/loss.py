"""A micro-batch's hidden states, to the loss and what the metrics need of it.

Hidden states go to `exprl_kernels` and never become a micro-batch's logits: on a GPU to its Triton
kernels, on a CPU to its plain torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from exprl import config
from exprl_kernels import ClipCode, LogpOutput, linear_grpo_loss, linear_logp


class Head(NamedTuple):
    """From hidden states to logits: softcap * tanh(logit_scale * hidden @ weight.T / softcap)."""

    weight: Tensor  # [V, H]
    logit_scale: float = 1.0
    softcap: float | None = None

    def logp(self, hidden: Tensor, targets: Tensor, temperature: float) -> LogpOutput:
        """logp, entropy and lse [N] of the targets, differentiable, without the logits."""
        return linear_logp(
            hidden,
            self.weight,
            targets,
            temperature=temperature,
            logit_scale=self.logit_scale,
            softcap=self.softcap,
        )

    def log_softmax(self, hidden: Tensor, temperature: float) -> Tensor:
        """[N, V] fp32, for objectives over the whole vocabulary."""
        logits = (hidden @ self.weight.T).float() * self.logit_scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return torch.log_softmax(logits / temperature, dim=-1)


class LossInputs(NamedTuple):
    """Tensors of a TrainBatch on the device; N response tokens, S segments, natural logs."""

    targets: Tensor  # [N] int64
    seg_adv: Tensor  # [S]
    seg_id: Tensor  # [N] int32
    token_weight: Tensor  # [N]
    generator_logp: Tensor  # [N], by the engine
    trainer_logp: Tensor | None  # [N], before the update; None = this forward is on-policy
    initial_logp: Tensor | None  # [N], by the frozen initial policy
    teacher_logp: Tensor | None = None  # [N], after a prompt that shows the reference


class LossSums(NamedTuple):
    """What a micro-batch adds to LossStats: numbers on the device, which the host has not read."""

    tokens: Tensor
    loss: Tensor
    kl: Tensor
    entropy: Tensor
    clipped: Tensor
    capped: Tensor
    logp_gap: Tensor
    ratio_max: Tensor
    bad_rows: Tensor
    teacher_gap: Tensor

    def stacked(self) -> Tensor:
        """[10] fp64, in the order of LossStats."""
        return torch.stack([value.detach().double() for value in self])


@dataclass(slots=True)
class LossStats:
    """Sums over the tokens that weigh something in the loss; `tokens` turns them into means.

    capped: tokens whose importance weight loss.importance_cap held back; NaN without a cap.
    teacher_gap: of |teacher - trainer log-prob|; NaN without a teacher.
    """

    tokens: int = 0
    loss: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    clipped: int = 0
    capped: float = 0.0
    logp_gap: float = 0.0
    ratio_max: float = 0.0
    bad_rows: int = 0
    teacher_gap: float = 0.0

    @classmethod
    def from_numbers(cls, row: Sequence[float]) -> LossStats:
        """All fields in their order, as a tensor carries them."""
        tokens, loss, kl, entropy, clipped, capped, gap, ratio_max, bad_rows, teacher = row
        counts = int(tokens), int(clipped), int(bad_rows)
        first = (counts[0], loss, kl, entropy, counts[1], capped, gap, ratio_max)
        return cls(*first, counts[2], teacher)

    def add(self, other: LossStats) -> None:
        """Take in the sums of another micro-batch."""
        self.tokens += other.tokens
        self.loss += other.loss
        self.kl += other.kl
        self.entropy += other.entropy
        self.clipped += other.clipped
        self.capped += other.capped
        self.logp_gap += other.logp_gap
        self.ratio_max = max(self.ratio_max, other.ratio_max)
        self.bad_rows += other.bad_rows
        self.teacher_gap += other.teacher_gap


def read(parts: Sequence[LossSums], norm: Tensor) -> tuple[LossStats, float]:
    """The sums of a mini-batch and its gradient norm, as numbers: the only wait for the GPU."""
    rows = [part.stacked() for part in parts]
    *values, norm_value = torch.cat([*rows, norm.double().reshape(1)]).tolist()
    stats = LossStats()
    for row in zip(*[iter(values)] * len(LossSums._fields), strict=True):
        stats.add(LossStats.from_numbers(row))
    return stats, norm_value


def policy_loss(
    hidden: Tensor, head: Head, inputs: LossInputs, settings: config.Loss, temperature: float
) -> tuple[Tensor, LossSums]:
    """The differentiable loss of a micro-batch and its sums; rows that were left out add nothing.

    Args:
        hidden: [N, H], the state that predicts each response token.
    """
    out = linear_grpo_loss(
        hidden,
        head.weight,
        inputs.targets,
        seg_adv=inputs.seg_adv,
        seg_id=inputs.seg_id,
        token_weight=inputs.token_weight,
        trainer_logp=inputs.trainer_logp,
        initial_logp=inputs.initial_logp,
        generator_logp=inputs.generator_logp,
        temperature=temperature,
        logit_scale=head.logit_scale,
        softcap=head.softcap,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        kl_coef=settings.kl_coef,
        entropy_coef=settings.entropy_coef,
        importance_cap=settings.importance_cap,
    )
    before = out.logp if inputs.trainer_logp is None else inputs.trainer_logp
    weighed = inputs.token_weight != 0
    gap = torch.where(weighed, before - inputs.generator_logp, 0.0)
    teacher = gap.new_full((), math.nan)
    if inputs.teacher_logp is not None:
        teacher = torch.where(weighed, inputs.teacher_logp - before, 0.0).abs().sum()
    cap = settings.importance_cap
    return out.loss, LossSums(
        tokens=weighed.sum(),
        loss=out.loss,
        kl=out.k3.nansum(),
        entropy=out.entropy.nansum(),
        clipped=(out.clip_code != ClipCode.NONE).sum(),
        capped=gap.new_full((), math.nan) if cap is None else (gap > math.log(cap)).sum(),
        logp_gap=gap.abs().sum(),
        ratio_max=out.ratio.nan_to_num(nan=0.0).max(),
        bad_rows=out.bad_rows,
        teacher_gap=teacher,
    )


@torch.no_grad()
def token_logp(hidden: Tensor, head: Head, targets: Tensor, temperature: float) -> Tensor:
    """Log-probabilities [N] of the targets, without a graph."""
    return head.logp(hidden, targets, temperature).logp
