"""Compare every operation with fp64 on this machine; print pass or fail for each.

On a GPU the Triton kernels and the plain-torch definition are checked in fp32 and bf16, and logits
of more than 2^31 elements where memory allows. On a CPU the definition is, and the kernels too in
Triton's interpreter: TRITON_INTERPRET=1 python -m exprl_kernels selftest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from exprl_kernels import grpo_loss_from_logits, linear_grpo_loss, linear_logp
from exprl_kernels.check import Backend
from exprl_kernels.terms import GrpoOutput, LogpOutput

LARGE_VOCAB = 151_936
LOGP_LIMIT = 1e-4  # absolute
GRADIENT_LIMITS = {torch.float32: 1e-5, torch.bfloat16: 3e-3}  # relative Frobenius norm
# A product that keeps one fp32 sum over K terms of both signs rounds each partial sum by at most
# 2^-24 of it, sqrt(K / 6) 2^-24 of the whole in the mean; this many times that passes.
SUMMATION = 3.0
# Triton's interpreter cuts fp32 off to bf16 where a GPU rounds.
CUT_OFF = 2.0


class Finding(NamedTuple):
    """One line: an error that was measured, and the largest that passes."""

    what: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        """NaN does not pass."""
        return self.error <= self.limit


class Case(NamedTuple):
    """Inputs of a loss in one dtype; its rows are peaked and flat, clipped, masked."""

    hidden: Tensor  # [N, H]
    weight: Tensor  # [V, H]
    targets: Tensor  # [N]
    loss: dict[str, Any]  # keyword arguments


def run(device_name: str | None = None) -> int:
    """Print the findings; 1 if one of them failed, else 0."""
    device = torch.device(device_name or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device_name}: torch sees no GPU; leave out --device for the CPU")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(f"exprl_kernels on {name}, torch {torch.__version__}")
    findings = 0
    failed = 0
    for finding in _findings(device):
        findings += 1
        failed += not finding.passed
        word = "pass" if finding.passed else "FAIL"
        print(f"{word}  {finding.what:64} {finding.error:.2e} (<= {finding.limit:.0e})")
    print(f"{findings - failed} passed, {failed} failed")
    return int(failed > 0)


def _findings(device: torch.device) -> Iterator[Finding]:
    backends: list[Backend] = ["torch"]
    if device.type == "cuda" or _interpreted():
        backends.append("triton")
    else:
        print("skip  the Triton kernels: no GPU (TRITON_INTERPRET=1 runs them on a CPU, slowly)")
    sizes = (256, 512, LARGE_VOCAB) if device.type == "cuda" else (24, 64, 5003)
    for dtype in (torch.float32, torch.bfloat16):
        case = make_case(*sizes, device, dtype)
        for backend in backends:
            label = f"{backend} {str(dtype).removeprefix('torch.')}"
            yield from _check_logp(case, backend, label)
            yield from _check_loss(case, backend, label)
            yield from _check_from_logits(case, backend, label)
    if device.type == "cuda":
        yield from _check_large(device)


def make_case(n: int, h: int, v: int, device: torch.device, dtype: torch.dtype) -> Case:
    """Every fourth row peaked on its target, every fifth of weight 0, ratios on both clip sides."""
    generator = torch.Generator().manual_seed(11)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    weight = (normal(v, h) / h**0.5).to(device, dtype)
    targets = torch.randint(v, (n,), generator=generator).to(device)
    peaked = (torch.arange(n, device=device) % 4 == 0)[:, None]
    hidden = 2.0 * normal(n, h).to(device) + 15.0 * peaked * weight[targets].float()
    hidden = hidden.to(dtype)
    logp = linear_logp(hidden.double(), weight.double(), targets, backend="torch").logp.float()
    loss = {
        "seg_adv": normal(3).to(device),
        "seg_id": torch.arange(n, device=device) * 3 // n,
        "token_weight": (torch.arange(n, device=device) % 5 != 0).float() / n,
        "trainer_logp": logp + 0.3 * normal(n).to(device),
        "initial_logp": logp + 0.3 * normal(n).to(device),
    }
    numbers = {"kl_coef": 0.05, "entropy_coef": 0.01, "dual_clip": 3.0, "temperature": 0.9}
    return Case(hidden, weight, targets, {**loss, **numbers})


def _check_logp(case: Case, backend: Backend, label: str) -> Iterator[Finding]:
    def differentiated(leaves: list[Tensor], backend: Backend) -> LogpOutput:
        hidden, weight = leaves
        out = linear_logp(hidden, weight, case.targets, temperature=0.9, backend=backend)
        (out.logp.sum() + out.entropy.sum() - 0.5 * out.lse.sum()).backward()
        return out

    leaves, exact = _leaves(case.hidden, case.weight)
    seen = differentiated(leaves, backend)
    wanted = differentiated(exact, "torch")
    for name in LogpOutput._fields:
        error = _distance(getattr(seen, name).detach(), getattr(wanted, name).detach())
        yield Finding(f"linear_logp, {label}: {name}", error, LOGP_LIMIT)
    what, vocab = f"linear_logp, {label}", len(case.weight)
    yield from _gradients(what, ("hidden", "weight"), leaves, exact, vocab)


def _check_loss(case: Case, backend: Backend, label: str) -> Iterator[Finding]:
    def differentiated(leaves: list[Tensor], backend: Backend) -> GrpoOutput:
        hidden, weight = leaves
        out = linear_grpo_loss(hidden, weight, case.targets, **case.loss, backend=backend)
        out.loss.backward()
        return out

    leaves, exact = _leaves(case.hidden, case.weight)
    seen = differentiated(leaves, backend)
    what = f"linear_grpo_loss, {label}"
    yield from _outputs(what, seen, differentiated(exact, "torch"))
    yield from _gradients(what, ("hidden", "weight"), leaves, exact, len(case.weight))
    again, _ = _leaves(case.hidden, case.weight)
    differentiated(again, backend)
    pairs = zip(_grads(leaves), _grads(again), strict=True)
    differing = sum(not torch.equal(first, second) for first, second in pairs)
    yield Finding(f"{what}: gradients whose bits differ when repeated", differing, 0.0)


def _check_from_logits(case: Case, backend: Backend, label: str) -> Iterator[Finding]:
    def differentiated(leaf: Tensor, backend: Backend, inplace_grad: bool = False) -> GrpoOutput:
        out = grpo_loss_from_logits(
            leaf, case.targets, **case.loss, inplace_grad=inplace_grad, backend=backend
        )
        out.loss.backward()
        return out

    logits = case.hidden @ case.weight.T
    modes = {"": False, " in place": True} if backend == "triton" else {"": False}
    for mode, inplace_grad in modes.items():
        (leaf,), (exact,) = _leaves(logits)
        # In place, the kernel writes into the logits that it is given.
        given = (leaf * 1.0) if inplace_grad else leaf
        seen = differentiated(given, backend, inplace_grad)
        what = f"grpo_loss_from_logits{mode}, {label}"
        yield from _outputs(what, seen, differentiated(exact, "torch"))
        yield from _gradients(what, ("logits",), [leaf], [exact], 1)


def _check_large(device: torch.device) -> Iterator[Finding]:
    """The last rows of logits whose addresses do not fit into 32 bits."""
    rows = 2**31 // LARGE_VOCAB + 64
    needed = 3 * rows * LARGE_VOCAB * 2
    if torch.cuda.mem_get_info(device)[0] < needed:
        print(f"skip  addresses past 2^31: needs {needed / 1e9:.0f} GB of free GPU memory")
        return
    logits = torch.zeros(rows, LARGE_VOCAB, dtype=torch.bfloat16, device=device)
    last = slice(rows - 8, rows)
    logits[last] = torch.randn(8, LARGE_VOCAB, device=device)
    targets = torch.arange(rows, device=device) % LARGE_VOCAB
    loss: dict[str, Any] = {
        "seg_adv": torch.ones(1, device=device),
        "token_weight": torch.ones(rows, device=device),
    }
    ids = torch.zeros(rows, dtype=torch.int32, device=device)
    logits.requires_grad_()
    seen = grpo_loss_from_logits(logits, targets, **loss, seg_id=ids, backend="triton")
    seen.loss.backward()
    exact = logits.detach()[last].double().requires_grad_()
    part = loss | {"token_weight": loss["token_weight"][last]}
    wanted = grpo_loss_from_logits(exact, targets[last], **part, seg_id=ids[last], backend="torch")
    wanted.loss.backward()
    what = f"grpo_loss_from_logits, {logits.numel():,} logits"
    yield Finding(f"{what}: logp", _distance(seen.logp[last], wanted.logp), LOGP_LIMIT)
    error = _relative(None if logits.grad is None else logits.grad[last], exact.grad)
    yield Finding(f"{what}: gradient", error, GRADIENT_LIMITS[torch.bfloat16])


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _leaves(*tensors: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Fresh leaves, and the same values in fp64."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    return leaves, [tensor.detach().double().requires_grad_() for tensor in tensors]


def _grads(leaves: list[Tensor]) -> list[Tensor]:
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


def _outputs(what: str, seen: GrpoOutput, wanted: GrpoOutput) -> Iterator[Finding]:
    loss = seen.loss.detach(), wanted.loss.detach()
    yield Finding(f"{what}: loss", _distance(*loss), LOGP_LIMIT)
    for name in ("logp", "entropy", "k3", "ratio"):
        error = _distance(getattr(seen, name), getattr(wanted, name))
        yield Finding(f"{what}: {name}", error, LOGP_LIMIT)
    differing = float((seen.clip_code != wanted.clip_code).sum())
    yield Finding(f"{what}: clip codes that differ", differing, 0.0)
    yield Finding(f"{what}: bad rows", float(seen.bad_rows - wanted.bad_rows), 0.0)


def _gradients(
    what: str, names: tuple[str, ...], leaves: list[Tensor], exact: list[Tensor], terms: int
) -> Iterator[Finding]:
    """terms: of the longest sum that an element of a gradient is."""
    for name, leaf, leaf64 in zip(names, leaves, exact, strict=True):
        limit = max(GRADIENT_LIMITS[leaf.dtype], SUMMATION * 2.0**-24 * (terms / 6) ** 0.5)
        if leaf.dtype == torch.bfloat16 and not leaf.is_cuda and _interpreted():
            limit *= CUT_OFF
        yield Finding(f"{what}: gradient of {name}", _relative(leaf.grad, leaf64.grad), limit)


def _distance(seen: Tensor, wanted: Tensor) -> float:
    """Largest difference; rows that were left out are NaN in both, or the distance is infinite."""
    if not torch.equal(seen.isnan(), wanted.isnan()):
        return float("inf")
    return float((seen.double() - wanted.double()).nan_to_num(0.0).abs().max())


def _relative(seen: Tensor | None, wanted: Tensor | None) -> float:
    if seen is None or wanted is None:
        return float("inf")
    return float((seen.double() - wanted).norm() / wanted.norm())
