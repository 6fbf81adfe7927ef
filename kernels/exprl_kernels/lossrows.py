"""The kernel of the losses: a row's statistics, its token's loss, and the gradient of the logits.

One program a row: the second pass over the row finds part of it in the L2 cache.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from exprl_kernels import tables
from exprl_kernels.lossmath import token_loss
from exprl_kernels.rowmath import inverse_temperature, row_gradient, row_statistics
from exprl_kernels.rowstats import on_device
from exprl_kernels.terms import Rows, Shape, Terms


class Tokens(NamedTuple):
    """What the kernel gives per token, [N]: GrpoOutput's, and what a backward needs."""

    loss: Tensor
    logp: Tensor
    entropy: Tensor
    k3: Tensor
    clip_code: Tensor
    ratio: Tensor
    bad: Tensor
    top: Tensor  # of Statistics
    log2_total: Tensor
    d_logp: Tensor
    d_entropy: Tensor  # [0] where entropy_coef is 0


def empty_tokens(n: int, terms: Terms, device: torch.device) -> Tokens:
    """Room for n tokens."""
    kinds = dict.fromkeys(Tokens._fields, torch.float32)
    kinds |= {"clip_code": torch.int8, "bad": torch.int8}
    sizes = dict.fromkeys(Tokens._fields, n) | {"d_entropy": n if terms.entropy_coef else 0}
    return Tokens(
        *(torch.empty(sizes[name], dtype=kinds[name], device=device) for name in Tokens._fields)
    )


# fmt: off
@triton.jit(do_not_specialize=["segments"])
def loss_rows_kernel(
    logits, stride, vocab, targets,
    seg_adv, segments, seg_id, token_weight,
    trainer_logp, initial_logp, generator_logp,
    temperatures, temperature, scale, softcap,
    clip_low, clip_high, dual_clip, kl_coef, entropy_coef, importance_cap,
    out_loss, out_logp, out_entropy, out_k3, out_clip_code, out_ratio, out_bad,
    out_top, out_log2_total, out_d_logp, out_d_entropy,
    grad, grad_stride,
    BLOCK: tl.constexpr,
):
    # fmt: on
    """grad: None, or where to write the gradient of the logits; it may be logits."""
    row = tl.program_id(0).to(tl.int64)
    x_row = logits + row * stride
    inverse = inverse_temperature(temperatures, temperature, row)
    target = tl.load(targets + row)
    weight = tl.load(token_weight + row).to(tl.float32)
    logp = tl.full([], float("nan"), tl.float32)
    entropy = logp
    top = logp
    log2_total = logp
    if weight != 0.0:
        logp, entropy, _, top, log2_total = row_statistics(
            x_row, vocab, target, scale, softcap, inverse, BLOCK
        )

    segment = tl.load(seg_id + row)
    known = (segment >= 0) & (segment < segments)
    adv = tl.load(seg_adv + segment, mask=known, other=0.0).to(tl.float32)
    trainer = None
    if trainer_logp is not None:
        trainer = tl.load(trainer_logp + row).to(tl.float32)
    initial = None
    if initial_logp is not None:
        initial = tl.load(initial_logp + row).to(tl.float32)
    generator = None
    if importance_cap is not None:
        generator = tl.load(generator_logp + row).to(tl.float32)
    loss, d_logp, bonus, k3, code, ratio, good = token_loss(
        logp, entropy, adv, weight, known, trainer, initial, generator,
        clip_low, clip_high, dual_clip, kl_coef, entropy_coef, importance_cap,
    )  # fmt: skip

    weighed = weight != 0.0
    used = good & weighed
    nan = float("nan")
    tl.store(out_loss + row, loss)
    tl.store(out_logp + row, logp)
    tl.store(out_entropy + row, entropy)
    tl.store(out_k3 + row, tl.where(used, k3, nan))
    tl.store(out_clip_code + row, code)
    tl.store(out_ratio + row, tl.where(used, ratio, nan))
    tl.store(out_bad + row, tl.where(weighed & (good == 0), 1, 0))
    tl.store(out_top + row, top)
    tl.store(out_log2_total + row, log2_total)
    tl.store(out_d_logp + row, d_logp)
    d_entropy = None
    if entropy_coef is not None:
        d_entropy = bonus
        tl.store(out_d_entropy + row, d_entropy)
    if grad is not None:
        row_gradient(
            x_row, grad + row * grad_stride, vocab, target, scale, softcap, inverse,
            top, log2_total, entropy, d_logp, d_entropy, 0.0, BLOCK,
        )  # fmt: skip


def loss_rows(
    logits: Tensor, rows: Rows, shape: Shape, terms: Terms, out: Tokens, grad: Tensor | None
) -> None:
    """Losses of logits [C, V] into out, and their gradient into grad [C, V] where it is given."""
    if not len(logits):
        return
    block = tables.block("loss_rows", logits)
    with on_device(logits):
        loss_rows_kernel[(len(logits),)](
            logits,
            logits.stride(0),
            logits.shape[1],
            rows.targets,
            rows.seg_adv,
            len(rows.seg_adv),
            rows.seg_id,
            rows.token_weight,
            rows.trainer_logp,
            rows.initial_logp,
            rows.generator_logp,
            rows.temperatures,
            *shape,
            *terms[:4],
            terms.entropy_coef or None,  # without it no entropy gradient is compiled
            terms.importance_cap,
            *out,
            grad,
            0 if grad is None else grad.stride(0),
            BLOCK=block.columns,
            num_warps=block.warps,
        )
