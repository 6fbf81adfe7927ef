"""The loss of one token and its derivatives, from logp and entropy: reference.py's `token_loss`.

    r = exp(logp - behavior)    pg = -min(r A, clip(r) A), at most -dual_clip A where A < 0
    iw = min(exp(behavior - rollout), cap)    k3 = exp(ref - logp) - (ref - logp) - 1
    loss = weight (iw pg + kl_coef k3 - entropy_coef H)

    dloss/dlogp = weight (iw pg' - kl_coef (exp(ref - logp) - 1)),   pg' = 0 where the clip holds
    dloss/dH    = -weight entropy_coef                               pg' = pg elsewhere

behavior, ref, rollout, and the bounds of the clip may be None, which the compiler sees.
"""

import triton
import triton.language as tl

from exprl_kernels.terms import MAX_LOG_RATIO, ClipCode

_MOST = tl.constexpr(MAX_LOG_RATIO)
_LOW = tl.constexpr(int(ClipCode.LOW))
_HIGH = tl.constexpr(int(ClipCode.HIGH))
_DUAL = tl.constexpr(int(ClipCode.DUAL))


@triton.jit
def finite(x):
    """Neither NaN nor infinite."""
    return tl.abs(x) < float("inf")


@triton.jit
def k3_of(log_ref):
    """exp(u) - u - 1, by its series near 0, where the difference would cancel."""
    series = 0.5 + log_ref * (
        1.0 / 6 + log_ref * (1.0 / 24 + log_ref * (1.0 / 120 + log_ref / 720))
    )
    return tl.where(
        tl.abs(log_ref) < 0.1, log_ref * log_ref * series, tl.exp(log_ref) - log_ref - 1.0
    )


@triton.jit
def token_loss(
    logp,
    entropy,
    adv,
    weight,
    known,
    behavior,
    ref,
    rollout,
    clip_low,
    clip_high,
    dual_clip,
    kl_coef,
    entropy_coef,
    importance_cap,
):
    """loss, d_logp, d_entropy, k3, clip code, ratio, and whether the token counts.

    known: its segment exists.
    """
    if behavior is None:
        behavior = logp
    log_ratio = logp - behavior
    log_ref = logp * 0.0
    if ref is not None:
        log_ref = ref - logp
    good = known & finite(weight) & finite(adv) & finite(entropy)
    good = good & (tl.abs(log_ratio) <= _MOST) & (tl.abs(log_ref) <= _MOST)
    if importance_cap is not None:
        good = good & finite(behavior - rollout)
    used = good & (weight != 0.0)

    weight = tl.where(used, weight, 0.0)
    adv = tl.where(used, adv, 0.0)
    ratio = tl.exp(tl.where(used, log_ratio, 0.0))
    log_ref = tl.where(used, log_ref, 0.0)
    pg = -ratio * adv
    d_pg = pg
    code = 0
    if clip_low is not None:
        held_ratio = tl.minimum(tl.maximum(ratio, 1.0 - clip_low), 1.0 + clip_high)
        clipped = -held_ratio * adv
        held = clipped > pg
        code = tl.where(held, tl.where(adv < 0.0, _LOW, _HIGH), code)
        d_pg = tl.where(held, 0.0, d_pg)
        pg = tl.maximum(pg, clipped)
        if dual_clip is not None:
            ceiling = -dual_clip * adv
            held = (adv < 0.0) & (pg > ceiling)
            code = tl.where(held, _DUAL, code)
            d_pg = tl.where(held, 0.0, d_pg)
            pg = tl.where(held, ceiling, pg)
    if importance_cap is not None:
        importance = tl.exp(tl.where(used, behavior - rollout, 0.0))
        importance = tl.minimum(importance, importance_cap)
        pg = pg * importance
        d_pg = d_pg * importance
    k3 = k3_of(log_ref)
    bonus = entropy_coef * tl.where(used, entropy, 0.0)
    loss = weight * (pg + kl_coef * k3 - bonus)
    d_logp = weight * (d_pg - kl_coef * (tl.exp(log_ref) - 1.0))
    d_entropy = -weight * entropy_coef
    return loss, d_logp, d_entropy, k3, code, ratio, good
