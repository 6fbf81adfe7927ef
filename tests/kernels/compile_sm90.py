"""Compile every kernel that the public functions launch for sm_90, on a machine without a GPU.

Run as a program, without TRITON_INTERPRET. Each launch goes through Triton's own binder, so that
types, alignment and constants are those of a real launch; it ends before the launch. What the
machine code needs is read out of it, and its loops are counted (sass.py). Prints one JSON object
per compiled kernel.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import sass
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from exprl_kernels import check, grpo_loss_from_logits, linear_grpo_loss, linear_logp

N, H = 24, 16
# Qwen3's vocabulary, and one that is not a multiple of 16.
VOCABULARIES = (151_936, 5003)
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
FEATURES: list[dict] = [
    {},
    {"clip_low": None, "clip_high": None},
    {"dual_clip": 3.0},
    {"initial": True, "kl_coef": 0.1},
    {"entropy_coef": 0.01},
    {"generator": True, "importance_cap": 2.0},
    {"per_token_temperature": True},
    {"softcap": 30.0, "logit_scale": 0.5},
    {
        "dual_clip": 3.0,
        "initial": True,
        "kl_coef": 0.1,
        "entropy_coef": 0.01,
        "generator": True,
        "importance_cap": 2.0,
        "per_token_temperature": True,
        "softcap": 30.0,
        "logit_scale": 0.5,
    },
]


class Hopper:
    """What Triton asks a driver for before a launch: the target, a device, a stream."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def main() -> None:
    driver.set_active(Hopper())
    check.choose = lambda backend, device: "triton"
    compiled: dict[str, object] = {}
    launch = JITFunction.run

    def compile_only(self: JITFunction, *args: object, grid: object, warmup: bool, **more: object):
        kernel = launch(self, *args, grid=grid, warmup=True, **more)
        compiled[kernel.hash] = kernel
        return kernel

    JITFunction.run = compile_only
    for call in calls():
        call()
    for kernel in compiled.values():
        about = assembled(kernel) | addresses(kernel) | work(kernel)
        print(json.dumps({"name": kernel.metadata.name, **about}))


def calls() -> Iterator:
    """Public functions with their backward, on CPU tensors that no kernel touches."""
    for dtype in (torch.bfloat16, torch.float32):
        for vocab in VOCABULARIES:
            every = vocab == VOCABULARIES[0] and dtype == torch.bfloat16
            for features in FEATURES if every else (FEATURES[0], FEATURES[-1]):
                yield lambda d=dtype, v=vocab, f=features: call_losses(d, v, dict(f))


def call_losses(dtype: torch.dtype, vocab: int, features: dict) -> None:
    hidden = torch.zeros(N, H, dtype=dtype, requires_grad=True)
    weight = torch.zeros(vocab, H, dtype=dtype, requires_grad=True)
    targets = torch.zeros(N, dtype=torch.int64)
    shape = {name: features.pop(name) for name in ("softcap", "logit_scale") if name in features}
    if features.pop("per_token_temperature", False):
        shape["temperature"] = torch.ones(N)
    loss = {
        "seg_adv": torch.ones(2),
        "seg_id": torch.zeros(N, dtype=torch.int32),
        "token_weight": torch.ones(N),
        "trainer_logp": torch.zeros(N),
    }
    for flag, name in (("initial", "initial_logp"), ("generator", "generator_logp")):
        if features.pop(flag, False):
            loss[name] = torch.zeros(N)
    out = linear_logp(hidden, weight, targets, **shape)
    (out.logp.sum() + out.entropy.sum() + out.lse.sum()).backward()
    linear_grpo_loss(hidden, weight, targets, **loss, **shape, **features).loss.backward()
    linear_grpo_loss(hidden, weight.detach(), targets, **loss, **shape, **features).loss.backward()
    for inplace_grad in (False, True):
        logits = torch.zeros(N, vocab, dtype=dtype, requires_grad=True)
        given = logits * 1 if inplace_grad else logits
        grpo_loss_from_logits(
            given, targets, **loss, **shape, **features, inplace_grad=inplace_grad
        ).loss.backward()


def assembled(kernel) -> dict[str, int]:
    """Registers, and bytes of the stack: what is spilled lies there."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        said = subprocess.run(
            [str(CUOBJDUMP), "--dump-resource-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    (needs,) = re.findall(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", said)
    registers, stack, local = map(int, needs)
    return {
        "registers": registers,
        "stack": stack + local,
        "warps": kernel.metadata.num_warps,
        "shared": kernel.metadata.shared,
    }


def addresses(kernel) -> dict[str, int | list[str]]:
    """Number of pointers moved by a scalar, as to a row; those moved by 32 bits, by name."""
    moved = re.findall(r"tt\.addptr %(\w+), [^:]*: !tt\.ptr<\w+>, (i\d+)", kernel.asm["ttir"])
    return {"rows": len(moved), "narrow": [name for name, width in moved if width != "i64"]}


def work(kernel) -> dict[str, object]:
    """Instructions per logit of the main loops over a row, and what kind of launch it is.

    features: its arguments that may be None and are not. aligned: rows start at 16 bytes, so that a
    thread loads 16 at a time.
    """
    ir = kernel.asm["ttir"]
    types = dict(re.findall(r"%(\w+): (!tt\.ptr<\w+>|f32)", ir[: ir.index("attributes")]))
    logits = types.get("logits") or types["grad"]
    size = 2 if "bf16" in logits else 4
    main = [loop for loop in sass.loops(kernel.asm["cubin"]) if loop.loaded and not loop.masked]
    per_logit = [loop.instructions * size / loop.loaded for loop in main]
    return {
        "logits": logits,
        "grad": types.get("grad"),
        "features": [name for name in ("softcap", "entropy_coef", "d_entropy") if name in types],
        "aligned": bool(re.search(r"%stride: i32 {tt\.divisibility = 16", ir)),
        "statistics": [n for n, loop in zip(per_logit, main, strict=True) if not loop.stored],
        "nan_seen": all(loop.nan_maxima * size >= loop.loaded for loop in main if not loop.stored),
        "gradient": [n for n, loop in zip(per_logit, main, strict=True) if loop.stored],
    }


if __name__ == "__main__":
    main()
