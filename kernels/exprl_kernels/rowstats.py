"""The kernel of `linear_logp`'s forward: logp, entropy and lse of each row (rowmath.py)."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
import triton
import triton.language as tl
from torch import Tensor

from exprl_kernels import tables
from exprl_kernels.rowmath import inverse_temperature, row_statistics
from exprl_kernels.terms import LogpOutput, Shape


@triton.jit
def row_stats_kernel(
    logits,
    stride,
    vocab,
    targets,
    temperatures,
    temperature,
    scale,
    softcap,
    logp,
    entropy,
    lse,
    BLOCK: tl.constexpr,
):
    """One program a row."""
    row = tl.program_id(0).to(tl.int64)
    inverse = inverse_temperature(temperatures, temperature, row)
    target = tl.load(targets + row)
    row_logp, row_entropy, row_lse = row_statistics(
        logits + row * stride, vocab, target, scale, softcap, inverse, BLOCK
    )
    tl.store(logp + row, row_logp)
    tl.store(entropy + row, row_entropy)
    tl.store(lse + row, row_lse)


def row_stats(
    logits: Tensor, targets: Tensor, temperatures: Tensor | None, shape: Shape, out: LogpOutput
) -> None:
    """Statistics of logits [C, V] (rows contiguous) into out, three times [C] fp32."""
    if not len(logits):
        return
    block = tables.block("row_stats", logits)
    with on_device(logits):
        row_stats_kernel[(len(logits),)](
            logits,
            logits.stride(0),
            logits.shape[1],
            targets,
            temperatures,
            shape.temperature,
            shape.logit_scale,
            shape.softcap,
            *out,
            BLOCK=block.columns,
            num_warps=block.warps,
        )


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
