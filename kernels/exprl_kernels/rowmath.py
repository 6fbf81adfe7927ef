"""Device functions over one row of logits: z, its statistics in one pass, its gradient in another.

    z_j = softcap * tanh(scale * x_j / softcap) / temperature,  or scale * x_j / temperature

    m = max_j z_j    S = sum_j e^(z_j - m)    W = sum_j e^(z_j - m) (z_j - m)
    lse = m + log S        H = log S - W / S        logp = z_target - lse

    dz_j = d_logp (1[j = target] - p_j) - d_H p_j (log p_j + H) + d_lse p_j,   p_j = e^(z_j - lse)

The statistics are online (Milakov and Gimelshein 2018, arXiv 1805.02867), with W about the running
maximum, so that an offset common to all logits cancels nothing of the entropy. A masked entry
(-inf) has p = 0 and gradient 0; a row without a finite maximum, or whose target is outside 0..V-1,
is unsound: NaN statistics, gradient 0.
"""

import triton
import triton.language as tl


@triton.jit
def inverse_temperature(temperatures, temperature, row):
    """1 / temperature of the row: its own where `temperatures` is given."""
    if temperatures is None:
        inverse = 1.0 / temperature
    else:
        inverse = 1.0 / tl.load(temperatures + row).to(tl.float32)
    return inverse


@triton.jit
def to_z(x, scale, softcap, inverse):
    """z of raw logits, fp32."""
    y = x.to(tl.float32) * scale
    if softcap is not None:
        # tanh(u) = 2 sigmoid(2u) - 1; a mask stays a mask.
        capped = softcap * (2.0 * tl.sigmoid(2.0 * y / softcap) - 1.0)
        y = tl.where(y == float("-inf"), y, capped)
    return y * inverse


@triton.jit
def row_statistics(x_row, vocab, target, scale, softcap, inverse, BLOCK: tl.constexpr):
    """logp, entropy, lse, and whether the row is sound; each lane keeps its own m, S, W."""
    lanes = tl.arange(0, BLOCK)
    m = tl.full([BLOCK], float("-inf"), tl.float32)
    s = tl.zeros([BLOCK], tl.float32)
    w = tl.zeros([BLOCK], tl.float32)
    for start in range(0, vocab, BLOCK):
        at = start + lanes
        x = tl.load(x_row + at, mask=at < vocab, other=float("-inf"))
        z = to_z(x, scale, softcap, inverse)
        top = tl.maximum(m, z)
        base = tl.where(top == float("-inf"), 0.0, top)
        moved = tl.where(m == float("-inf"), 0.0, m - base)
        shrink = tl.exp(moved)
        rise = tl.where(z == float("-inf"), 0.0, z - base)
        e = tl.where(z == float("-inf"), 0.0, tl.exp(rise))
        w = shrink * (w + s * moved) + e * rise
        s = shrink * s + e
        m = top
    top = tl.max(m, axis=0)
    moved = tl.where(m == float("-inf"), 0.0, m - top)
    shrink = tl.exp(moved)
    total = tl.sum(shrink * s, axis=0)
    weighted = tl.sum(shrink * (w + s * moved), axis=0)

    inside = (target >= 0) & (target < vocab)
    x_target = tl.load(x_row + target, mask=inside, other=0.0)
    z_target = to_z(x_target, scale, softcap, inverse)
    # A NaN among the logits makes the total NaN, which no comparison passes.
    sound = inside & (total > 0.0) & (tl.abs(top) < float("inf")) & (total < float("inf"))
    log_total = tl.log(tl.where(sound, total, 1.0))
    lse = tl.where(sound, top + log_total, float("nan"))
    entropy = tl.where(sound, log_total - weighted / tl.where(sound, total, 1.0), float("nan"))
    return z_target - lse, entropy, lse, sound


@triton.jit
def row_gradient(
    x_row,
    grad_row,
    vocab,
    target,
    scale,
    softcap,
    inverse,
    lse,
    entropy,
    d_logp,
    d_entropy,
    d_lse,
    sound,
    BLOCK: tl.constexpr,
):
    """Write dloss/dx of a row; grad_row may be x_row itself."""
    lanes = tl.arange(0, BLOCK)
    lse = tl.where(sound, lse, 0.0)
    entropy = tl.where(sound, entropy, 0.0)
    for start in range(0, vocab, BLOCK):
        at = start + lanes
        x = tl.load(x_row + at, mask=at < vocab, other=float("-inf"))
        z = to_z(x, scale, softcap, inverse)
        masked = z == float("-inf")
        log_p = tl.where(masked, 0.0, z - lse)
        p = tl.where(masked, 0.0, tl.exp(log_p))
        hit = tl.where(at == target, 1.0, 0.0)
        d_z = d_logp * (hit - p) - d_entropy * p * (log_p + entropy) + d_lse * p
        d_x = d_z * inverse * scale
        if softcap is not None:
            tanh = z / inverse / softcap
            d_x = d_x * (1.0 - tanh * tanh)
        d_x = tl.where(masked, 0.0, d_x)
        d_x = tl.where(sound, d_x, 0.0)
        tl.store(grad_row + at, d_x.to(grad_row.dtype.element_ty), mask=at < vocab)
