"""Attention over packed rows: which kernel computes it, what it is told, and torch's own.

Sequences lie end to end in one row, [1, heads, L, head_dim]; token i sees only earlier tokens of
its own sequence. flash-attn's kernels come from transformers. Without them torch computes it: on a
GPU in half precision by its variable-length flash kernel, elsewhere by one
`scaled_dot_product_attention` for every run of sequences of one length.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Collection, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from exprl.errors import ConfigError
from exprl.learn.shared_prompts import Family
from exprl.types import Int32Array

Kernel = Callable[..., Tensor]

PACKED = "exprl_packed"
SHARED = "exprl_shared_prompts"  # the same kernels, for rows of shared_prompts.py
OWN = {"torch": PACKED, "shared_prompts": SHARED}
HALF = (torch.float16, torch.bfloat16)


class Flash(NamedTuple):
    """A flash-attn kernel: the package that holds it, and the cards that "auto" takes it for.

    majors: CUDA compute capabilities, 8 Ampere and Ada, 9 Hopper, 10 Blackwell, 12 its desktops.
    """

    package: str
    majors: tuple[int, ...]


# The best one first. On Hopper FlashAttention 4 is no faster than 3.
FLASH = {
    "flash_attention_3": Flash("flash-attn-3", (9,)),
    "flash_attention_4": Flash("flash-attn-4", (9, 10)),
    "flash_attention_2": Flash("flash-attn", (8, 9, 10, 12)),
}


def choose(setting: str, dtype: torch.dtype, device: torch.device) -> str:
    """The transformers attention implementation for `model.attention` on this machine.

    Args:
        dtype: of the model's forward.

    Raises:
        ConfigError: as `pick`.
    """
    cuda = device.type == "cuda"
    major = torch.cuda.get_device_capability(device)[0] if cuda else None
    return pick(setting, dtype, major, find_flash() if cuda else ())


def pick(setting: str, dtype: torch.dtype, major: int | None, packages: Collection[str]) -> str:
    """The implementation for a card of compute capability `major`; None = no CUDA card.

    Raises:
        ConfigError: the setting names a kernel that cannot run here; the message says why.

    >>> pick("auto", torch.bfloat16, 9, {"flash_attention_2", "flash_attention_3"})
    'flash_attention_3'
    >>> pick("auto", torch.bfloat16, None, ())
    'exprl_packed'
    """
    half = dtype in HALF
    if setting in OWN:
        return OWN[setting]
    if setting == "auto":
        fit = (name for name in FLASH if name in packages and major in FLASH[name].majors)
        return next(fit, PACKED) if half else PACKED
    if major is None:
        problem = "it needs an NVIDIA GPU, and torch finds none"
    elif not half:
        problem = 'it computes in bfloat16 only; set model.dtype = "bfloat16"'
    elif setting not in packages:
        problem = f"the package {FLASH[setting].package} is not installed; install it"
    else:
        return setting
    raise ConfigError(f'model.attention = "{setting}": {problem}, or set model.attention = "auto"')


def find_flash() -> set[str]:
    """Those of FLASH that transformers can call here."""
    from transformers import utils

    return {
        name
        for name in FLASH
        if getattr(utils, name.replace("flash_attention", "is_flash_attn") + "_available")()
    }


def register() -> None:
    """Make ours known to transformers, which then builds no mask for them."""
    from transformers import AttentionInterface

    for name in OWN.values():
        AttentionInterface.register(name, packed_attention)


def packing(cu_seqlens: Int32Array, begins: Tensor) -> dict[str, Any]:
    """Where the sequences of a row begin, as transformers passes it to every attention.

    The lengths go along as host numbers too, so that no layer has to wait for the device.

    Args:
        cu_seqlens: [B+1] int32; the last entry is L.
        begins: the same on the device.
    """
    lengths = np.diff(cu_seqlens).tolist()
    return {
        "cu_seq_lens_q": begins,
        "cu_seq_lens_k": begins,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
        "sequence_lengths": tuple(lengths),
    }


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    sequence_lengths: Sequence[int] = (),
    families: Sequence[Family] = (),
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: query [1, Hq, L, D], key and value [1, Hkv, L, D].

    Computed in value's dtype: norms and rotary embeddings may have raised query and key to fp32.

    Args:
        cu_seq_lens_q: [B+1] int32, where each sequence begins; the last entry is L.
        max_length_q: tokens of the longest sequence.
        sequence_lengths: the B lengths, on the host.
        families: what lies in the row instead, where responses share their prompts.
        sliding_window: tokens that a token sees, itself included; None = all earlier ones.
        softcap: scores become softcap * tanh(scores / softcap) (Gemma 2).
        s_aux: attention sinks (gpt-oss), which are refused.

    Returns:
        [1, L, Hq, D] and None for the attention weights.

    Raises:
        ConfigError: the model's attention does what torch's kernels cannot.
    """
    del module, attention_mask
    query, key = query.to(value.dtype), key.to(value.dtype)
    flash = not families and uses_varlen(value.device.type, value.dtype)
    if s_aux is not None or (flash and softcap is not None):
        missing = "attention sinks" if s_aux is not None else "capped attention scores"
        raise ConfigError(
            f"the model has {missing}, which torch's attention cannot compute here; set"
            ' model.attention = "flash_attention_2" (or _3, _4) and install its package'
        )
    if flash:
        assert cu_seq_lens_q is not None
        return _varlen(query, key, value, cu_seq_lens_q, max_length_q, scaling, sliding_window)
    kernel = partial(_run, scaling=scaling, window=sliding_window, softcap=softcap)
    q, k, v = query[0], key[0], value[0]
    if not families:
        return _runs(kernel, sequence_lengths, q, k, v)[None], None
    sizes = [family.prompt + sum(family.responses) for family in families]
    parts = zip(families, *(t.split(sizes, dim=1) for t in (q, k, v)), strict=True)
    return torch.cat([_family(kernel, *part) for part in parts])[None], None


def uses_varlen(device_type: str, dtype: torch.dtype) -> bool:
    """Whether torch's variable-length flash kernel computes PACKED: it knows half precision only.

    >>> uses_varlen("cuda", torch.bfloat16), uses_varlen("cuda", torch.float32)
    (True, False)
    """
    return device_type == "cuda" and dtype in HALF


def _family(kernel: Kernel, family: Family, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A prompt and the responses that see it: q [Hq, n, D], to [n, Hq, D]."""
    sizes = [family.prompt, sum(family.responses)]
    (q, q_own), (k, k_own), (v, v_own) = (t.split(sizes, dim=1) for t in (q, k, v))
    responses = _runs(partial(kernel, prefix=(k, v)), family.responses, q_own, k_own, v_own)
    return torch.cat([kernel(1, q, k, v), responses])


def _runs(kernel: Kernel, lengths: Sequence[int], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Sequences end to end, those of one length at a time: q [Hq, n, D], to [n, Hq, D]."""
    runs = [(length, len(list(run))) for length, run in itertools.groupby(lengths)]
    if len(runs) == 1:  # nothing to cut, and so nothing to copy
        return kernel(runs[0][1], q, k, v)
    sizes = [length * count for length, count in runs]
    parts = zip(runs, *(t.split(sizes, dim=1) for t in (q, k, v)), strict=True)
    return torch.cat([kernel(count, *part) for (_, count), *part in parts])


def _run(
    count: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    prefix: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """`count` sequences of one length: q [Hq, count * n, D], to [count * n, Hq, D].

    prefix: keys and values [Hkv, m, D] of tokens that all of them see before their own.
    """
    q, k, v = (t.unflatten(1, (count, -1)).transpose(0, 1) for t in (q, k, v))
    if prefix:
        shared = (t.expand(count, -1, -1, -1) for t in prefix)
        k, v = (torch.cat(pair, dim=2) for pair in zip(shared, (k, v), strict=True))
    length, own = k.shape[2], q.shape[2]
    mask = None
    if softcap is not None or own < length or (window is not None and window < length):
        mask = torch.ones(own, length, dtype=torch.bool, device=q.device).tril(length - own)
        mask = mask.triu(length - own + 1 - (window or length))
    if softcap is not None:
        out = _capped(q, k, v, mask, scaling, softcap)
    else:
        out = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
        )
    return out.transpose(1, 2).flatten(0, 1)


def _capped(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float | None, softcap: float
) -> Tensor:
    """Attention written out, for scores with a cap: q [B, Hq, n, D], mask [n, m]."""
    assert mask is not None
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    scores = (q @ k.mT).float() * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = (softcap * (scores / softcap).tanh()).masked_fill(~mask, -torch.inf)
    return scores.softmax(-1).to(v.dtype) @ v


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
        **_grouped_heads(),
    )
    return out.unsqueeze(0), None


@cache
def _grouped_heads() -> dict[str, Any]:
    """What lets several query heads share a key head; torch 2.11 does it unasked."""
    from torch.nn.attention.varlen import varlen_attn

    return {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
