"""The head over chunks of tokens: how many make a chunk, and its three products.

    logits [C, V] = x w^T in fp32          dx [C, H] = g w          dw [V, H] += g^T x in fp32

bf16 operands, fp32 sums and fp32 results. dx is rounded once, from the fp32 result: asked for bf16,
cuBLAS may split the sum over V and add its parts in bf16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

CHUNK_TOKENS = 8192
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


def fp32_product(a: Tensor, b: Tensor, out: Tensor, add: bool = False) -> Tensor:
    """out = a b, or out += a b; out in fp32, a and b both in fp32 or both narrower."""
    if not a.is_cuda:  # CPUs have no product with a wider result
        a, b = a.float(), b.float()
    kind = () if a.dtype == torch.float32 else (torch.float32,)
    if add:
        return torch.addmm(out, a, b, *kind, out=out)
    return torch.mm(a, b, *kind, out=out)


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
        return fp32_product(self.x, self.weight.T, self._logits)

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


@dataclass(slots=True)
class Gradients:
    """What the chunks add up to; a gradient that nobody needs is empty and costs no product.

    dx: [N, H] in the hidden states' dtype.   dw: [V, H] fp32.
    """

    dx: Tensor
    dw: Tensor
    _started: bool = False  # dw holds a chunk's product

    @classmethod
    def empty(cls, hidden: Tensor, weight: Tensor, need_dx: bool, need_dw: bool) -> Self:
        """Before the first chunk, which writes dw; every chunk writes its own rows of dx."""
        return cls(
            hidden.new_empty(hidden.shape if need_dx else (0,)),
            hidden.new_empty(weight.shape if need_dw else (0,), dtype=torch.float32),
        )

    def add(self, chunk: Chunk, grad: Tensor) -> None:
        """Take in the gradient of a chunk's logits [C, V]."""
        if self.dx.numel():
            out = self.dx[chunk.at]
            wide = out if out.dtype == torch.float32 else torch.empty_like(out, dtype=torch.float32)
            fp32_product(grad, chunk.weight, wide)
            if wide is not out:
                out.copy_(wide)
        if self.dw.numel():
            fp32_product(grad.T, chunk.x, self.dw, add=self._started)
            self._started = True

    def whole(self) -> tuple[Tensor, Tensor]:
        """dx and dw after the last chunk."""
        return self.dx, self.dw if self._started else self.dw.zero_()
