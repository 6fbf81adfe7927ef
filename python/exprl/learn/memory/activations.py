"""What forward and backward keep in memory, found without a weight and without a GPU.

The model's own code runs on fake tensors (shapes without storage), cut down to one and to two of
its layers, and every storage that comes and goes is counted. So any family is counted as it is, in
a second. Fused kernels (flash attention, RMSNorm, RoPE, gated MLP) do not run on fake tensors:
stand-ins that keep what those kernels keep take their places.
"""

from __future__ import annotations

import copy
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from exprl.learn import attention

_FLASH = "exprl_shapes"  # transformers looks for packages where a name holds "flash"


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes of one micro-batch's body, from the embedding to the last norm.

    outside: kept outside of the layers until the backward.
    layer: kept by one layer until its backward.
    layer_input: kept by one layer that is recomputed.
    backward: what the backward of a layer needs at most, beside all that is kept.
    recompute: the same for a layer that is recomputed; what it keeps meanwhile is part of it.
    inference: what a forward without gradients needs at most.
    """

    outside: int
    layer: int
    layer_input: int
    backward: int
    recompute: int
    inference: int


@dataclass(frozen=True, slots=True)
class Count:
    """kept: bytes alive after the forward; peak: over forward and backward."""

    kept: int
    peak: int


def measure(config: Any, tokens: int, dtype: torch.dtype, *, gpu: bool, fused: bool) -> Activations:
    """Count the body on one packed row of `tokens` tokens.

    Args:
        config: the model's transformers config.
        gpu: attention is a flash kernel; else it is exprl's own on a CPU.
        fused: the layers use fused RMSNorm, RoPE and gated MLP.

    Raises:
        Exception: what the model's code raises where it needs the values of its tensors.
    """

    def run(layers: int, mode: Literal["keep", "recompute", "inference"]) -> Count:
        return _body(_cut(config, layers), tokens, dtype, mode, gpu, fused)

    one, two, again, twice = (
        run(1, "keep"),
        run(2, "keep"),
        run(1, "recompute"),
        run(2, "recompute"),
    )
    layer = two.kept - one.kept
    return Activations(
        outside=one.kept - layer,
        layer=layer,
        layer_input=twice.kept - again.kept,
        backward=one.peak - one.kept,
        recompute=again.peak - again.kept,
        inference=run(2, "inference").peak,
    )


def count(
    function: Callable[..., Tensor], shapes: Iterable[tuple[int, ...]], dtype: torch.dtype
) -> Count:
    """Count forward and backward of a scalar function of tensors of these shapes."""
    with FakeTensorMode():
        inputs = [torch.empty(shape, dtype=dtype, requires_grad=True) for shape in shapes]
        for each in inputs:
            each.register_post_accumulate_grad_hook(_drop_gradient)
        with _Storages(inputs) as storages:
            value = function(*inputs)
            kept = storages.live
            value.backward()
        return Count(kept, storages.peak)


def _body(
    config: Any,
    tokens: int,
    dtype: torch.dtype,
    mode: Literal["keep", "recompute", "inference"],
    gpu: bool,
    fused: bool,
) -> Count:
    """Forward of all layers of `config`, and unless `mode` is inference the backward."""
    from transformers import AttentionInterface, AutoModelForCausalLM

    attention.register()
    AttentionInterface.register(_FLASH, _flash)
    with FakeTensorMode():
        model: Any = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=_FLASH if gpu else attention.PACKED
        ).train()
        if mode == "recompute":
            model.gradient_checkpointing_enable()
        body = model.base_model
        for parameter in body.parameters():  # a gradient is moved to the master at once
            parameter.register_post_accumulate_grad_hook(_drop_gradient)
        row = torch.zeros(1, tokens, dtype=torch.int64)
        packing = attention.packing(np.array([0, tokens], np.int32), row)
        d_hidden = torch.ones(1, tokens, config.get_text_config().hidden_size, dtype=dtype)
        with (
            _fused(body) if fused else nullcontext(),
            _Storages([*body.parameters(), *body.buffers(), row, d_hidden]) as storages,
            torch.set_grad_enabled(mode != "inference"),
        ):
            hidden = body(
                input_ids=row, position_ids=row, use_cache=False, **packing
            ).last_hidden_state
            kept = storages.live
            if mode != "inference":
                hidden.backward(d_hidden)
        return Count(kept, storages.peak)


class _Storages(TorchDispatchMode):
    """Counts the bytes of the storages that are made inside, as long as they live."""

    def __init__(self, outside: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: dict[int, Any] = {_key(tensor): None for tensor in outside}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._see, out)
        return out

    def _see(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), _key(tensor)
        if key not in self._known:
            size = storage.nbytes()
            self._known[key] = weakref.ref(storage, lambda _: self._gone(key, size))
            self.live += size
            self.peak = max(self.peak, self.live)

    def _gone(self, key: int, size: int) -> None:
        del self._known[key]
        self.live -= size


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def _cut(config: Any, layers: int) -> Any:
    """The config of the model's first layers, with a small vocabulary: the head is not run."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    text.num_hidden_layers = layers
    text.vocab_size = min(text.vocab_size, 512)
    text.pad_token_id = None
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    return config


def _flash(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Any flash kernel: keeps query, key, value, output and log-sum-exp."""
    del module, attention_mask
    query, key = query.to(value.dtype), key.to(value.dtype)
    out = functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=True
    )
    return out.transpose(1, 2), None


@contextmanager
def _fused(body: Any) -> Iterator[None]:
    """Put the stand-ins where Liger's kernels would be."""
    code = set[ModuleType]()
    for module in body.modules():
        code.add(sys.modules[type(module).__module__])
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = _norm_of(module)
        elif all(hasattr(module, part) for part in ("gate_proj", "up_proj", "down_proj")):
            module.forward = _mlp_of(module)
    name = "apply_rotary_pos_emb"
    before = [(each, getattr(each, name)) for each in code if hasattr(each, name)]
    try:
        for each, _ in before:
            setattr(each, name, _rope)
        yield
    finally:
        for each, function in before:
            setattr(each, name, function)


def _norm_of(module: Any) -> Any:
    apply: Any = _Norm.apply
    return lambda x: apply(x, module.weight)


def _mlp_of(module: Any) -> Any:
    apply: Any = _GatedUnit.apply
    return lambda x: module.down_proj(apply(module.gate_proj(x), module.up_proj(x)))


def _rope(q: Tensor, k: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    """Turns q and k in place, and their gradients too: nothing new is kept."""
    return q.view_as(q), k.view_as(k)


class _Norm(torch.autograd.Function):
    """Keeps its input and one number per row; the gradient is formed in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        return gradients[0], torch.empty_like(ctx.saved_tensors[1])


class _GatedUnit(torch.autograd.Function):
    """act(gate) * up: keeps the two, and forms their gradients in their places."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return torch.empty_like(gate)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return gate, up
