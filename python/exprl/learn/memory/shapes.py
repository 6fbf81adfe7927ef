"""What a prediction starts from: a model's shapes without its weights, and the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

GIB = 2**30
FP32 = 4


@dataclass(frozen=True, eq=False, slots=True)
class Shapes:
    """A model without its weights.

    config: its transformers config.
    parameters: numbers of elements by name; a tied head is not counted twice.
    linears: (inputs, outputs) by the name of each linear layer but the head.
    vocab, hidden: of the head. tied: the head is the embedding.
    layers: how many there are.
    kv_per_token: elements of a token's keys and values in all layers.
    """

    config: Any
    parameters: Mapping[str, int]
    linears: Mapping[str, tuple[int, int]]
    vocab: int
    hidden: int
    tied: bool
    layers: int
    kv_per_token: int

    @classmethod
    def of(cls, config: Any, *, trust_remote_code: bool = False) -> Shapes:
        """Build the model of a transformers config on the meta device and take its shapes."""
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        text = config.get_text_config()
        vocab, hidden = model.get_output_embeddings().weight.shape
        heads = text.num_attention_heads
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
        kv_heads = getattr(text, "num_key_value_heads", None) or heads
        return cls(
            config=config,
            parameters={name: p.numel() for name, p in model.named_parameters()},
            linears={
                name: (module.in_features, module.out_features)
                for name, module in model.base_model.named_modules()
                if isinstance(module, nn.Linear)
            },
            vocab=vocab,
            hidden=hidden,
            tied=bool(text.tie_word_embeddings),
            layers=text.num_hidden_layers,
            kv_per_token=2 * text.num_hidden_layers * kv_heads * head_dim,
        )

    @property
    def total(self) -> int:
        """Parameters."""
        return sum(self.parameters.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The settings that memory depends on.

    micro_batch_tokens: tokens of one forward and backward.
    longest: tokens of the longest prompt with its response; such a rollout goes alone.
    recomputed: share of the layers that keep their input only (model.gradient_checkpointing).
    fused: the layers use fused RMSNorm, RoPE and gated MLP.
    needs_initial: a frozen initial policy is kept (loss.kl_coef > 0, or a teacher).
    offload: the trainer lies in host memory while the engine samples.
    ranks: trainer processes that share the weights (ranks.count).
    lora_rank: 0 = all weights are trained. lora_targets: ends of names of the linear layers.
    engine: None where nothing is sampled in this process.
    engine_share: of the card, for vLLM while it samples (rollout.gpu_memory_utilization).
    sequences: that the engine runs at once (rollout.max_num_seqs).
    """

    gpu: bool
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    objective: str = "policy_gradient"
    micro_batch_tokens: int
    longest: int = 0
    recomputed: float = 0.0
    fused: bool = False
    needs_initial: bool = False
    offload_initial: bool = True
    offload: bool = False
    ranks: int = 1
    lora_rank: int = 0
    lora_targets: Sequence[str] | None = None
    engine: Literal["vllm", "transformers"] | None = None
    engine_share: float = 0.85
    sequences: int = 256

    @property
    def tokens(self) -> int:
        """Tokens of the largest micro-batch that can come."""
        return max(self.micro_batch_tokens, self.longest)

    @property
    def parts(self) -> int:
        """In how many parts what learns is cut; every rank has a whole adapter."""
        return 1 if self.lora_rank else self.ranks

    @property
    def torch_dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return torch.float32 if self.dtype == "float32" else torch.bfloat16
