"""The kernels of the backwards: gradient of the logits from that of their statistics, and scaling.

A gradient formed in the forward is multiplied by that of the loss, which only the device knows; it
is 1 in `loss.backward()`, and then the gradient is neither read nor written.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from exprl_kernels import tables
from exprl_kernels.rowmath import inverse_temperature, row_gradient
from exprl_kernels.rowstats import on_device
from exprl_kernels.terms import Shape


@triton.jit
def row_grad_kernel(
    logits,
    stride,
    vocab,
    targets,
    temperatures,
    temperature,
    scale,
    softcap,
    top,
    log2_total,
    entropy,
    d_logp,
    d_entropy,
    d_lse,
    grad,
    grad_stride,
    BLOCK: tl.constexpr,
):
    """One program a row; entropy is NaN where the row is unsound."""
    row = tl.program_id(0).to(tl.int64)
    inverse = inverse_temperature(temperatures, temperature, row)
    row_entropy = tl.load(entropy + row)
    sound = tl.abs(row_entropy) < float("inf")
    row_entropy = tl.where(sound, row_entropy, 0.0)
    row_d_logp = tl.where(sound, tl.load(d_logp + row), 0.0)
    row_d_entropy = None
    if d_entropy is not None:
        row_d_entropy = tl.where(sound, tl.load(d_entropy + row), 0.0)
    row_d_lse = 0.0
    if d_lse is not None:
        row_d_lse = tl.where(sound, tl.load(d_lse + row), 0.0)
    row_gradient(
        logits + row * stride, grad + row * grad_stride, vocab, tl.load(targets + row),
        scale, softcap, inverse,
        tl.load(top + row), tl.load(log2_total + row), row_entropy,
        row_d_logp, row_d_entropy, row_d_lse, BLOCK,
    )  # fmt: skip


def row_grad(
    logits: Tensor,
    targets: Tensor,
    temperatures: Tensor | None,
    shape: Shape,
    *,
    top: Tensor,
    log2_total: Tensor,
    entropy: Tensor,
    d_logp: Tensor,
    d_entropy: Tensor | None,
    d_lse: Tensor | None,
    out: Tensor,
) -> None:
    """Gradient of logits [C, V] into out [C, V]; out may be logits. All others [C] fp32."""
    if not len(logits):
        return
    block = tables.block("row_grad", logits)
    with on_device(logits):
        row_grad_kernel[(len(logits),)](
            logits,
            logits.stride(0),
            logits.shape[1],
            targets,
            temperatures,
            shape.temperature,
            shape.logit_scale,
            shape.softcap,
            top,
            log2_total,
            entropy,
            d_logp,
            d_entropy,
            d_lse,
            out,
            out.stride(0),
            BLOCK=block.columns,
            num_warps=block.warps,
        )


@triton.jit
def scale_rows_kernel(grad, stride, columns, factor, BLOCK: tl.constexpr):
    """One program a row; factor: one number on the device."""
    row = tl.program_id(0).to(tl.int64)
    grad_row = grad + row * stride
    lanes = tl.arange(0, BLOCK)
    by = tl.load(factor).to(tl.float32)
    if by != 1.0:
        for start in range(0, columns, BLOCK):
            at = start + lanes
            value = tl.load(grad_row + at, mask=at < columns, other=0.0).to(tl.float32)
            tl.store(grad_row + at, (value * by).to(grad.dtype.element_ty), mask=at < columns)


def scale_rows(grad: Tensor, factor: Tensor) -> None:
    """grad [C, V] *= factor, a tensor of one number."""
    if not len(grad):
        return
    block = tables.block("row_grad", grad)
    with on_device(grad):
        scale_rows_kernel[(len(grad),)](
            grad,
            grad.stride(0),
            grad.shape[1],
            factor,
            BLOCK=block.columns,
            num_warps=block.warps,
        )
