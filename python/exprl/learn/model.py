"""A transformers model as the trainer needs it, and the head that its logits come from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from exprl import config
from exprl.errors import ConfigError
from exprl.learn import attention, fused
from exprl.learn.loss import Head
from exprl.learn.sharding import FORWARD, release
from exprl.learn.shared_prompts import share_prompts
from exprl.types import Packed

if TYPE_CHECKING:
    from exprl.learn.sharding import Sharding

OWN_KERNELS = {
    attention.PACKED: "torch's attention",
    attention.SHARED: "torch's attention with shared prompts",
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def best_device() -> torch.device:
    """The GPU that torch sees, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def read_config(settings: config.Model) -> Any:
    """The transformers config of the model at `settings.path`.

    Raises:
        ConfigError: there is none.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            settings.path, trust_remote_code=settings.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.path = {settings.path!r} cannot be loaded: {error}") from error


def load(settings: config.Model, path: str, dtype: torch.dtype, device: torch.device) -> Any:
    """Read a causal language model from a folder or the hub, for training on packed rows.

    Args:
        dtype: of the parameters; buffers (RoPE's frequencies) keep the fp32 of the model's code.

    Returns:
        The model in host memory; `place` brings it to the device that it was chosen for.

    Raises:
        ConfigError: there is none at `path`, a tensor is missing or not finite, or
            `model.attention` cannot run here.
    """
    from transformers import AutoModelForCausalLM

    attention.register()
    kernel = attention.choose(settings.attention, DTYPES[settings.dtype], device)
    try:
        with quiet_loading():
            model, report = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=dtype,
                attn_implementation=kernel,
                attention_dropout=0.0,
                trust_remote_code=settings.trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise ConfigError(f"model.path = {path!r} cannot be loaded: {error}") from error
    faults = [find_faults(report), *(find_nonfinite(n, p) for n, p in model.named_parameters())]
    if fault := next(filter(None, faults), None):
        raise ConfigError(f"model.path = {path!r}: {fault}")
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # dropout would turn the ratio into noise
    return model


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without progress bars and transformers' own report: `find_faults` reads it."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def find_faults(report: Mapping[str, Any]) -> str | None:
    """What transformers' report of a loading says: it would draw such tensors at random."""
    missing, shaped = sorted(report["missing_keys"]), sorted(report["mismatched_keys"])
    if missing:
        return (
            f"{len(missing)} of its tensors are in no file, the first of them {missing[0]!r}; fetch"
            " the model again, or correct its config.json"
        )
    if shaped:
        name, found, wanted = shaped[0]
        return (
            f"tensor {name!r} is {tuple(found)} in the file, but {tuple(wanted)} by config.json;"
            " the two are of different models"
        )
    return None


@torch.no_grad()
def find_nonfinite(name: str, values: Tensor) -> str | None:
    """How many values of a tensor are NaN or infinite; None where all are finite."""
    # The extremes are NaN if a value is, and cost no second tensor.
    if not values.is_floating_point() or not values.numel() or _are_finite(values.aminmax()):
        return None
    count = int((~values.isfinite()).sum())
    return (
        f"tensor {name!r} has {count:,} values that are NaN or infinite; the model is damaged:"
        " fetch it again, or train on from an earlier checkpoint"
    )


def _are_finite(values: Iterable[Tensor]) -> bool:
    return all(bool(value.isfinite()) for value in values)


def place(model: Any, settings: config.Model, name: str, device: torch.device) -> Any:
    """The model on its device, with fused kernels, checked and ready to train.

    Args:
        name: of the model, for messages.

    Raises:
        ConfigError: its head does more than `head` knows, or `model.fused` cannot run here.
    """
    bring(model, settings, device)
    check_head(model, name)
    return model


def bring(
    model: Any, settings: config.Model, device: torch.device, sharding: Sharding | None = None
) -> None:
    """Put fused kernels into a model and bring it to its device, or its parts to all ranks'.

    Raises:
        ConfigError: `model.fused` cannot run here, or the model cannot be cut.
    """
    if fused.choose(settings.fused, model.config.model_type, device):
        fused.fuse(model)
    if sharding:
        sharding.shard(model, DTYPES[settings.dtype])
    else:
        model.to(device)


def describe(settings: config.Model, shape: Any, device: torch.device) -> str:
    """How the trainer computes a model, in a line for the dry run and the run's log.

    Args:
        shape: the model's transformers config.
    """
    kernel = attention.choose(settings.attention, DTYPES[settings.dtype], device)
    kernel = OWN_KERNELS.get(kernel, kernel)
    if fused.choose(settings.fused, shape.model_type, device):
        ops = "Liger's RMSNorm, RoPE and SwiGLU"
    elif settings.fused == "none":
        ops = "nothing fused"
    else:
        ops = f"nothing fused (Liger: {fused.obstacle(shape.model_type, device)})"
    layers = shape.get_text_config().num_hidden_layers
    again = recomputed_layers(settings.gradient_checkpointing, layers)
    return f"{settings.dtype}, {kernel}, {ops}, {again} of {layers} layers recomputed"


def recompute(model: Any, share: bool | float) -> None:
    """Have the backward recompute the activations of the first `share` of a model's layers.

    The first ones, because the backward comes to the others first: what those kept is freed before
    the recomputation of a layer needs room.

    Raises:
        ConfigError: the model cannot, or only as a whole.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    if not share:
        return
    try:
        model.gradient_checkpointing_enable()
    except ValueError as error:
        raise ConfigError(f"model.gradient_checkpointing = {share}: {error}") from error
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if share < 1 and not layers:
        raise ConfigError(
            f"model.gradient_checkpointing = {share}: {type(model).__name__} recomputes all of its"
            " layers or none; set true or false"
        )
    for layer in layers[recomputed_layers(share, len(layers)) :]:
        layer.gradient_checkpointing = False


def recomputed_layers(share: bool | float, layers: int) -> int:
    """How many of a model's layers `model.gradient_checkpointing` recomputes, rounded up.

    >>> recomputed_layers(True, 36), recomputed_layers(0.5, 3), recomputed_layers(0.1, 30)
    (36, 2, 3)
    """
    return math.ceil(round(share * layers, 6))


def head(model: Any) -> Head:
    """The head with what the model's own forward does to its logits (Gemma, Cohere, Granite)."""
    settings = model.config.get_text_config()
    scale = getattr(settings, "logit_scale", None) or 1.0
    divisor = getattr(settings, "logits_scaling", None) or 1.0
    softcap = getattr(settings, "final_logit_softcapping", None)
    return Head(model.get_output_embeddings().weight, scale / divisor, softcap)


def hidden_states(model: Any, batch: Packed) -> Tensor:
    """Final hidden states [N, H] at the positions that predict the batch's response tokens."""
    device = model.device
    if model.config._attn_implementation == attention.SHARED:
        row = share_prompts(batch)
        ids, positions, predicting = row.input_ids, row.position_ids, row.predicting
        where: dict[str, Any] = {"families": row.families}
    else:
        ids, positions, predicting = batch.input_ids, batch.position_ids, batch.target_pos - 1
        where = attention.packing(batch.cu_seqlens, to_device(batch.cu_seqlens, device))
    states = final_states(
        model,
        input_ids=to_device(ids, device)[None],
        position_ids=to_device(positions, device)[None],
        use_cache=False,
        **where,
    )
    return states[0].index_select(0, to_device(predicting, device))


def final_states(model: Any, **inputs: Any) -> Tensor:
    """The states [1, L, H] before the head, by the model's forward or a sharded model's own."""
    sharded = getattr(model, FORWARD, None)
    states: Tensor = sharded(**inputs) if sharded else model.base_model(**inputs).last_hidden_state
    return states


def to_device(array: Any, device: torch.device) -> Tensor:
    """The numpy array as a tensor. Only a copy from pinned memory does not wait for the GPU."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor


@torch.no_grad()
def check_head(model: Any, name: str) -> None:
    """Refuse a model whose logits are not those of `head`, by four tokens through both.

    Args:
        name: of the model, for the message.

    Raises:
        ConfigError: its head does more than `head` knows.
    """
    device = model.device
    ids = torch.arange(4, device=device)
    whole = np.array([0, 4], np.int32)
    inputs = {
        "input_ids": (ids % model.config.get_text_config().vocab_size)[None],
        "position_ids": ids[None],
        "use_cache": False,
        **attention.packing(whole, to_device(whole, device)),
    }
    expected = model.eval()(**inputs).logits[0].log_softmax(-1, dtype=torch.float32)
    states = final_states(model, **inputs)[0]
    _, scale, softcap = own = head(model)
    found = own.log_softmax(states, temperature=1.0)
    release(model)
    model.train()  # transformers checkpoints activations in train mode only
    apart = (found - expected).abs().max().item()
    if not apart <= 0.02 * (1.0 + expected.abs().max().item()):
        raise ConfigError(
            f"{name}: {type(model).__name__} does more to its logits than the loss knows (a bias "
            f"of the head, a factor of its own): with scale {scale:g} and softcap {softcap}, "
            f"log-probabilities are up to {apart:.3g} apart"
        )
