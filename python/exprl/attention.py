"""Packed causal attention by torch alone, for machines without flash-attn.

Sequences lie end to end in one row, [1, heads, L, head_dim]; token i sees only earlier tokens of
its own sequence. On a GPU in half precision that is torch's variable-length flash kernel;
elsewhere one `scaled_dot_product_attention` for every run of sequences of one length.
"""

from __future__ import annotations

import importlib.util
import itertools
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

PACKED = "exprl_packed"


def choose(setting: str, device: torch.device) -> str:
    """The transformers attention implementation for `model.attention` on this device."""
    if setting == "torch":
        return PACKED
    if setting == "auto":
        flash = device.type == "cuda" and importlib.util.find_spec("flash_attn") is not None
        return "flash_attention_2" if flash else PACKED
    return setting


def register() -> None:
    """Make PACKED known to transformers, which then builds no mask for it."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, packed_attention)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: query [1, Hq, L, D], key and value [1, Hkv, L, D].

    Args:
        cu_seq_lens_q: [B+1] int32, where each sequence begins; the last entry is L.
        max_length_q: tokens of the longest sequence.
        sliding_window: tokens that a token sees, itself included; None = all earlier ones.

    Returns:
        [1, L, Hq, D] and None for the attention weights.
    """
    del module, attention_mask
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        return _varlen(query, key, value, cu_seq_lens_q, max_length_q, scaling, sliding_window)
    runs = [
        (length, len(list(run))) for length, run in itertools.groupby(cu_seq_lens_q.diff().tolist())
    ]
    sizes = [length * count for length, count in runs]
    parts = zip(runs, *(t[0].split(sizes, dim=1) for t in (query, key, value)), strict=True)
    outputs = [_run(count, q, k, v, scaling, sliding_window) for (_, count), q, k, v in parts]
    return torch.cat(outputs)[None], None


def _run(
    count: int, q: Tensor, k: Tensor, v: Tensor, scaling: float | None, window: int | None
) -> Tensor:
    """`count` sequences of one length: q [Hq, count * n, D], to [count * n, Hq, D]."""
    q, k, v = (t.unflatten(1, (count, -1)).transpose(0, 1) for t in (q, k, v))
    length = q.shape[2]
    mask = None
    if window is not None and window < length:
        mask = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
        mask = mask.triu(1 - window)
    out = functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
    )
    return out.transpose(1, 2).flatten(0, 1)


def _varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    longest: int,
    scaling: float | None,
    window: int | None,
) -> tuple[Tensor, None]:
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    left = -1 if window is None else window - 1
    out: Tensor = varlen_attn(  # type: ignore[assignment]
        q,
        k,
        v,
        cu_seqlens,
        cu_seqlens,
        longest,
        longest,
        scale=scaling,
        window_size=(left, 0),
        enable_gqa=True,
    )
    return out.unsqueeze(0), None
