"""LoRA: the weights stay frozen, and a product of two small matrices per layer learns.

    y = x W'^T + bias,   W' = W + alpha / rank * B A        (Hu et al., arXiv 2106.09685)

W [out, in] is the frozen weight in the compute dtype; A [rank, in] and B [out, rank] are trained,
kept in fp32. B starts at 0, so training starts at the frozen model: the initial policy is the same
model with the adapter off.

peft builds, names, saves and reads the adapter. The forward is ours: it rounds the sum W' once, as
a checkpoint or an engine must, where peft adds the product's result to that of W. So the trainer
computes with exactly the weights that `Adapter.weights` gives to the engine.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from exprl import config
from exprl.errors import ConfigError, DataError
from exprl.learn.sharding import whole

ADAPTER = "adapter"  # folder in a checkpoint
NAME = "default"  # peft's for the only adapter of a model
WEIGHT = ".base_layer.weight"
FILE = "adapter_model.safetensors"
SAMPLE = 4096


class Adapter:
    """A model's adapter. The model itself is changed in place: its linear layers are wrapped."""

    def __init__(self, model: Any, settings: config.Lora, seed: int) -> None:
        """Freeze the model and put the adapter's layers into it.

        Args:
            model: a transformers model; a model on the meta device gets layers without values.
            seed: of the values that A starts with.

        Raises:
            ConfigError: peft is not installed, or lora.targets does not fit the model.
        """
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise ConfigError(
                f"lora.rank = {settings.rank} needs peft ({error}): install exprl's extra `lora`,"
                " or set lora.rank = 0 to train all weights"
            ) from error
        targets = settings.targets
        _check_targets(model, targets)
        wanted = LoraConfig(
            task_type="CAUSAL_LM",
            r=settings.rank,
            lora_alpha=settings.alpha,
            target_modules=targets if isinstance(targets, str) else list(targets),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._peft = get_peft_model(model, wanted, low_cpu_mem_usage=_on_meta(model))
        self._model = model
        self._layers = {
            f"{name}{WEIGHT}": layer
            for name, layer in model.named_modules()
            if hasattr(layer, "lora_A") and hasattr(layer, "base_layer")
        }
        for name, layer in self._layers.items():
            if not isinstance(layer.base_layer, nn.Linear):
                kind = type(layer.base_layer).__name__
                raise ConfigError(
                    f"lora.targets = {targets!r} names {name.removesuffix(WEIGHT)}, a {kind};"
                    " only torch's Linear layers can be adapted"
                )
            layer.forward = MethodType(_forward, layer)
        _settle(wanted)

    def off(self) -> AbstractContextManager[None]:
        """Within it the model computes as the frozen weights alone do: the initial policy."""
        return self._peft.disable_adapter()  # type: ignore[no-any-return]

    @torch.no_grad()
    def weights(self, device: torch.device, *, host: bool = False) -> Iterator[tuple[str, Tensor]]:
        """The merged model by Hugging Face names, a tied head included; one layer at a time.

        Args:
            device: where the sums are computed, also while the model waits in host memory.
            host: bring each sum to host memory, because the caller keeps them all.
        """
        for name, part in self._model.state_dict().items():
            layer, value = self._layers.get(name), whole(part)
            if layer is not None:
                a, b, scale = _of(layer)
                merged = _merge(value.to(device), a.to(device), b.to(device), scale)
                yield name.replace(WEIGHT, ".weight"), merged.cpu() if host else merged
            elif f".{NAME}." not in name:
                yield name.replace(".base_layer.", "."), value

    def save(self, folder: Path) -> None:
        """Write the adapter as `peft.PeftModel.from_pretrained(model, folder)` opens it."""
        self._peft.save_pretrained(folder, save_embedding_layers=False)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote, to the last bit.

        Raises:
            DataError: the folder holds no adapter of these layers and this rank.
        """
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        try:
            found = load_file(folder / FILE)
        except OSError as error:
            raise DataError(f"{folder / FILE} cannot be read: {error}") from error
        own = get_peft_model_state_dict(self._peft, save_embedding_layers=False)
        shapes = {name: value.shape for name, value in own.items()}
        if {name: value.shape for name, value in found.items()} != shapes:
            raise DataError(f"{folder / FILE} holds an adapter of other layers or another rank")
        set_peft_model_state_dict(self._peft, found)

    @torch.no_grad()
    def fingerprint(self) -> str:
        """A hash of the frozen weights: of names, shapes, and values spread over each of them.

        A model that was trained further differs in nearly every value, so a sample tells it; the
        whole of a large model would take many seconds.
        """
        digest = hashlib.sha256()
        for name, value in self._model.state_dict().items():
            if f".{NAME}." not in name:
                flat = whole(value).flatten()
                sample = flat[:: math.ceil(len(flat) / SAMPLE)].float().cpu().numpy()
                digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
                digest.update(sample.tobytes())
        return digest.hexdigest()


def _forward(layer: Any, x: Tensor) -> Tensor:
    """The forward of an adapted layer."""
    if layer.disable_adapters:
        return layer.base_layer(x)  # type: ignore[no-any-return]
    base = layer.base_layer
    merged: Any = _MergedLinear.apply
    return merged(x, base.weight, base.bias, *_of(layer))  # type: ignore[no-any-return]


def _of(layer: Any) -> tuple[Tensor, Tensor, float]:
    """A, B and the factor of their product."""
    return layer.lora_A[NAME].weight, layer.lora_B[NAME].weight, layer.scaling[NAME]


def _merge(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """W' [out, in], summed in fp32 and rounded once, on the way out, to the dtype of `weight`."""
    return torch.add(weight, b @ a, alpha=scale, out=torch.empty_like(weight))


class _MergedLinear(torch.autograd.Function):
    """x W'^T + bias, with the gradients of x, A and B.

    W' lives as long as one product, and the gradient of W' is never formed: with G the gradient of
    the output, dB = scale G^T (x A^T) and dA = scale (G B)^T x.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, a, b)
        ctx.scale = scale
        return functional.linear(x, _merge(weight, a, b, scale), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b = ctx.saved_tensors
        grad_x = grad @ _merge(weight, a, b, ctx.scale) if ctx.needs_input_grad[0] else None
        rows, out = x.flatten(0, -2), grad.flatten(0, -2)
        grad_a = ctx.scale * ((out @ b.to(out.dtype)).T @ rows).to(a.dtype)
        grad_b = ctx.scale * (out.T @ (rows @ a.to(rows.dtype).T)).to(b.dtype)
        return grad_x, None, None, grad_a, grad_b, None


def _check_targets(model: Any, targets: str | tuple[str, ...]) -> None:
    """Refuse names that no layer has, and the head, whose weight the loss reads by itself."""
    if isinstance(targets, str):
        return
    head = model.get_output_embeddings()
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    ]
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in names):
            known = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in names))
            raise ConfigError(
                f"lora.targets names {target!r}, which is no linear layer that can be adapted;"
                f' this model has {known}, and "all-linear" takes them all'
            )


def _settle(wanted: Any) -> None:
    """What adapter_config.json says, the same in every process and from every folder."""
    wanted.target_modules = sorted(wanted.target_modules)  # a set, in an order that varies
    base = Path(wanted.base_model_name_or_path)
    if base.is_dir():
        wanted.base_model_name_or_path = str(base.resolve())


def _on_meta(model: nn.Module) -> bool:
    return next(model.parameters()).is_meta
