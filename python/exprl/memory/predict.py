"""The memory that a run will need, predicted from shapes: part by part, phase by phase.

    peak = max over the phases of the sum of the parts that are alive in them

Weights, masters, gradients and moments follow from the parameters; activations are counted by
running the model's own code on fake tensors (activations.py); the head's room is what
exprl_kernels.chunks allots. What no shape tells (a CUDA context, a sleeping engine, what the
allocator loses) are the constants below.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from exprl import imitation
from exprl.activations import Activations, Count, count, measure
from exprl.loss import Head
from exprl_kernels import chunks, reference
from exprl_kernels.terms import Rows, Terms
from exprl_kernels.terms import Shape as LogitShape

GIB = 2**30
FP32 = 4

# Of a GPU, assumed and not yet measured by us: a CUDA context with its libraries, what a sleeping
# vLLM keeps, and the share of its memory that torch's allocator cannot use.
CONTEXT_BYTES = int(0.7 * GIB)
ASLEEP_BYTES = int(1.0 * GIB)
SLACK = 0.03

# Of a CPU run: Python with torch and transformers, and what glibc's heap keeps of freed blocks
# (measured: 9 to 12 % of small models; bench/memory.py).
PROCESS_BYTES = int(0.8 * GIB)
HEAP_SLACK = 0.1
COMPILER_BYTES = 64 << 20  # what torch.compile keeps of torchao's steps

# torchao quantizes moments in blocks, one fp32 scale each, with a table of 256 values per tensor;
# small or odd tensors stay fp32.
_BLOCK, _SMALLEST_QUANTIZED = 256, 4096

Phase = Literal[
    "load", "sampling", "weight sync", "initial log-probs", "loss", "backward", "optimizer step"
]


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
    def torch_dtype(self) -> torch.dtype:
        """Of weights and activations."""
        return torch.float32 if self.dtype == "float32" else torch.bfloat16


@dataclass(frozen=True, slots=True)
class Prediction:
    """Bytes by phase and part; `guesses` says in words what could not be derived.

    host: bytes that a GPU run keeps in host memory: what is offloaded.
    """

    phases: Mapping[Phase, Mapping[str, int]]
    host: int = 0
    guesses: tuple[str, ...] = ()

    @property
    def peak_phase(self) -> Phase:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: sum(self.phases[phase].values()))

    @property
    def peak(self) -> int:
        """Bytes of that phase."""
        return sum(self.phases[self.peak_phase].values())


def predict(
    shapes: Shapes, setup: Setup, card: int | None = None, *, quick: bool = False
) -> Prediction:
    """Predict the memory of a run: of the GPU, or of the process where it runs on a CPU.

    Args:
        card: bytes of the GPU, of which the engine takes its share; None = as much as it must have.
        quick: guess the activations from the layers' sizes, good to a factor of two.
    """
    kept = _trainer(shapes, setup)
    initial = {"initial policy": setup.torch_dtype.itemsize * shapes.total}
    initial = initial if setup.needs_initial and not setup.lora_rank else {}
    comes_and_goes = setup.gpu and setup.offload_initial
    resident = kept if comes_and_goes else kept | initial
    away = setup.gpu and setup.offload
    beside = _engine(shapes, setup, card, awake=False)
    body, guesses = _body(shapes, setup, quick)
    teaches = initial if setup.objective == "reverse_kl" else {}
    gradients = {"gradients": FP32 * _trainable(shapes, setup)}
    phases: dict[Phase, dict[str, int]] = {"load": resident | beside}
    if setup.engine:
        phases["sampling"] = ({} if away else resident) | _engine(shapes, setup, card, awake=True)
        if setup.gpu:
            phases["weight sync"] = ({} if away else resident) | {
                "engine": setup.torch_dtype.itemsize * (shapes.total + max(_sizes(shapes)))
            }
    if setup.needs_initial:
        phases["initial log-probs"] = (
            kept
            | initial
            | beside
            | {
                "activations": body.inference + _merged(shapes, setup),
                "head": _head_inference(shapes, setup),
            }
        )
    layers, moments = _backward(shapes, setup, body)
    alive = resident | teaches | gradients | beside | {"activations": layers}
    phases["loss"] = alive | {"head": _head(shapes, setup)}
    phases["backward"] = resident | teaches | gradients | beside | moments
    phases["optimizer step"] = (
        resident | gradients | beside | {"temporaries": _step_temporaries(shapes, setup)}
    )
    phases = {phase: parts | _overhead(parts, setup) for phase, parts in phases.items()}
    host = 0
    if setup.gpu:
        host = sum((kept if away else {}).values())
        host += sum((initial if comes_and_goes or away else {}).values())
    return Prediction(phases, host, guesses)


def optimizer_bytes(sizes: Sequence[int], kind: Literal["adamw", "adamw8bit"]) -> int:
    """Bytes of the two moments of tensors with these numbers of elements."""
    if kind == "adamw":
        return 2 * FP32 * sum(sizes)
    quantized = [n for n in sizes if n >= _SMALLEST_QUANTIZED and n % _BLOCK == 0]
    plain = sum(sizes) - sum(quantized)
    codes = sum(n + FP32 * n // _BLOCK + FP32 * 256 for n in quantized)
    return 2 * (codes + FP32 * plain)


def _trainer(shapes: Shapes, setup: Setup) -> dict[str, int]:
    """What lives as long as the trainer is where it computes."""
    narrow = setup.torch_dtype.itemsize
    sizes = _trainable_sizes(shapes, setup)
    own = setup.lora_rank or narrow == FP32  # fp32 values are their own masters
    return {
        "weights": narrow * shapes.total + (FP32 * sum(sizes) if setup.lora_rank else 0),
        "fp32 masters": 0 if own else FP32 * sum(sizes),
        "moments": optimizer_bytes(sizes, setup.optimizer),
    }


def _sizes(shapes: Shapes) -> list[int]:
    return list(shapes.parameters.values())


def _trainable_sizes(shapes: Shapes, setup: Setup) -> list[int]:
    if not setup.lora_rank:
        return _sizes(shapes)
    ends = setup.lora_targets
    chosen = [
        size
        for name, size in shapes.linears.items()
        if ends is None or any(f".{name}".endswith(f".{end}") for end in ends)
    ]
    return [setup.lora_rank * n for size in chosen for n in size]


def _trainable(shapes: Shapes, setup: Setup) -> int:
    return sum(_trainable_sizes(shapes, setup))


def _body(shapes: Shapes, setup: Setup, quick: bool) -> tuple[Activations, tuple[str, ...]]:
    if quick:
        return _guessed(shapes, setup), ("activations are guessed from the layers' sizes",)
    try:
        return _measured(shapes, setup.tokens, setup.torch_dtype, setup.gpu, setup.fused), ()
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        return _guessed(shapes, setup), (
            f"activations are guessed from the layers' sizes: {type(shapes.config).__name__} does"
            f" not run on fake tensors ({type(error).__name__}: {reason[:120]})",
        )


@lru_cache(maxsize=64)
def _measured(
    shapes: Shapes, tokens: int, dtype: torch.dtype, gpu: bool, fused: bool
) -> Activations:
    return measure(shapes.config, tokens, dtype, gpu=gpu, fused=fused)


def _guessed(shapes: Shapes, setup: Setup) -> Activations:
    """Every linear layer's input and output are kept, and those of the experts a token visits."""
    text = shapes.config.get_text_config()
    visited: int = getattr(text, "num_experts_per_tok", None) or 0
    width: int = getattr(text, "moe_intermediate_size", None) or text.intermediate_size
    numbers: int = 4 * shapes.hidden + visited * (2 * shapes.hidden + 3 * width)
    for name, (inputs, outputs) in shapes.linears.items():
        if re.search(r"(^|\.)0\.", name) and "expert" not in name:
            numbers += inputs + outputs
    row = setup.tokens * setup.torch_dtype.itemsize
    layer, x = numbers * row, shapes.hidden * row
    return Activations(4 * x, layer, x, layer // 4, layer * 5 // 4, layer // 2)


def _backward(shapes: Shapes, setup: Setup, body: Activations) -> tuple[int, dict[str, int]]:
    """Bytes that the body keeps until the loss, and the parts of its backward's worst moment.

    The layers that are recomputed are the first, so those that are not are through when the first
    recompute begins.
    """
    again = math.ceil(setup.recomputed * shapes.layers)
    inputs, full = again * body.layer_input, (shapes.layers - again) * body.layer
    kept = body.outside + inputs + full
    merged = _merged(shapes, setup)
    moments = [{"activations": kept, "a layer's backward": body.backward + merged}]
    if again:
        moments.append(
            {"activations": body.outside + inputs, "a layer's recompute": body.recompute + merged}
        )
    head = shapes.vocab * shapes.hidden * setup.torch_dtype.itemsize
    trains_head = not setup.lora_rank
    if shapes.tied and trains_head:  # the embedding's gradient comes last and is added to it
        moments = [moment | {"tied head's gradient": head} for moment in moments]
    if trains_head:
        moments.append({"embedding's gradient": (1 + shapes.tied) * head})
    return kept, max(moments, key=lambda moment: sum(moment.values()))


def _merged(shapes: Shapes, setup: Setup) -> int:
    """LoRA computes with one merged weight at a time: W and W' in fp32, and W' rounded."""
    if not setup.lora_rank:
        return 0
    largest = max(inputs * outputs for inputs, outputs in shapes.linears.values())
    return (2 * FP32 + setup.torch_dtype.itemsize) * largest


def _head(shapes: Shapes, setup: Setup) -> int:
    """What the loss needs beside its inputs, forward and backward, at most."""
    trains_head = not setup.lora_rank
    n, vocab, hidden = setup.tokens, shapes.vocab, shapes.hidden
    narrow = setup.torch_dtype.itemsize
    states = n * hidden * narrow
    if setup.objective == "reverse_kl":
        return states + _reverse_kl(n, vocab, hidden, setup.torch_dtype).peak
    if not setup.gpu:
        return states + _reference_loss(n, vocab, hidden, setup.torch_dtype).peak
    per_token = vocab * (FP32 + (narrow if narrow < FP32 else 0))
    size = chunks.chunk_size(n, per_token, chunks.CHUNK_TOKENS, chunks.WORKSPACE_BYTES)
    d_weight = vocab * hidden if trains_head else 0
    rows = size * (per_token + FP32 * hidden)  # logits, their gradients, fp32 rows of dx
    forward = 2 * states + rows + FP32 * d_weight
    backward = 3 * states + (FP32 + narrow) * d_weight  # scaled in one pass
    return max(forward, backward)


def _head_inference(shapes: Shapes, setup: Setup) -> int:
    """What log-probs without gradients need beside the body."""
    states = setup.tokens * shapes.hidden * setup.torch_dtype.itemsize
    per_token = FP32 * shapes.vocab
    size = chunks.chunk_size(setup.tokens, per_token, chunks.CHUNK_TOKENS, chunks.WORKSPACE_BYTES)
    copies = 1 if setup.gpu else 4  # plain torch: logits, z, log-probabilities, probabilities
    return states + copies * size * per_token


@lru_cache(maxsize=64)
def _reference_loss(n: int, vocab: int, hidden: int, dtype: torch.dtype) -> Count:
    """The loss in plain torch, as CPUs compute it."""
    chunk = chunks.chunk_size(n, 8 * vocab, chunks.CHUNK_TOKENS, chunks.WORKSPACE_BYTES)

    def loss(states: Tensor, weight: Tensor) -> Tensor:
        each = torch.zeros(n)
        index = torch.zeros(n, dtype=torch.int64)
        rows = Rows(index, torch.zeros(1), index.int(), each, each, each, each, None)
        shape, terms = LogitShape(1.0, 1.0, None), Terms(0.2, 0.2, None, 0.1, 0.0, None)
        return reference.linear_grpo_loss(
            states, weight, rows, shape, terms, dtype=dtype, chunk=chunk
        ).loss

    return count(loss, ((n, hidden), (vocab, hidden)), dtype)


@lru_cache(maxsize=64)
def _reverse_kl(n: int, vocab: int, hidden: int, dtype: torch.dtype) -> Count:
    """The divergence over the whole vocabulary, one chunk of tokens at a time."""

    def loss(states: Tensor, weight: Tensor) -> Tensor:
        teacher, index = Head(weight.detach()), torch.zeros(len(states), dtype=torch.int64)
        parts = imitation._reverse_kl(states, Head(weight), states.detach(), teacher, index, 1.0)
        return parts[0].sum()

    return count(loss, ((min(n, imitation.CHUNK_TOKENS), hidden), (vocab, hidden)), dtype)


def _step_temporaries(shapes: Shapes, setup: Setup) -> int:
    """Fused AdamW has none; plain torch's and torchao's hold fp32 copies of one tensor."""
    largest = max(_trainable_sizes(shapes, setup))
    if setup.optimizer == "adamw":
        return 0 if setup.gpu else 2 * FP32 * largest
    return 3 * FP32 * largest


def _engine(shapes: Shapes, setup: Setup, card: int | None, *, awake: bool) -> dict[str, int]:
    """The engine while it samples, or while the trainer works."""
    narrow = setup.torch_dtype.itemsize
    weights, sequence = narrow * shapes.total, narrow * shapes.kv_per_token * setup.tokens
    match setup.engine:
        case None:
            return {}
        case "transformers":
            asleep = 0 if setup.offload and setup.gpu else weights
            size = weights + setup.sequences * sequence if awake else asleep
        case "vllm" if not setup.gpu:  # never sleeps, and takes its cache at the start
            size = weights + int(os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1")) * GIB
        case "vllm" if awake:
            size = weights + sequence + 2 * ASLEEP_BYTES
            size = size if card is None else int(setup.engine_share * card)
        case "vllm":
            size = ASLEEP_BYTES
    return {"engine": size}


def _overhead(parts: Mapping[str, int], setup: Setup) -> dict[str, int]:
    """The process itself, or a GPU's context; and what the allocator keeps beside what is used."""
    own = sum(size for part, size in parts.items() if part != "engine")
    if setup.gpu:
        return {"CUDA context": CONTEXT_BYTES, "allocator": int(SLACK * own)}
    compiler = COMPILER_BYTES if setup.optimizer == "adamw8bit" else 0
    return {"process": PROCESS_BYTES + compiler, "allocator": int(HEAP_SLACK * own)}
