"""The loss in plain torch: the CPU path, and what every kernel is tested against.

Per token k, with z = logits / temperature and A_k the advantage of the token's segment:

    logp_k = z_k[target] - logsumexp(z_k)          r_k = exp(logp_k - trainer_logp_k)
    pg_k   = -min(r_k A_k, clip(r_k, 1 - clip_low, 1 + clip_high) A_k)
    k3_k   = exp(initial_k - logp_k) - (initial_k - logp_k) - 1
    loss   = sum_k token_weight_k (iw_k pg_k + kl_coef k3_k - entropy_coef H_k)

iw_k = min(exp(trainer_logp_k - generator_logp_k), importance_cap), detached. The clip is PPO's
(Schulman et al. 2017, eq. 7) with unequal sides (DAPO, eq. 10), dual_clip is Ye et al. 2020,
eq. 5, and k3 is Schulman's estimator of KL(policy || initial policy).

Any dtype: operands of the head are used at their own precision, and everything after them is at
least fp32. Gradients are autograd's. Arguments come checked from the public functions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from exprl_kernels.terms import (
    MASKED,
    MAX_LOG_RATIO,
    ClipCode,
    GrpoOutput,
    LogpOutput,
    Rows,
    Shape,
    Terms,
)


def linear_logp(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperatures: Tensor | None,
    shape: Shape,
    *,
    dtype: torch.dtype,
    chunk: int,
) -> LogpOutput:
    """Statistics of each row of hidden @ weight.T; `chunk` rows of logits live at a time."""

    def part(x: Tensor, head: Tensor, target: Tensor, temperature: Tensor | None) -> LogpOutput:
        return row_stats(_logits(x, head, dtype), target, temperature, shape)

    parts = [
        _bounded(part, len(hidden) > chunk, hidden[at], weight, targets[at], _at(temperatures, at))
        for at in _slices(len(hidden), chunk)
    ]
    return LogpOutput(*(torch.cat(values) for values in zip(*parts, strict=True)))


def linear_grpo_loss(
    hidden: Tensor,
    weight: Tensor,
    rows: Rows,
    shape: Shape,
    terms: Terms,
    *,
    dtype: torch.dtype,
    chunk: int,
) -> GrpoOutput:
    """The loss of `grpo_loss_from_logits` on hidden @ weight.T, `chunk` rows at a time."""

    def part(x: Tensor, head: Tensor, rows: Rows) -> GrpoOutput:
        return grpo_loss_from_logits(_logits(x, head, dtype), rows, shape, terms)

    parts = [
        _bounded(part, len(hidden) > chunk, hidden[at], weight, rows_at(rows, at))
        for at in _slices(len(hidden), chunk)
    ]
    loss, *per_token, bad_rows = zip(*parts, strict=True)
    return GrpoOutput.of(
        torch.stack(loss).sum(), (torch.cat(v) for v in per_token), torch.stack(bad_rows).sum()
    )


def grpo_loss_from_logits(logits: Tensor, rows: Rows, shape: Shape, terms: Terms) -> GrpoOutput:
    """The token-level GRPO loss with one advantage per segment, of logits [N, V]."""
    stats = row_stats(logits, rows.targets, rows.temperatures, shape)
    return token_loss(stats, rows, terms)


def token_loss(stats: LogpOutput, rows: Rows, terms: Terms) -> GrpoOutput:
    """The loss of per-token statistics, differentiable in logp and entropy."""
    logp, entropy, _ = stats
    kind = logp.dtype
    trainer = logp.detach() if rows.trainer_logp is None else rows.trainer_logp.to(kind)
    log_ratio = logp - trainer
    log_initial = (
        torch.zeros_like(logp) if rows.initial_logp is None else rows.initial_logp.to(kind) - logp
    )
    weight = rows.token_weight.to(kind)
    known = (rows.seg_id >= 0) & (rows.seg_id < len(rows.seg_adv))
    adv = rows.seg_adv.to(kind)[torch.where(known, rows.seg_id, 0).long()]
    good = _within(log_ratio) & _within(log_initial) & torch.isfinite(entropy) & known
    good = good & torch.isfinite(weight) & torch.isfinite(adv)
    importance = torch.zeros_like(logp)
    if terms.importance_cap is not None and rows.generator_logp is not None:
        importance = trainer.detach() - rows.generator_logp.to(kind)
        good = good & torch.isfinite(importance)

    # Values are replaced before exp and not after, so that no NaN reaches the gradient.
    used = good & (weight != 0)
    ratio = torch.exp(torch.where(used, log_ratio, 0.0))
    log_initial = torch.where(used, log_initial, 0.0)
    pg, clip_code = _policy_gradient(ratio, torch.where(used, adv, 0.0), terms)
    if terms.importance_cap is not None:
        importance = torch.exp(torch.where(used, importance, 0.0))
        pg = pg * importance.clamp(max=terms.importance_cap)
    k3 = torch.expm1(log_initial) - log_initial
    bonus = terms.entropy_coef * torch.where(used, entropy, 0.0)
    loss = (torch.where(used, weight, 0.0) * (pg + terms.kl_coef * k3 - bonus)).sum()

    def seen(value: Tensor, where: Tensor) -> Tensor:
        return torch.where(where, value.detach(), torch.nan)

    return GrpoOutput(
        loss,
        seen(logp, weight != 0),
        seen(entropy, weight != 0),
        seen(k3, used),
        clip_code,
        seen(ratio, used),
        (~good & (weight != 0)).sum(),
    )


def row_stats(
    logits: Tensor, targets: Tensor, temperatures: Tensor | None, shape: Shape
) -> LogpOutput:
    """logp of the target, entropy and logsumexp of each row of logits [N, V]."""
    top = _to_z(logits.detach().amax(-1, keepdim=True), temperatures, shape)[:, 0]
    sound = torch.isfinite(top) & (top > MASKED)
    sound = sound & (targets >= 0) & (targets < logits.shape[-1])
    # Replaced before tanh and exp and not after, so that no NaN reaches the gradient.
    z = _to_z(torch.where(sound[:, None], logits, 0.0), temperatures, shape)
    lse = torch.logsumexp(z, dim=-1)
    logp = z.gather(-1, torch.where(sound, targets, 0).long()[:, None])[:, 0] - lse
    log_prob = z - lse[:, None]
    prob = torch.exp(log_prob)
    # A masked entry (-inf) has probability 0 and adds 0 to the entropy, not 0 * inf.
    entropy = -(prob * torch.where(prob > 0, log_prob, 0.0)).sum(-1)
    return LogpOutput(*(torch.where(sound, value, torch.nan) for value in (logp, entropy, lse)))


def rows_at(rows: Rows, part: slice | Tensor) -> Rows:
    """The rows of some tokens (a slice or indices); advantages are per segment and stay whole."""
    return Rows(
        *(v if v is None or v is rows.seg_adv else v[part] for v in rows)  # type: ignore[arg-type]
    )


def _to_z(x: Tensor, temperatures: Tensor | None, shape: Shape) -> Tensor:
    """z of raw logits x, in at least fp32."""
    z = x.to(torch.promote_types(x.dtype, torch.float32)) * shape.logit_scale
    if shape.softcap is not None:
        capped = shape.softcap * torch.tanh(z / shape.softcap)
        z = torch.where(z == -torch.inf, z, capped)  # a mask stays a mask
    return z / (shape.temperature if temperatures is None else temperatures[:, None])


def _policy_gradient(ratio: Tensor, adv: Tensor, terms: Terms) -> tuple[Tensor, Tensor]:
    """pg [N] and the clip code [N] int8."""
    code = torch.zeros_like(adv, dtype=torch.int8)
    pg = -ratio * adv
    if terms.clip_low is None or terms.clip_high is None:
        return pg, code
    clipped = -ratio.clamp(1.0 - terms.clip_low, 1.0 + terms.clip_high) * adv
    held = clipped > pg
    code = torch.where(held, torch.where(adv < 0, int(ClipCode.LOW), int(ClipCode.HIGH)), code)
    pg = torch.maximum(pg, clipped)
    if terms.dual_clip is not None:
        ceiling = -terms.dual_clip * adv
        held = (adv < 0) & (pg > ceiling)
        code = torch.where(held, int(ClipCode.DUAL), code)
        pg = torch.where(held, ceiling, pg)
    return pg, code.to(torch.int8)


def _within(log_ratio: Tensor) -> Tensor:
    return torch.isfinite(log_ratio) & (log_ratio.detach().abs() <= MAX_LOG_RATIO)


def _logits(x: Tensor, head: Tensor, dtype: torch.dtype) -> Tensor:
    """x @ head.T of operands in dtype, summed in at least fp32; a row that is not finite is NaN."""
    wide = torch.promote_types(dtype, torch.float32)
    finite = torch.isfinite(x).all(-1, keepdim=True)
    with torch.autocast(x.device.type, enabled=False):
        logits = torch.where(finite, x, 0.0).to(dtype).to(wide) @ head.to(dtype).to(wide).T
    return torch.where(finite, logits, torch.nan)


def _bounded(function, recompute: bool, *args):  # type: ignore[no-untyped-def]
    """Call it; with `recompute`, the backward forms what it needs anew instead of keeping it."""
    return checkpoint(function, *args, use_reentrant=False) if recompute else function(*args)


def _slices(n: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, n)) for start in range(0, max(n, 1), chunk)]


def _at(values: Tensor | None, part: slice) -> Tensor | None:
    return None if values is None else values[part]
