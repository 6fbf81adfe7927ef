"""The loss in plain torch: the CPU path, and what every kernel is tested against.

Per token k, with z = logits / temperature and A_k the advantage of the token's segment:

    logp_k = z_k[target] - logsumexp(z_k)          r_k = exp(logp_k - behavior_logp_k)
    pg_k   = -min(r_k A_k, clip(r_k, 1 - clip_low, 1 + clip_high) A_k)
    k3_k   = exp(ref_k - logp_k) - (ref_k - logp_k) - 1
    loss   = sum_k token_weight_k (iw_k pg_k + kl_coef k3_k - entropy_coef H_k)

iw_k = min(exp(behavior_logp_k - rollout_logp_k), importance_cap), detached. The clip is PPO's
(Schulman et al. 2017, eq. 7) with unequal sides (DAPO, eq. 10), dual_clip is Ye et al. 2020,
eq. 5, and k3 is Schulman's estimator of KL(policy || reference).

Any dtype: logits are formed in the inputs' dtype, and statistics in at least fp32.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import torch
from torch import Tensor

# A log-ratio past this is not a policy that drifted but a broken row: weight 0, and counted.
MAX_LOG_RATIO = 20.0


class ClipCode(enum.IntEnum):
    """Which side of the clip held a token, so that its gradient through the ratio is 0."""

    NONE = 0
    LOW = 1
    HIGH = 2
    DUAL = 3


class LogpOutput(NamedTuple):
    """logp, entropy, lse: [N], natural log, at the temperature."""

    logp: Tensor
    entropy: Tensor
    lse: Tensor


class GrpoOutput(NamedTuple):
    """The scalar loss, differentiable; and per token [N], detached, what was seen on the way.

    bad_rows: number of tokens with weight > 0 that were left out because a value was not finite
        or a log-ratio lay beyond MAX_LOG_RATIO.
    """

    loss: Tensor
    logp: Tensor
    entropy: Tensor
    k3: Tensor
    clip_code: Tensor
    ratio: Tensor
    bad_rows: Tensor


def linear_logp(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, temperature: float | Tensor = 1.0
) -> LogpOutput:
    """Log-probability of each target under softmax(hidden @ weight.T / temperature).

    Args:
        hidden: [N, H].
        weight: [V, H], the head.
        targets: [N] int64 in 0..V-1.
        temperature: positive scalar, or [N].
    """
    return _row_stats(hidden @ weight.T, targets, temperature)


def linear_grpo_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    seg_adv: Tensor,
    seg_id: Tensor,
    token_weight: Tensor,
    behavior_logp: Tensor | None = None,
    ref_logp: Tensor | None = None,
    rollout_logp: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    clip_low: float | None = 0.2,
    clip_high: float | None = 0.26,
    dual_clip: float | None = None,
    kl_coef: float = 0.0,
    entropy_coef: float = 0.0,
    importance_cap: float | None = None,
) -> GrpoOutput:
    """The loss of `grpo_loss_from_logits` on logits = hidden @ weight.T.

    Args:
        hidden: [N, H].
        weight: [V, H], the head.
        targets, and all others: see `grpo_loss_from_logits`.
    """
    return grpo_loss_from_logits(
        hidden @ weight.T,
        targets,
        seg_adv=seg_adv,
        seg_id=seg_id,
        token_weight=token_weight,
        behavior_logp=behavior_logp,
        ref_logp=ref_logp,
        rollout_logp=rollout_logp,
        temperature=temperature,
        clip_low=clip_low,
        clip_high=clip_high,
        dual_clip=dual_clip,
        kl_coef=kl_coef,
        entropy_coef=entropy_coef,
        importance_cap=importance_cap,
    )


def grpo_loss_from_logits(
    logits: Tensor,
    targets: Tensor,
    *,
    seg_adv: Tensor,
    seg_id: Tensor,
    token_weight: Tensor,
    behavior_logp: Tensor | None = None,
    ref_logp: Tensor | None = None,
    rollout_logp: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    clip_low: float | None = 0.2,
    clip_high: float | None = 0.26,
    dual_clip: float | None = None,
    kl_coef: float = 0.0,
    entropy_coef: float = 0.0,
    importance_cap: float | None = None,
) -> GrpoOutput:
    """The token-level GRPO loss with one advantage per segment.

    Args:
        logits: [N, V].
        targets: [N] int64 in 0..V-1.
        seg_adv: [S], the advantage of each segment.
        seg_id: [N] in 0..S-1, the segment of each token.
        token_weight: [N] fp32, mask and aggregation; the loss is the weighted sum.
        behavior_logp: [N], log-probs of the policy before the update; None = this very policy
            (one on-policy step), so that the ratio is 1 with the gradient of logp.
        ref_logp: [N], of the frozen initial policy; needed where kl_coef > 0.
        rollout_logp: [N], of the engine; with importance_cap, for the truncated weight.
        temperature: positive scalar, or [N].
        clip_low, clip_high: both None = REINFORCE.
        dual_clip: lower bound of the loss for negative advantages is -dual_clip * A; > 1.

    Raises:
        ValueError: with the value, where arguments contradict each other.
    """
    _check(targets, seg_adv, seg_id, token_weight)
    if kl_coef and ref_logp is None:
        raise ValueError(f"kl_coef = {kl_coef} needs ref_logp")
    if (clip_low is None) != (clip_high is None):
        raise ValueError(f"clip_low = {clip_low} and clip_high = {clip_high} go together")
    logp, entropy, _ = _row_stats(logits, targets, temperature)
    behavior = logp.detach() if behavior_logp is None else behavior_logp.to(logp.dtype)
    log_ratio = logp - behavior
    log_ref = torch.zeros_like(logp) if ref_logp is None else ref_logp.to(logp.dtype) - logp

    good = _within(log_ratio) & _within(log_ref) & torch.isfinite(entropy)
    # Values are replaced before exp and not after, so that no NaN reaches the gradient.
    ratio = torch.exp(torch.where(good, log_ratio, 0.0))
    log_ref = torch.where(good, log_ref, 0.0)
    entropy = torch.where(good, entropy, 0.0)
    used_weight = torch.where(good, token_weight.to(logp.dtype), 0.0)

    adv = seg_adv.to(logp.dtype)[seg_id.long()]
    pg, clip_code = _policy_gradient(ratio, adv, clip_low, clip_high, dual_clip)
    if importance_cap is not None:
        if rollout_logp is None:
            raise ValueError(f"importance_cap = {importance_cap} needs rollout_logp")
        pg = pg * torch.exp(behavior - rollout_logp.to(logp.dtype)).clamp(max=importance_cap)
    k3 = torch.exp(log_ref) - log_ref - 1.0
    loss = (used_weight * (pg + kl_coef * k3 - entropy_coef * entropy)).sum()
    bad_rows = (~good & (token_weight > 0)).sum()
    return GrpoOutput(
        loss, logp.detach(), entropy.detach(), k3.detach(), clip_code, ratio.detach(), bad_rows
    )


def _policy_gradient(
    ratio: Tensor,
    adv: Tensor,
    clip_low: float | None,
    clip_high: float | None,
    dual_clip: float | None,
) -> tuple[Tensor, Tensor]:
    """pg [N] and the clip code [N] int8."""
    code = torch.zeros_like(adv, dtype=torch.int8)
    pg = -ratio * adv
    if clip_low is None or clip_high is None:
        return pg, code
    clipped = -ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * adv
    held = clipped > pg
    code[held & (adv < 0)] = ClipCode.LOW
    code[held & (adv > 0)] = ClipCode.HIGH
    pg = torch.maximum(pg, clipped)
    if dual_clip is not None:
        ceiling = -dual_clip * adv
        held = (adv < 0) & (pg > ceiling)
        code[held] = ClipCode.DUAL
        pg = torch.where(held, ceiling, pg)
    return pg, code


def _row_stats(logits: Tensor, targets: Tensor, temperature: float | Tensor) -> LogpOutput:
    scale = temperature[:, None] if isinstance(temperature, Tensor) else temperature
    z = logits.to(torch.promote_types(logits.dtype, torch.float32)) / scale
    lse = torch.logsumexp(z, dim=-1)
    logp = z.gather(-1, targets[:, None])[:, 0] - lse
    prob = torch.exp(z - lse[:, None])
    # A masked entry (-inf) has probability 0 and adds 0 to the entropy, not 0 * inf.
    entropy = lse - (prob * torch.where(prob > 0, z, 0.0)).sum(-1)
    return LogpOutput(logp, entropy, lse)


def _within(log_ratio: Tensor) -> Tensor:
    return torch.isfinite(log_ratio) & (log_ratio.detach().abs() <= MAX_LOG_RATIO)


def _check(targets: Tensor, seg_adv: Tensor, seg_id: Tensor, token_weight: Tensor) -> None:
    n = targets.shape[0]
    if seg_adv.dim() != 1:
        raise ValueError(
            f"seg_adv has shape {tuple(seg_adv.shape)}; expected one number per segment, [S]"
        )
    for name, value in (("seg_id", seg_id), ("token_weight", token_weight)):
        if value.shape != (n,):
            raise ValueError(f"{name} has shape {tuple(value.shape)}; expected [N] = ({n},)")
