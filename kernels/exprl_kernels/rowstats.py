"""The kernel of `linear_logp`'s forward: the statistics of each row (rowmath.py)."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from exprl_kernels import tables
from exprl_kernels.rowmath import inverse_temperature, row_statistics
from exprl_kernels.terms import Shape


class Statistics(NamedTuple):
    """[N] fp32: LogpOutput's, and what p is formed from in a backward (rowmath.py)."""

    logp: Tensor
    entropy: Tensor
    lse: Tensor
    top: Tensor  # largest logit, at no temperature
    log2_total: Tensor


def empty_statistics(n: int, device: torch.device) -> Statistics:
    """Room for n tokens."""
    return Statistics(*(torch.empty(n, device=device) for _ in Statistics._fields))


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
    top,
    log2_total,
    BLOCK: tl.constexpr,
):
    """One program a row."""
    row = tl.program_id(0).to(tl.int64)
    inverse = inverse_temperature(temperatures, temperature, row)
    target = tl.load(targets + row)
    row_logp, row_entropy, row_lse, row_top, row_log2_total = row_statistics(
        logits + row * stride, vocab, target, scale, softcap, inverse, BLOCK
    )
    tl.store(logp + row, row_logp)
    tl.store(entropy + row, row_entropy)
    tl.store(lse + row, row_lse)
    tl.store(top + row, row_top)
    tl.store(log2_total + row, row_log2_total)


def row_stats(
    logits: Tensor, targets: Tensor, temperatures: Tensor | None, shape: Shape, out: Statistics
) -> None:
    """Statistics of logits [C, V] (rows contiguous) into out."""
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
