"""The loss of one token and its derivatives, from logp and entropy: definition.py's `token_loss`.

    r = exp(logp - trainer)    pg = -min(r A, clip(r) A), at most -dual_clip A where A < 0
    iw = min(exp(trainer - generator), cap)    k3 = exp(initial - logp) - (initial - logp) - 1
    loss = weight (iw pg + kl_coef k3 - entropy_coef H)

    dloss/dlogp = weight (iw pg' - kl_coef (exp(initial - logp) - 1)),  pg' = 0 where the clip holds
    dloss/dH    = -weight entropy_coef                              pg' = pg elsewhere

trainer, initial, generator, the bounds of the clip and entropy_coef may be None, which the compiler
sees.
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
def k3_of(u):
    """exp(u) - u - 1, by its series near 0, where the difference would cancel."""
    series = 0.5 + u * (1.0 / 6 + u * (1.0 / 24 + u * (1.0 / 120 + u / 720)))
    return tl.where(tl.abs(u) < 0.1, u * u * series, tl.exp(u) - u - 1.0)


@triton.jit
def token_loss(
    logp,
    entropy,
    adv,
    weight,
    known,
    trainer,
    initial,
    generator,
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
    if trainer is None:
        trainer = logp
    log_ratio = logp - trainer
    log_initial = logp * 0.0
    if initial is not None:
        log_initial = initial - logp
    good = known & finite(weight) & finite(adv) & finite(entropy)
    good = good & (tl.abs(log_ratio) <= _MOST) & (tl.abs(log_initial) <= _MOST)
    if importance_cap is not None:
        good = good & finite(trainer - generator)
    used = good & (weight != 0.0)

    weight = tl.where(used, weight, 0.0)
    adv = tl.where(used, adv, 0.0)
    ratio = tl.exp(tl.where(used, log_ratio, 0.0))
    log_initial = tl.where(used, log_initial, 0.0)
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
        importance = tl.exp(tl.where(used, trainer - generator, 0.0))
        importance = tl.minimum(importance, importance_cap)
        pg = pg * importance
        d_pg = d_pg * importance
    k3 = k3_of(log_initial)
    loss = weight * (pg + kl_coef * k3)
    d_logp = weight * (d_pg - kl_coef * (tl.exp(log_initial) - 1.0))
    d_entropy = weight * 0.0
    if entropy_coef is not None:
        loss -= weight * entropy_coef * tl.where(used, entropy, 0.0)
        d_entropy = -weight * entropy_coef
    return loss, d_logp, d_entropy, k3, code, ratio, good
