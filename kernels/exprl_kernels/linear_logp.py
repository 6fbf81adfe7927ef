"""Log-probabilities of a language-model head without its logits.

    z = x w^T / temperature     logp = z[target] - lse(z)     H = lse - sum_j p_j z_j

The forward keeps the statistics of each token, and the backward forms each chunk's logits anew
(4 GEMMs):

    dz_j = g_logp (1[j = target] - p_j) - g_H p_j (log p_j + H) + g_lse p_j
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from exprl_kernels import check, chunks, definition
from exprl_kernels.check import Backend
from exprl_kernels.terms import SHAPE_SCHEMA, LogpOutput, Shape


def linear_logp(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    chunk_tokens: int = chunks.CHUNK_TOKENS,
    workspace_bytes: int = chunks.WORKSPACE_BYTES,
    backend: Backend = "auto",
) -> LogpOutput:
    """Log-probability of each target under softmax(hidden @ weight.T / temperature).

    Differentiable in hidden and weight through all three outputs.

    Args:
        hidden: [N, H], float32 or bfloat16 on a GPU, any floating type on a CPU.
        weight: [V, H], the head. Under autocast both are used in autocast's dtype.
        targets: [N] int64 or int32 in 0..V-1.
        temperature: positive scalar, or [N].
        logit_scale: factor of the raw logits (Cohere's logit_scale, 1 / Granite's logits_scaling).
        softcap: raw logits x become softcap * tanh(x / softcap), after logit_scale (Gemma 2). Then
            -inf alone is a mask: the least float becomes -softcap, which has a probability.
        chunk_tokens, workspace_bytes: upper bounds of what lives of the logits at a time.
        backend: "auto" = Triton kernels on a GPU, plain torch elsewhere.

    Raises:
        ValueError: with the value and the expected shape. On a GPU a target outside the
            vocabulary gives NaN instead, as looking at it would wait for the device.
    """
    check.head(hidden, weight, targets)
    numbers, temperatures = check.shape(temperature, logit_scale, softcap, targets)
    dtype = check.compute_dtype(hidden, weight)
    if check.eager(hidden.device):
        check.target_values(targets, len(weight))
    if check.choose(backend, hidden.device) == "torch":
        size = chunks.chunk_size(len(hidden), 8 * len(weight), chunk_tokens, workspace_bytes)
        return definition.linear_logp(
            hidden, weight, targets, temperatures, numbers, dtype=dtype, chunk=size
        )
    check.kernel_dtype(dtype)
    limits = (dtype, chunk_tokens, workspace_bytes)
    out = _linear_logp(hidden, weight, targets.contiguous(), temperatures, *numbers, *limits)
    return LogpOutput(*out[:3])


_INPUTS = f"Tensor hidden, Tensor weight, Tensor targets, Tensor? temperatures, {SHAPE_SCHEMA}"
_LIMITS = "ScalarType dtype, int chunk_tokens, int workspace_bytes"
_STATISTICS = "Tensor top, Tensor log2_total, Tensor entropy"
_GRADIENTS = "Tensor d_logp, Tensor? d_entropy, Tensor? d_lse"


@torch.library.custom_op(
    "exprl::linear_logp",
    mutates_args=(),
    schema=f"({_INPUTS}, {_LIMITS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _linear_logp(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperatures: Tensor | None, *rest: Any
) -> tuple[Tensor, ...]:
    from exprl_kernels.rowstats import Statistics, empty_statistics, row_stats

    shape, (dtype, tokens, size) = Shape(*rest[:3]), rest[3:]
    out = empty_statistics(len(hidden), hidden.device)
    for chunk in chunks.over(hidden, weight, targets, dtype, tokens, size, gradient=False):
        part = Statistics(*(value[chunk.at] for value in out))
        row_stats(chunk.logits(), chunk.targets, chunks.part(temperatures, chunk.at), shape, part)
    return out


@torch.library.custom_op(
    "exprl::linear_logp_backward",
    mutates_args=(),
    schema=(
        f"({_INPUTS}, {_LIMITS}, {_STATISTICS}, {_GRADIENTS}, bool need_dx, bool need_dw)"
        " -> (Tensor, Tensor)"
    ),
)
def _backward(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperatures: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor]:
    from exprl_kernels.rowgrad import row_grad

    shape, (dtype, *limits) = Shape(*rest[:3]), rest[3:6]
    top, log2_total, entropy, d_logp, d_entropy, d_lse, need_dx, need_dw = rest[6:]
    total = chunks.Gradients.empty(hidden, weight, need_dx, need_dw)
    for chunk in chunks.over(hidden, weight, targets, dtype, *limits):
        grad = chunk.gradient()
        row_grad(
            chunk.logits(),
            chunk.targets,
            chunks.part(temperatures, chunk.at),
            shape,
            top=top[chunk.at],
            log2_total=log2_total[chunk.at],
            entropy=entropy[chunk.at],
            d_logp=d_logp[chunk.at],
            d_entropy=chunks.part(d_entropy, chunk.at),
            d_lse=chunks.part(d_lse, chunk.at),
            out=grad,
        )
        total.add(chunk, grad)
    return total.whole()


@_linear_logp.register_fake
def _(hidden: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return tuple(hidden.new_empty(hidden.shape[0], dtype=torch.float32) for _ in range(5))


@_backward.register_fake
def _(hidden: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    total = chunks.Gradients.empty(hidden, weight, *rest[-2:])
    return total.dx, total.dw


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, targets, temperatures, *ctx.numbers = inputs
    _, entropy, _, top, log2_total = output
    ctx.save_for_backward(hidden, weight, targets, temperatures, top, log2_total, entropy)
    ctx.set_materialize_grads(False)  # an entropy that nobody differentiates costs no work


def _differentiate(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    hidden, weight, targets, temperatures, *statistics = ctx.saved_tensors
    d_logp, d_entropy, d_lse = (None if g is None else g.contiguous() for g in gradients[:3])
    need_dx, need_dw = ctx.needs_input_grad[:2]
    dx, dw = _backward(
        hidden,
        weight,
        targets,
        temperatures,
        *ctx.numbers,
        *statistics,
        torch.zeros_like(statistics[0]) if d_logp is None else d_logp,
        *(d_entropy, d_lse),
        need_dx,
        need_dw,
    )
    rest = (None,) * (2 + len(ctx.numbers))
    return (
        dx if need_dx else None,
        dw.to(weight.dtype) if need_dw else None,
        *rest,
    )


_linear_logp.register_autograd(_differentiate, setup_context=_save)
