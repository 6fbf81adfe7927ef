"""A transformers model as the trainer needs it, and the head that its logits come from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exprl import attention, config
from exprl.errors import ConfigError
from exprl.loss import Head
from exprl.types import Packed

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load(settings: config.Model, path: str, dtype: torch.dtype, device: torch.device) -> Any:
    """Read a causal language model from a folder or the hub, for training on packed rows.

    Returns:
        The model in host memory; `place` brings it to the device that it was chosen for.

    Raises:
        ConfigError: there is none at `path`.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    attention.register()
    implementation = attention.choose(settings.attention, DTYPES[settings.dtype], device)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            attn_implementation=implementation,
            attention_dropout=0.0,
            trust_remote_code=settings.trust_remote_code,
        )
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"model.path = {path!r} cannot be loaded: {error}") from error
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # dropout would turn the ratio into noise
    return model


def place(model: Any, path: str, device: torch.device) -> Any:
    """The model on its device, checked and ready to train.

    Raises:
        ConfigError: its head does more than `head` knows.
    """
    model.to(device)
    check_head(model, path)
    return model.train()  # transformers checkpoints activations in train mode only


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
    states: Tensor = model.base_model(
        input_ids=to_device(batch.input_ids, device)[None],
        position_ids=to_device(batch.position_ids, device)[None],
        use_cache=False,
        **attention.packing(batch.cu_seqlens, to_device(batch.cu_seqlens, device)),
    ).last_hidden_state
    return states[0].index_select(0, to_device(batch.target_pos - 1, device))


def to_device(array: Any, device: torch.device) -> Tensor:
    """The numpy array as a tensor. Only a copy from pinned memory does not wait for the GPU."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor


@torch.no_grad()
def check_head(model: Any, path: str) -> None:
    """Refuse a model whose logits are not those of `head`, by four tokens through both."""
    weight, scale, softcap = own = head(model)
    device = weight.device
    ids = torch.arange(4, device=device)
    whole = np.array([0, 4], np.int32)
    inputs = {
        "input_ids": (ids % len(weight))[None],
        "position_ids": ids[None],
        "use_cache": False,
        **attention.packing(whole, to_device(whole, device)),
    }
    expected = model.eval()(**inputs).logits[0].log_softmax(-1, dtype=torch.float32)
    found = own.log_softmax(model.base_model(**inputs).last_hidden_state[0], temperature=1.0)
    apart = (found - expected).abs().max().item()
    if not apart <= 0.02 * (1.0 + expected.abs().max().item()):
        raise ConfigError(
            f"{path}: {type(model).__name__} does more to its logits than the loss knows (a bias "
            f"of the head, a factor of its own): with scale {scale:g} and softcap {softcap}, "
            f"log-probabilities are up to {apart:.3g} apart"
        )
