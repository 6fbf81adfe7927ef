"""Device functions over one row of logits: its statistics in one pass, its gradient in another.

    y_j = softcap tanh(scale x_j / softcap),  z_j = y_j / temperature           with a softcap
    y_j = x_j,                                z_j = y_j scale / temperature     without

Powers are of 2, for which GPUs have an instruction. With z = factor y and rate = factor log2(e):

    m = max_j y_j    S = sum_j 2^(rate (y_j - m))    W = sum_j 2^(rate (y_j - m)) (y_j - m)
    lse = factor m + ln S        H = ln S - factor W / S        logp = factor (y_target - m) - ln S

    dz_j = d_logp (1[j = target] - p_j) - d_H p_j (log p_j + H) + d_lse p_j
    p_j = e^(z_j - lse) = 2^(rate (y_j - m) - log2 S), which no rounding puts above 1

The statistics are online (Milakov and Gimelshein 2018, arXiv 1805.02867): each lane keeps its own
m, S and W, and moves them to a new maximum once for every SUB_BLOCKS blocks. W is about the
maximum, so that an offset common to all logits cancels nothing of the entropy.

A logit at or below MASKED (-inf, or the least float) has p = 0 and gradient 0. A row is unsound
whose logits are all masked, hold NaN or +inf, or overflow fp32, or whose target is outside 0..V-1:
NaN statistics, gradient 0.
"""

import triton
import triton.language as tl

from exprl_kernels.terms import MASKED

# Blocks of a row between two changes of the maximum; their logits wait in registers.
SUB_BLOCKS = tl.constexpr(4)
_MASKED = tl.constexpr(MASKED)
_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def inverse_temperature(temperatures, temperature, row):
    """1 / temperature of the row: its own where `temperatures` is given."""
    if temperatures is None:
        inverse = 1.0 / temperature
    else:
        inverse = 1.0 / tl.load(temperatures + row).to(tl.float32)
    return inverse


@triton.jit
def factor_of(inverse, scale, softcap):
    """z / y."""
    factor = inverse
    if softcap is None:
        factor = inverse * scale
    return factor


@triton.jit
def to_y(x, scale, softcap):
    """y of raw logits, fp32."""
    y = x.to(tl.float32)
    if softcap is not None:
        # tanh(u) = 1 - 2 / (e^2u + 1); a mask stays a mask.
        power = tl.exp2(y * (2.0 * _LOG2E * scale / softcap))
        y = tl.where(y == float("-inf"), y, softcap * (1.0 - 2.0 / (power + 1.0)))
    return y


@triton.jit
def load_block(x_row, at, vocab, TAIL: tl.constexpr):
    """Logits at the columns `at`; only a row's tail has columns that do not exist."""
    if TAIL:
        return tl.load(x_row + at, mask=at < vocab, other=float("-inf"))
    return tl.load(x_row + at)


@triton.jit
def add_blocks(
    m, s, w, x_row, start, vocab, scale, softcap, rate,
    BLOCK: tl.constexpr, COUNT: tl.constexpr, TAIL: tl.constexpr,
):  # fmt: skip
    """m, S and W of each lane with COUNT blocks more."""
    lanes = start + tl.arange(0, BLOCK)
    ys = ()
    top = m
    for i in tl.static_range(COUNT):
        y = to_y(load_block(x_row, lanes + i * BLOCK, vocab, TAIL), scale, softcap)
        # NaN has to pass, and -inf must not: -inf - m times 0 would be NaN in W.
        y = tl.maximum(y, _MASKED, propagate_nan=tl.PropagateNan.ALL)
        top = tl.maximum(top, y)
        ys = ys + (y,)  # type: ignore[assignment]  # noqa: RUF005 (Triton has no star)
    moved = m - top
    shrink = tl.exp2(rate * moved)
    s = shrink * s
    w = shrink * w + s * moved
    for i in tl.static_range(COUNT):
        below = ys[i] - top
        e = tl.exp2(rate * below)
        s += e
        w += e * below
    return top, s, w


@triton.jit
def row_statistics(x_row, vocab, target, scale, softcap, inverse, BLOCK: tl.constexpr):
    """logp, entropy, lse, m and log2 S; the first three are NaN where the row is unsound."""
    factor = factor_of(inverse, scale, softcap)
    rate = factor * _LOG2E
    m = tl.full([BLOCK], _MASKED, tl.float32)
    s = tl.zeros([BLOCK], tl.float32)
    w = tl.zeros([BLOCK], tl.float32)
    group: tl.constexpr = BLOCK * SUB_BLOCKS
    tail = vocab // group * group
    for start in range(0, tail, group):
        m, s, w = add_blocks(
            m, s, w, x_row, start, vocab, scale, softcap, rate, BLOCK, SUB_BLOCKS, False
        )
    for start in range(tail, vocab, BLOCK):
        m, s, w = add_blocks(m, s, w, x_row, start, vocab, scale, softcap, rate, BLOCK, 1, True)
    top = tl.max(m, axis=0)
    moved = m - top
    shrink = tl.exp2(rate * moved)
    total = tl.sum(shrink * s, axis=0)
    weighted = tl.sum(shrink * (w + s * moved), axis=0)

    inside = (target >= 0) & (target < vocab)
    y_target = to_y(tl.load(x_row + target, mask=inside, other=0.0), scale, softcap)
    # NaN or +inf among the logits makes the total NaN, which no comparison passes.
    sound = inside & (total > 0.0) & (total < float("inf")) & (top > _MASKED)
    log2_total = tl.log2(tl.where(sound, total, 1.0))
    log_total = _LN2 * log2_total
    lse = factor * top + log_total
    entropy = log_total - factor * (weighted / tl.where(sound, total, 1.0))
    sound = sound & (tl.abs(lse) < float("inf")) & (tl.abs(entropy) < float("inf"))
    nan = float("nan")
    logp = tl.where(sound, factor * (y_target - top) - log_total, nan)
    return logp, tl.where(sound, entropy, nan), tl.where(sound, lse, nan), top, log2_total


@triton.jit
def gradient_of(y, rate, top, log2_total, pull, entropy_pull, softcap):
    """-p (pull + entropy_pull log2 p), times dy/dx over scale: what every logit of a row gets."""
    log2_p = rate * (y - top) - log2_total
    p = tl.exp2(log2_p)
    if entropy_pull is None:
        d_x = -pull * p
    else:
        d_x = -p * (pull + entropy_pull * tl.maximum(log2_p, _MASKED))
    if softcap is not None:
        tanh = y * (1.0 / softcap)
        d_x = tl.where(p > 0.0, d_x * (1.0 - tanh * tanh), 0.0)
    return d_x


@triton.jit
def row_gradient(
    x_row, grad_row, vocab, target, scale, softcap, inverse,
    top, log2_total, entropy, d_logp, d_entropy, d_lse, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write dloss/dx of a row; grad_row may be x_row itself, and d_entropy may be None."""
    # Under a softcap half as many logits at a time: its divisions take registers, too.
    group: tl.constexpr = BLOCK * SUB_BLOCKS if softcap is None else BLOCK * 2
    tail = vocab // group * group
    rate = factor_of(inverse, scale, softcap) * _LOG2E
    slope = inverse * scale
    pull = d_logp - d_lse
    taught = (d_logp != 0.0) | (pull != 0.0)
    entropy_pull = None
    if d_entropy is not None:
        taught = taught | (d_entropy != 0.0)
        pull += d_entropy * entropy
        entropy_pull = d_entropy * _LN2 * slope
    pull *= slope
    kind = grad_row.dtype.element_ty
    if taught:
        y_target = to_y(tl.load(x_row + target), scale, softcap)
        tl.debug_barrier()  # the target is read before any thread writes over it
        for start in range(0, tail, group):
            at = start + tl.arange(0, group)
            y = to_y(load_block(x_row, at, vocab, False), scale, softcap)
            d_x = gradient_of(y, rate, top, log2_total, pull, entropy_pull, softcap)
            tl.store(grad_row + at, d_x.to(kind))
        for start in range(tail, vocab, BLOCK):
            at = start + tl.arange(0, BLOCK)
            y = to_y(load_block(x_row, at, vocab, True), scale, softcap)
            d_x = gradient_of(y, rate, top, log2_total, pull, entropy_pull, softcap)
            tl.store(grad_row + at, d_x.to(kind), mask=at < vocab)
        d_target = d_logp * slope
        if softcap is not None:
            d_target *= 1.0 - (y_target / softcap) * (y_target / softcap)
        d_target += gradient_of(y_target, rate, top, log2_total, pull, entropy_pull, softcap)
        d_target = tl.where(y_target > _MASKED, d_target, 0.0)
        tl.debug_barrier()  # and written after all others
        tl.store(grad_row + target, d_target.to(kind))
    else:
        for start in range(0, vocab, group):
            at = start + tl.arange(0, group)
            tl.store(grad_row + at, tl.zeros([group], kind), mask=at < vocab)
