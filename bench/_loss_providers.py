"""Every way to compute the loss that the bench compares: exprl's, the rivals', and the floors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import _loss_rivals as rivals
import torch
from _loss_problem import Problem, loss_inputs
from _loss_rivals import torch_loss_of
from torch import Tensor

import exprl_kernels

Leaves = tuple[Tensor, ...]
THREE_PRODUCTS = "3 products"
COPY = "from logits: a copy"
GPU_ONLY = "its kernels need a GPU"


def head_leaves(problem: Problem) -> Leaves:
    """hidden [N, H] and weight [V, H], to be differentiated."""
    return problem.hidden.detach().requires_grad_(), problem.weight.detach().requires_grad_()


def logits_leaf(problem: Problem) -> Leaves:
    """logits [N, V] in the head's dtype."""
    return ((problem.hidden @ problem.weight.T).requires_grad_(),)


@dataclass(frozen=True, slots=True)
class Package:
    """What a rival needs: the module that must be found, and the command that installs it."""

    module: str
    install: str = "pip install --no-deps -r requirements/bench.txt"


LIGER, CCE = Package("liger_kernel"), Package("cut_cross_entropy")
# Both need nvidia-cutlass-dsl, a wheel of about 90 MB.
LIGER_CUTE = Package("cutlass", "pip install 'liger-kernel[cutedsl]==0.8.5'")
QUACK = Package("quack", "pip install 'quack-kernels[cu13]==0.6.5'")


@dataclass(frozen=True, slots=True)
class Provider:
    """One way to compute the loss.

    loss: of the leaves; a scalar to call backward on, or None where the call is the whole work
        (floors).
    leaves: what gradients are asked for, made before the clock starts.
    logp: [N] as the provider computes them, None where it hides them.
    outputs: what one call gives beside the loss and the gradients.
    best: the mode of ours that is meant for training, which the bars of speed hold for.
    sequence, segment: whether its contract allows one advantage per sequence, per segment. A
        provider that allows neither is run where `wrong` says what to see.
    wrong: why what it gives is not the loss; such a provider is no rival of the bars.
    gpu_only: why it cannot run on a CPU.
    package: what must be installed for it.
    """

    name: str
    loss: Callable[..., Tensor | None]
    leaves: Callable[[Problem], Leaves] = head_leaves
    logp: Callable[..., Tensor] | None = None
    outputs: str = ""
    start: str = "hidden"
    ours: bool = False
    best: bool = False
    floor: bool = False
    segment: bool = True
    sequence: bool = True
    wrong: str = ""
    gpu_only: str = ""
    package: Package | None = None

    def runs_on(self, problem: Problem) -> bool:
        """Whether its contract allows the problem, or shows what breaking it does."""
        return self.segment or bool(self.wrong) if problem.by_segment else self.sequence


# exprl


def exprl_loss(problem: Problem, hidden: Tensor, weight: Tensor) -> Any:
    targets = problem.targets.flatten()
    return exprl_kernels.linear_grpo_loss(hidden, weight, targets, **loss_inputs(problem))


def exprl_logp(problem: Problem, hidden: Tensor, weight: Tensor) -> Tensor:
    return exprl_kernels.linear_logp(hidden, weight, problem.targets.flatten()).logp


def exprl_from_logits(problem: Problem, logits: Tensor, **options: Any) -> Any:
    targets = problem.targets.flatten()
    return exprl_kernels.grpo_loss_from_logits(logits, targets, **loss_inputs(problem), **options)


def exprl_in_place(problem: Problem, logits: Tensor) -> Any:
    """On a CPU in Triton's interpreter: writing in place is the kernels' alone."""
    return exprl_from_logits(problem, logits, inplace_grad=True, backend="triton")


# Floors


def product_leaves(problem: Problem) -> Leaves:
    logits = problem.hidden @ problem.weight.T
    outputs = torch.empty_like(problem.hidden), torch.empty_like(problem.weight)
    return problem.hidden, problem.weight, logits, *outputs


def products(
    problem: Problem,
    hidden: Tensor,
    weight: Tensor,
    logits: Tensor,
    d_hidden: Tensor,
    d_weight: Tensor,
    forwards: int,
) -> None:
    """The head's products in its dtype, nothing else: logits once or twice, d_hidden, d_weight."""
    for _ in range(forwards):
        torch.mm(hidden, weight.T, out=logits)
    torch.mm(logits, weight, out=d_hidden)
    torch.mm(logits.T, hidden, out=d_weight)


def copy_leaves(problem: Problem) -> Leaves:
    logits = problem.hidden @ problem.weight.T
    return logits, torch.empty_like(logits)


def copy(problem: Problem, logits: Tensor, out: Tensor) -> None:
    """One read and one write of the logits."""
    out.copy_(logits)


def providers() -> list[Provider]:
    """All of them, in the order of the table."""
    return [*_from_hidden(), *_from_logits()]


def _from_hidden() -> list[Provider]:
    upcast, cce = partial(rivals.trl_head_logp, upcast=True), partial(rivals.cce_logp, impl="cce")
    liger = partial(_liger, logp=rivals.liger_logp)
    return [
        Provider(THREE_PRODUCTS, partial(products, forwards=1), product_leaves, floor=True),
        Provider("4 products", partial(products, forwards=2), product_leaves, floor=True),
        Provider(
            "exprl linear_grpo_loss",
            lambda problem, *leaves: exprl_loss(problem, *leaves).loss,
            logp=lambda problem, *leaves: exprl_loss(problem, *leaves).logp,
            outputs="logp, entropy, k3, clip code, ratio",
            ours=True,
            best=True,
        ),
        Provider(
            "exprl linear_logp + torch loss",
            torch_loss_of(exprl_logp),
            logp=exprl_logp,
            outputs="logp, entropy, lse",
            ours=True,
        ),
        _torch("torch as TRL, logits as they are", partial(rivals.trl_head_logp, upcast=False)),
        _torch("torch as TRL, logits in fp32", upcast),
        _torch("torch.compile, chunks", rivals.compiled_logp),
        _torch("torch as prime-rl, chunks of 1,024", rivals.prime_logp),
        liger("Liger fused-linear GRPO", rivals.liger_sequences),
        liger(
            "Liger fused-linear GRPO, a token a sequence",
            rivals.liger_tokens,
            sequence=False,
            segment=True,
        ),
        _liger("Liger Triton GRPO", rivals.liger_triton_head, logp=rivals.liger_triton_head_logp),
        _torch(
            "Liger fused-linear scaled CE + torch loss",
            rivals.liger_scaled_logp,
            package=LIGER,
        ),
        _torch(
            "Liger FLSCE-SM90 (CuTe) + torch loss",
            rivals.liger_sm90_logp,
            package=LIGER_CUTE,
            gpu_only=GPU_ONLY,
        ),
        _torch(
            "quack cross-entropy + torch loss",
            rivals.quack_logp,
            package=QUACK,
            gpu_only=GPU_ONLY,
        ),
        Provider(
            "quack chunked linear cross-entropy",
            rivals.quack_cross_entropy,
            package=QUACK,
            gpu_only=GPU_ONLY,
            wrong="cross-entropy alone: its chunks allow no weight per token",
        ),
        _torch("Apple CCE + torch loss", cce, gpu_only=GPU_ONLY, package=CCE),
        _torch(
            "Apple CCE without filter + torch loss",
            partial(cce, filter_eps=None),
            gpu_only=GPU_ONLY,
            package=CCE,
        ),
        _torch(
            "Apple CCE torch_compile + torch loss",
            partial(rivals.cce_logp, impl="torch_compile"),
            package=CCE,
        ),
        liger(
            "Liger fused-linear, (B, T) advantages, chunk 1",
            partial(rivals.liger_token_adv, chunk_size=1),
            sequence=False,
            wrong="outside its contract, right only while a chunk is one sequence",
        ),
        liger(
            "Liger fused-linear, (B, T) advantages, chunk 2",
            partial(rivals.liger_token_adv, chunk_size=2),
            sequence=False,
            wrong="accepted in silence, and wrong",
        ),
    ]


def _from_logits() -> list[Provider]:
    ours = partial(
        Provider,
        leaves=logits_leaf,
        outputs="logp, entropy, k3, clip code, ratio",
        start="logits",
        ours=True,
    )
    rival = partial(_torch, leaves=logits_leaf, start="logits")
    liger = partial(
        _liger, leaves=rivals.liger_logits, logp=rivals.liger_triton_logp, start="logits"
    )
    return [
        Provider(COPY, copy, copy_leaves, start="logits", floor=True),
        ours(
            "from logits: exprl",
            lambda problem, logits: exprl_from_logits(problem, logits).loss,
            logp=lambda problem, logits: exprl_from_logits(problem, logits).logp,
        ),
        ours(
            "from logits: exprl, in place",
            lambda problem, logits: exprl_in_place(problem, logits).loss,
            logp=lambda problem, logits: exprl_in_place(problem, logits).logp,
            best=True,
        ),
        rival("from logits: torch as TRL, as they are", partial(rivals.trl_logp, upcast=False)),
        rival("from logits: torch as TRL, in fp32", partial(rivals.trl_logp, upcast=True)),
        liger("from logits: Liger Triton GRPO, in place", rivals.liger_triton_sequences),
        liger(
            "from logits: Liger Triton, (B, T) advantages",
            rivals.liger_triton_token_adv,
            sequence=False,
            wrong="accepted in silence, and wrong",
        ),
    ]


def _torch(name: str, logp: Callable[..., Tensor], **more: Any) -> Provider:
    """A rival that gives log-probs, with the objective in plain torch."""
    return Provider(name, torch_loss_of(logp), logp=logp, outputs="logp", **more)


def _liger(
    name: str, loss: Callable[..., Tensor], *, segment: bool = False, **more: Any
) -> Provider:
    return Provider(
        name, loss, outputs="mean k3, clip share", segment=segment, package=LIGER, **more
    )
