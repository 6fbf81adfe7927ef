"""The head's log-probabilities and loss where its vocabulary is divided over ranks.

Rank r holds the rows vocab_start .. vocab_start + V_r - 1 of the head and every rank all tokens.
From its own logits alone it has, per token, lse_r and the entropy H_r of its share, and z[target]
if the target is its own. Those and the number of owners, four floats per token, are gathered once:

    lse = log sum_r exp(lse_r)      share_r = exp(lse_r - lse)      logp = z[target] - lse
    H = sum_r share_r (H_r + lse - lse_r)

All terms of H are positive, so nothing cancels. In the backward each rank differentiates its own
statistics; the gradient of the hidden states is summed over ranks, as Megatron-LM does in front of
every column-parallel layer. The head's kernels are those of `linear_logp`.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from exprl_kernels import check, chunks, definition
from exprl_kernels.check import Backend
from exprl_kernels.linear_logp import linear_logp
from exprl_kernels.terms import GrpoOutput, LogpOutput, Terms


def vocab_parallel_logp(
    hidden: Tensor,
    weight_shard: Tensor,
    targets: Tensor,
    *,
    vocab_start: int,
    group: dist.ProcessGroup | None = None,
    temperature: float | Tensor = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    chunk_tokens: int = chunks.CHUNK_TOKENS,
    workspace_bytes: int = chunks.WORKSPACE_BYTES,
    backend: Backend = "auto",
) -> LogpOutput:
    """`linear_logp` of a head whose rows are divided over the ranks of `group`.

    A collective: every rank calls it, and calls backward, with the same tokens. Every rank gets the
    same result, and from backward the whole gradient of hidden and that of its own shard, where all
    ranks differentiate the same loss.

    Args:
        hidden: [N, H], the same on every rank.
        weight_shard: [V_r, H], the rank's rows of the head; shards may differ in size.
        targets: [N] int64 or int32 in 0..V-1, the same on every rank.
        vocab_start: index in the vocabulary of the shard's first row.
        group: the ranks that share the head; None = all ranks.

    All others: see `linear_logp`. A target that no shard or more than one shard holds gives NaN.

    Raises:
        ValueError: with the value and the expected shape.
        RuntimeError: without an initialized process group.
    """
    _check_group(vocab_start)
    check.head(hidden, weight_shard, targets)
    local = targets - vocab_start
    owned = (local >= 0) & (local < len(weight_shard))
    logp, entropy, lse = linear_logp(
        _SumGradient.apply(hidden, group),  # type: ignore[no-untyped-call]
        weight_shard,
        torch.where(owned, local, 0),
        temperature=temperature,
        logit_scale=logit_scale,
        softcap=softcap,
        chunk_tokens=chunk_tokens,
        workspace_bytes=workspace_bytes,
        backend=backend,
    )
    target_z = torch.where(owned, logp + lse, 0.0)
    statistics = torch.stack([lse, entropy, target_z, owned.to(lse.dtype)])
    return merge(_Gather.apply(statistics, group))  # type: ignore[no-untyped-call]


def vocab_parallel_grpo_loss(
    hidden: Tensor,
    weight_shard: Tensor,
    targets: Tensor,
    *,
    vocab_start: int,
    group: dist.ProcessGroup | None = None,
    seg_adv: Tensor,
    seg_id: Tensor | None = None,
    seg_off: Tensor | None = None,
    token_weight: Tensor,
    trainer_logp: Tensor | None = None,
    initial_logp: Tensor | None = None,
    generator_logp: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    clip_low: float | None = 0.2,
    clip_high: float | None = 0.26,
    dual_clip: float | None = None,
    kl_coef: float = 0.0,
    entropy_coef: float = 0.0,
    importance_cap: float | None = None,
    chunk_tokens: int = chunks.CHUNK_TOKENS,
    workspace_bytes: int = chunks.WORKSPACE_BYTES,
    backend: Backend = "auto",
) -> GrpoOutput:
    """`linear_grpo_loss` of a head whose rows are divided over the ranks of `group`.

    The logits are formed twice (4 GEMMs), as no rank knows a row's statistics before the others'.
    Ranks, shards and gradients: see `vocab_parallel_logp`. All else: see `linear_grpo_loss`.
    """
    _, temperatures = check.shape(temperature, logit_scale, softcap, targets)
    rows = check.rows(
        targets,
        seg_adv=seg_adv,
        seg_id=seg_id,
        seg_off=seg_off,
        token_weight=token_weight,
        trainer_logp=trainer_logp,
        initial_logp=initial_logp,
        generator_logp=generator_logp,
        temperatures=temperatures,
    )
    terms = check.terms(
        rows, Terms(clip_low, clip_high, dual_clip, kl_coef, entropy_coef, importance_cap)
    )
    statistics = vocab_parallel_logp(
        hidden,
        weight_shard,
        targets,
        vocab_start=vocab_start,
        group=group,
        temperature=temperature,
        logit_scale=logit_scale,
        softcap=softcap,
        chunk_tokens=chunk_tokens,
        workspace_bytes=workspace_bytes,
        backend=backend,
    )
    return definition.token_loss(statistics, rows, terms)


def merge(statistics: Tensor) -> LogpOutput:
    """What the shards know together.

    Args:
        statistics: [R, 4, N], of each shard: lse, entropy, z of the target (0 where it is another
            shard's), number of owners (1 or 0).
    """
    lses, entropies, target_z, owners = statistics.unbind(1)
    lse = torch.logsumexp(lses, dim=0)
    share = torch.exp(lses - lse)
    entropy = (share * (entropies + lse - lses)).sum(0)
    logp = torch.where(owners.sum(0) == 1, target_z.sum(0) - lse, torch.nan)
    return LogpOutput(logp, entropy, lse)


class _Gather(torch.autograd.Function):
    """[4, N] of every rank, as [R, 4, N]; each rank differentiates its own part."""

    @staticmethod
    def forward(ctx, statistics: Tensor, group: dist.ProcessGroup | None) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.rank = dist.get_rank(group)
        parts = [torch.empty_like(statistics) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, statistics.contiguous(), group=group)
        return torch.stack(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        return gradient[ctx.rank], None


class _SumGradient(torch.autograd.Function):
    """The same tensor; its gradient is the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx, hidden: Tensor, group: dist.ProcessGroup | None) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.group = group
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        total = gradient.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


def _check_group(vocab_start: int) -> None:
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "no process group: call torch.distributed.init_process_group first, or use "
            "linear_logp and linear_grpo_loss where one rank holds the whole head"
        )
    if vocab_start < 0:
        raise ValueError(f"vocab_start = {vocab_start}; expected >= 0")
