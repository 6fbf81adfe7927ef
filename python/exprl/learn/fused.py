"""Fused RMSNorm, RoPE and SwiGLU: Liger's Triton kernels in place of a model's own code.

A model's own code writes every intermediate of these to memory and keeps several of them for the
backward; the kernels read their inputs once and write the result. The head stays as it is: the
loss has kernels of its own.
"""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

import torch

from exprl.errors import ConfigError


def choose(setting: str, model_type: str, device: torch.device) -> bool:
    """Whether `model.fused` puts Liger's kernels into such a model on this device.

    Args:
        model_type: of the model's transformers config, such as "qwen3".

    Raises:
        ConfigError: the setting is "liger", and they cannot run here; the message says why.
    """
    if setting == "none":
        return False
    problem = obstacle(model_type, device)
    if problem and setting == "liger":
        raise ConfigError(f'model.fused = "liger": {problem}; or set model.fused = "auto"')
    return problem is None


def obstacle(model_type: str, device: torch.device) -> str | None:
    """What keeps Liger's kernels from such a model on this device; None = nothing.

    >>> obstacle("qwen3", torch.device("cpu"))
    'its kernels need a CUDA GPU'
    """
    if device.type != "cuda":
        return "its kernels need a CUDA GPU"
    if importlib.util.find_spec("liger_kernel") is None:
        return "the package liger-kernel is not installed (extra `fused`)"
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    if model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        return f"it has no kernels for models of type {model_type}"
    return None


def fuse(model: Any) -> None:
    """Put Liger's kernels into a model.

    RoPE is replaced for all models of this family in the process, because a layer calls it as a
    function of its module.
    """
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    # It warns of every backend of its own that is not installed.
    logging.getLogger("liger_kernel").setLevel(logging.ERROR)
    _apply_liger_kernel_to_instance(model, cross_entropy=False, fused_linear_cross_entropy=False)
