"""The GRPO loss of a language-model head without its logits: gradients formed in the forward.

For each chunk of tokens, with the loss of definition.py:

    logits = x w^T (fp32)  ->  loss, dlogits (one row kernel)  ->  dx = dlogits w, dw += dlogits^T x

Three GEMMs in all, and the backward only scales dx and dw by the gradient of the loss. Rows of
weight 0 take part in none of the three, and rows whose gradient is known to be 0 in the first only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from exprl_kernels import check, chunks, definition
from exprl_kernels.check import Backend
from exprl_kernels.terms import (
    ROWS_SCHEMA,
    SHAPE_SCHEMA,
    TERMS_SCHEMA,
    GrpoOutput,
    Rows,
    Shape,
    Terms,
)


def linear_grpo_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    seg_adv: Tensor,
    seg_id: Tensor | None = None,
    seg_off: Tensor | None = None,
    token_weight: Tensor,
    trainer_logp: Tensor | None = None,
    initial_logp: Tensor | None = None,
    generator_logp: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    clip_low: float | None = 0.2,
    clip_high: float | None = 0.26,
    dual_clip: float | None = None,
    kl_coef: float = 0.0,
    entropy_coef: float = 0.0,
    importance_cap: float | None = None,
    drop_zero_rows: bool = True,
    chunk_tokens: int = chunks.CHUNK_TOKENS,
    workspace_bytes: int = chunks.WORKSPACE_BYTES,
    backend: Backend = "auto",
) -> GrpoOutput:
    """The loss of `grpo_loss_from_logits` on logits = hidden @ weight.T, never held as a whole.

    A weight that needs no gradient (frozen head) costs no GEMM for it.

    Args:
        hidden: [N, H], float32 or bfloat16 on a GPU, any floating type on a CPU.
        weight: [V, H], the head. Under autocast both are used in autocast's dtype.
        drop_zero_rows: leave rows of weight 0 out of all GEMMs, and rows of advantage 0 out of the
            two of the gradient where kl_coef = entropy_coef = 0 (exact). On a GPU this takes the
            call's only synchronization, in which values are checked too; False = none.
        chunk_tokens, workspace_bytes: upper bounds of what lives of the logits at a time. The
            default bytes hold 4,608 tokens of 151,936 words in bf16; 8,192 take 7 << 30.
        backend: "auto" = Triton kernels on a GPU, plain torch elsewhere.

    All others: see `grpo_loss_from_logits`.
    """
    check.head(hidden, weight, targets)
    shape, temperatures = check.shape(temperature, logit_scale, softcap, targets)
    rows = check.rows(
        targets,
        seg_adv=seg_adv,
        seg_id=seg_id,
        seg_off=seg_off,
        token_weight=token_weight,
        trainer_logp=trainer_logp,
        initial_logp=initial_logp,
        generator_logp=generator_logp,
        temperatures=temperatures,
    )
    terms = check.terms(
        rows, Terms(clip_low, clip_high, dual_clip, kl_coef, entropy_coef, importance_cap)
    )
    dtype = check.compute_dtype(hidden, weight)
    loss = functools.partial(
        _loss,
        weight=weight,
        shape=shape,
        terms=terms,
        limits=(dtype, chunk_tokens, workspace_bytes),
        backend=check.choose(backend, hidden.device),
    )
    if not drop_zero_rows or torch.compiler.is_compiling():
        if check.eager(hidden.device):
            check.values(rows, len(weight))
        return loss(hidden, rows=rows)
    return _drop_zero_rows(loss, hidden, rows, terms, len(weight))


def _drop_zero_rows(
    loss: Callable[..., GrpoOutput], hidden: Tensor, rows: Rows, terms: Terms, vocab: int
) -> GrpoOutput:
    """The same loss with two products less for tokens without a gradient, and none for weight 0."""
    silent, left_out = _silent(rows, terms), rows.token_weight == 0
    spared, dropped = check.values(rows, vocab, (silent & ~left_out).sum(), left_out.sum())
    if not (spared or dropped):
        return loss(hidden, rows=rows)
    # Tokens with a gradient, then those without, then those of weight 0; else in their order.
    order = torch.where(left_out, 2, silent.to(torch.int8)).argsort(stable=True)
    seen = len(hidden) - dropped
    taught = order[: seen - spared]
    parts = [loss(hidden.index_select(0, taught), rows=definition.rows_at(rows, taught))]
    if spared:
        rest = order[seen - spared : seen]
        with torch.no_grad():
            parts.append(loss(hidden.index_select(0, rest), rows=definition.rows_at(rows, rest)))
    return _spread(parts, order[:seen], len(hidden))


def _silent(rows: Rows, terms: Terms) -> Tensor:
    """[N] bool: tokens whose gradient is 0 whatever the policy says of them."""
    if terms.kl_coef or terms.entropy_coef:
        return torch.zeros_like(rows.token_weight, dtype=torch.bool)
    segments = len(rows.seg_adv)
    known = (rows.seg_id >= 0) & (rows.seg_id < segments)
    adv = functional.pad(rows.seg_adv, (0, 1), value=torch.nan)  # of a segment that is not there
    return adv[torch.where(known, rows.seg_id, segments).long()] == 0


def _loss(
    hidden: Tensor,
    *,
    weight: Tensor,
    rows: Rows,
    shape: Shape,
    terms: Terms,
    limits: tuple[torch.dtype, int, int],
    backend: Literal["triton", "torch"],
) -> GrpoOutput:
    dtype, *bounds = limits
    if backend == "torch":
        size = chunks.chunk_size(len(hidden), 8 * len(weight), *bounds)
        return definition.linear_grpo_loss(
            hidden, weight, rows, shape, terms, dtype=dtype, chunk=size
        )
    check.kernel_dtype(dtype)
    needs = (torch.is_grad_enabled() and value.requires_grad for value in (hidden, weight))
    loss, *per_token, bad_rows, _, _ = _linear_grpo_loss(
        hidden, weight, *rows, *shape, *terms, *limits, *needs
    )
    return GrpoOutput.of(loss, (value.detach() for value in per_token), bad_rows)


def _spread(parts: list[GrpoOutput], at: Tensor, n: int) -> GrpoOutput:
    """Per-token values at their places among n tokens; the others are NaN, or ClipCode.NONE."""

    def at_home(values: tuple[Tensor, ...]) -> Tensor:
        empty = torch.nan if values[0].is_floating_point() else 0
        return values[0].new_full((n,), empty).index_copy_(0, at, torch.cat(values))

    loss, *per_token, bad_rows = zip(*parts, strict=True)
    return GrpoOutput.of(sum(loss[1:], loss[0]), map(at_home, per_token), sum(bad_rows))


@torch.library.custom_op(
    "exprl::linear_grpo_loss",
    mutates_args=(),
    schema=(
        f"(Tensor hidden, Tensor weight, {ROWS_SCHEMA}, {SHAPE_SCHEMA}, {TERMS_SCHEMA}, "
        "ScalarType dtype, int chunk_tokens, int workspace_bytes, bool need_dx, bool need_dw)"
        " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
)
def _linear_grpo_loss(hidden: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    from exprl_kernels.lossrows import Tokens, empty_tokens, loss_rows

    rows, shape, terms = Rows(*rest[:8]), Shape(*rest[8:11]), Terms(*rest[11:17])
    dtype, chunk_tokens, workspace_bytes, need_dx, need_dw = rest[17:]
    tokens = empty_tokens(len(hidden), terms, hidden.device)
    wanted = need_dx or need_dw
    total = chunks.Gradients.empty(hidden, weight, need_dx, need_dw)
    limits = (chunk_tokens, workspace_bytes, wanted)
    for chunk in chunks.over(hidden, weight, rows.targets, dtype, *limits):
        part = definition.rows_at(rows, chunk.at)._replace(targets=chunk.targets)
        grad = chunk.gradient() if wanted else None
        here = Tokens(*(value[chunk.at] for value in tokens))
        loss_rows(chunk.logits(), part, shape, terms, here, grad)
        if grad is not None:
            total.add(chunk, grad)
    seen = (tokens.logp, tokens.entropy, tokens.k3, tokens.clip_code, tokens.ratio)
    return tokens.loss.sum(), *seen, tokens.bad.sum(), *total.whole()


@_linear_grpo_loss.register_fake
def _(hidden: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    total = chunks.Gradients.empty(hidden, weight, *rest[-2:])
    n = hidden.shape[0]
    kinds = [torch.float32] * 3 + [torch.int8, torch.float32]
    return (
        hidden.new_empty((), dtype=torch.float32),
        *(hidden.new_empty(n, dtype=kind) for kind in kinds),
        hidden.new_empty((), dtype=torch.int64),
        *(total.dx, total.dw),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, *_ = inputs
    ctx.save_for_backward(*output[-2:])
    ctx.kinds = (hidden.dtype, weight.dtype)
    ctx.arguments = len(inputs)


def _differentiate(ctx: Any, d_loss: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients formed in the forward, times that of the loss: one pass, no synchronization."""
    scaled = (
        torch.mul(gradient, d_loss, out=torch.empty_like(gradient, dtype=kind)) if needed else None
        for gradient, kind, needed in zip(
            ctx.saved_tensors, ctx.kinds, ctx.needs_input_grad[:2], strict=True
        )
    )
    return *scaled, *(None,) * (ctx.arguments - 2)


_linear_grpo_loss.register_autograd(_differentiate, setup_context=_save)
