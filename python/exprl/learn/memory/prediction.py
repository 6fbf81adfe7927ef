"""The prediction: what is alive in each phase of a run, and the phase that needs most.

    peak = max over the phases of the sum of the parts that are alive in them

Weights, masters, gradients and moments follow from the parameters; activations are counted on fake
tensors (activations.py), and the head's room is that of the loss (head.py). What no shape tells (a
CUDA context, a sleeping engine, what the allocator loses) are the constants below.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

from exprl.learn.memory import head
from exprl.learn.memory.activations import Activations, measure
from exprl.learn.memory.shapes import FP32, GIB, Setup, Shapes

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
    initial = {"initial policy": setup.torch_dtype.itemsize * shapes.total // setup.ranks}
    initial = initial if setup.needs_initial and not setup.lora_rank else {}
    comes_and_goes = setup.gpu and setup.offload_initial and setup.ranks == 1
    resident = kept if comes_and_goes else kept | initial
    away = setup.gpu and setup.offload
    beside = _engine(shapes, setup, card, awake=False)
    body, guesses = _body(shapes, setup, quick)
    teaches = initial if setup.objective == "reverse_kl" else {}
    gradients = {"gradients": FP32 * _trainable(shapes, setup) // setup.parts}
    gathered, reduced = _gathered(shapes, setup)
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
            | gathered
            | {
                "activations": body.inference + _merged(shapes, setup),
                "head": head.inference(shapes, setup),
            }
        )
    layers, moments = _backward(shapes, setup, body)
    alive = resident | teaches | gradients | beside | gathered | {"activations": layers}
    phases["loss"] = alive | {"head": head.training(shapes, setup)}
    phases["backward"] = resident | teaches | gradients | beside | gathered | reduced | moments
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
    if setup.lora_rank:
        weights, masters = narrow * shapes.total // setup.ranks + FP32 * sum(sizes), 0
    elif setup.ranks > 1:  # the parts are the masters
        weights, masters = FP32 * shapes.total // setup.ranks, 0
    else:
        # fp32 values are their own masters
        weights, masters = narrow * shapes.total, 0 if narrow == FP32 else FP32 * sum(sizes)
    moments = optimizer_bytes(sizes, setup.optimizer) // setup.parts
    return {"weights": weights, "fp32 masters": masters, "moments": moments}


def _gathered(shapes: Shapes, setup: Setup) -> tuple[dict[str, int], dict[str, int]]:
    """What a rank holds of the others' weights while it computes, and of gradients on their way.

    Embedding and head stay gathered from the forward to the end of the backward; of the layers the
    one that computes, and the next. Gradients are added up over the ranks in fp32.
    """
    if setup.ranks == 1:
        return {}, {}
    outside = shapes.vocab * shapes.hidden * (1 if shapes.tied else 2)
    layer = (shapes.total - outside) // shapes.layers
    models = 2 if setup.objective == "reverse_kl" and not setup.lora_rank else 1
    narrow = setup.torch_dtype.itemsize
    gathered = {"gathered weights": narrow * (models * outside + 2 * layer)}
    if setup.lora_rank:
        return gathered, {}
    return gathered, {"gradients on their way": FP32 * max(outside, layer) + narrow * layer}


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
    head_bytes = shapes.vocab * shapes.hidden * setup.torch_dtype.itemsize
    trains_head = not setup.lora_rank
    if shapes.tied and trains_head:  # the embedding's gradient comes last and is added to it
        moments = [moment | {"tied head's gradient": head_bytes} for moment in moments]
    if trains_head:
        moments.append({"embedding's gradient": (1 + shapes.tied) * head_bytes})
    return kept, max(moments, key=lambda moment: sum(moment.values()))


def _merged(shapes: Shapes, setup: Setup) -> int:
    """LoRA computes with one merged weight at a time: W and W' in fp32, and W' rounded."""
    if not setup.lora_rank:
        return 0
    largest = max(inputs * outputs for inputs, outputs in shapes.linears.values())
    return (2 * FP32 + setup.torch_dtype.itemsize) * largest


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
