"""The head over chunks of tokens: how many make a chunk, and its three products.

    logits [C, V] = x w^T in fp32          dx [C, H] = g w          dw [V, H] += g^T x in fp32

bf16 operands, fp32 sums and fp32 results: cuBLAS has that product, CPUs get fp32 copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

CHUNK_TOKENS = 4096
WORKSPACE_BYTES = 4 << 30
_TILE = 128  # rows of a GEMM tile


def chunk_size(n: int, bytes_per_token: int, chunk_tokens: int, workspace_bytes: int) -> int:
    """Tokens per chunk: at most `chunk_tokens`, fitting the workspace, of nearly equal chunks."""
    if chunk_tokens < 1 or workspace_bytes < 1:
        raise ValueError(
            f"chunk_tokens = {chunk_tokens}, workspace_bytes = {workspace_bytes}; expected >= 1"
        )
    most = max(1, min(chunk_tokens, workspace_bytes // max(1, bytes_per_token)))
    if most >= n:
        return max(1, n)
    whole_tiles = most // _TILE * _TILE
    if not whole_tiles:
        return most
    equal = -(-n // -(-n // whole_tiles))
    return min(whole_tiles, -(-equal // _TILE) * _TILE)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some tokens on their way through the head.

    at: which of the N tokens.
    x: [C, H] in the operands' dtype; rows that were not finite are 0 here.
    weight: [V, H] in the operands' dtype.
    targets: [C]; -1 for the rows that were not finite, which makes them unsound.
    """

    at: slice
    x: Tensor
    weight: Tensor
    targets: Tensor
    _logits: Tensor  # [C, V] fp32, room shared by all chunks
    _grad: Tensor  # [C, V] in the operands' dtype, the same room where they are fp32

    def logits(self) -> Tensor:
        """x @ weight.T in fp32, formed by this call."""
        if self.x.dtype == torch.float32:
            return torch.mm(self.x, self.weight.T, out=self._logits)
        if self.x.is_cuda:
            return torch.mm(self.x, self.weight.T, torch.float32, out=self._logits)
        return torch.mm(self.x.float(), self.weight.T.float(), out=self._logits)

    def gradient(self) -> Tensor:
        """Room for the gradient of the logits; writing it may overwrite them."""
        return self._grad


def over(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    dtype: torch.dtype,
    chunk_tokens: int,
    workspace_bytes: int,
    gradient: bool = True,
) -> Iterator[Chunk]:
    """The chunks of hidden [N, H], with room for their logits and, where wanted, gradients."""
    vocab, narrow = len(weight), dtype != torch.float32
    bytes_per_token = vocab * (4 + dtype.itemsize * (narrow and gradient))
    size = chunk_size(len(hidden), bytes_per_token, chunk_tokens, workspace_bytes)
    operand = weight.detach().to(dtype)
    logits = torch.empty(size, vocab, dtype=torch.float32, device=hidden.device)
    grads = logits
    if narrow and gradient:
        grads = torch.empty(size, vocab, dtype=dtype, device=hidden.device)
    for start in range(0, len(hidden), size):
        at = slice(start, min(start + size, len(hidden)))
        x = hidden.detach()[at]
        finite = torch.isfinite(x).all(-1)
        count = len(x)
        yield Chunk(
            at,
            torch.where(finite[:, None], x, 0.0).to(dtype),
            operand,
            torch.where(finite, targets[at], -1),
            logits[:count],
            grads[:count],
        )


def part(values: Tensor | None, at: slice) -> Tensor | None:
    """The chunk's part of a tensor per token."""
    return None if values is None else values[at]


@dataclass(frozen=True, slots=True)
class Gradients:
    """What the chunks add up to; a gradient that nobody needs is empty and costs no product.

    dx: [N, H] in the operands' dtype.   dw: [V, H] fp32.
    """

    dx: Tensor
    dw: Tensor

    @classmethod
    def zeros(
        cls, hidden: Tensor, weight: Tensor, dtype: torch.dtype, need_dx: bool, need_dw: bool
    ) -> Self:
        """Before the first chunk; dx is written whole, chunk by chunk."""
        dx, dw = cls.like(hidden, weight, dtype, need_dx, need_dw)
        return cls(dx, dw.zero_())

    @staticmethod
    def like(
        hidden: Tensor, weight: Tensor, dtype: torch.dtype, need_dx: bool, need_dw: bool
    ) -> tuple[Tensor, Tensor]:
        """Uninitialized dx and dw."""
        dx = hidden.new_empty(hidden.shape if need_dx else (0,), dtype=dtype)
        dw = hidden.new_empty(weight.shape if need_dw else (0,), dtype=torch.float32)
        return dx, dw

    def add(self, chunk: Chunk, grad: Tensor) -> None:
        """Take in the gradient of a chunk's logits [C, V]."""
        narrow = grad.dtype != torch.float32
        if self.dx.numel():
            out = self.dx[chunk.at]
            if narrow and not grad.is_cuda:
                out.copy_(torch.mm(grad.float(), chunk.weight.float()))
            else:
                torch.mm(grad, chunk.weight, out=out)
        if self.dw.numel():
            if not narrow:
                self.dw.addmm_(grad.T, chunk.x)
            elif grad.is_cuda:
                torch.addmm(self.dw, grad.T, chunk.x, torch.float32, out=self.dw)
            else:
                self.dw.addmm_(grad.T.float(), chunk.x.float())
