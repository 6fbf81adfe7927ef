"""The GRPO loss of logits that already exist; its gradient may take their place in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from exprl_kernels import check, definition
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


def grpo_loss_from_logits(
    logits: Tensor,
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
    inplace_grad: bool = False,
    backend: Backend = "auto",
) -> GrpoOutput:
    """The token-level GRPO loss with one advantage per segment; formula: definition.py.

    Differentiable in logits; every other tensor is taken as data.

    Args:
        logits: [N, V], float32 or bfloat16 on a GPU, any floating type on a CPU; -inf and
            the least float = masked.
        targets: [N] int64 or int32 in 0..V-1.
        seg_adv: [S], the advantage of each segment.
        seg_id: [N] int64 or int32 in 0..S-1, the segment of each token; or
        seg_off: [S+1], segment s is tokens seg_off[s]..seg_off[s+1]-1, from 0 to N.
        token_weight: [N], mask and aggregation; the loss is the weighted sum. 0 = left out.
        trainer_logp: [N], log-probs of the policy before the update; None = this very policy
            (one on-policy step), so that the ratio is 1 with the gradient of logp.
        initial_logp: [N], of the frozen initial policy; needed where kl_coef is not 0.
        generator_logp: [N], of the engine; with importance_cap, for the truncated weight.
        temperature: positive scalar, or [N].
        logit_scale: factor of the raw logits (Cohere's logit_scale, 1 / Granite's logits_scaling).
        softcap: raw logits x become softcap * tanh(x / softcap), after logit_scale (Gemma 2). Then
            -inf alone is a mask: the least float becomes -softcap, which has a probability.
        clip_low, clip_high: the ratio is held in 1 - clip_low .. 1 + clip_high; both None =
            REINFORCE.
        dual_clip: c > 1, upper bound -c * A of the loss of a negative advantage.
        kl_coef, entropy_coef: of k3 and of the entropy bonus, both differentiable.
        importance_cap: upper bound of exp(trainer_logp - generator_logp); None = weight 1.
        inplace_grad: overwrite logits with their gradient, which saves a tensor of their size; the
            caller must not use them afterwards, and backward can run once. Kernels only.
        backend: "auto" = Triton kernels on a GPU, plain torch elsewhere.

    Raises:
        ValueError: with the value and the expected shape, where arguments are wrong or contradict
            each other. On a GPU, wrong values on the device (a target outside the vocabulary, a
            weight that is not finite) are counted in `bad_rows` instead.
    """
    check.ready_logits(logits, targets)
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
    if check.eager(logits.device):
        check.values(rows, logits.shape[1])
    if check.choose(backend, logits.device) == "triton":
        return _launch(logits, rows, shape, terms, inplace_grad=inplace_grad)
    if inplace_grad:
        raise ValueError("inplace_grad = True needs the kernels; here backend is 'torch'")
    return definition.grpo_loss_from_logits(logits, rows, shape, terms)


def _launch(
    logits: Tensor, rows: Rows, shape: Shape, terms: Terms, *, inplace_grad: bool
) -> GrpoOutput:
    check.kernel_dtype(logits.dtype)
    if inplace_grad:
        return _in_place(logits, rows, shape, terms)
    given = logits if logits.stride(1) == 1 else logits.contiguous()
    loss, *per_token, bad_rows, _, _, _, _ = _loss_from_logits(given, *rows, *shape, *terms)
    return GrpoOutput.of(loss, (value.detach() for value in per_token), bad_rows)


_NUMBERS = f"{ROWS_SCHEMA}, {SHAPE_SCHEMA}, {TERMS_SCHEMA}"


@torch.library.custom_op(
    "exprl::grpo_loss_from_logits",
    mutates_args=(),
    schema=f"(Tensor logits, {_NUMBERS}) -> ({', '.join(['Tensor'] * 11)})",
)
def _loss_from_logits(logits: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return _run(logits, rest, None)


@torch.library.custom_op(
    "exprl::grpo_loss_from_logits_",
    mutates_args=("logits",),
    schema=f"(Tensor(a!) logits, {_NUMBERS}) -> ({', '.join(['Tensor'] * 11)})",
)
def _loss_from_logits_(logits: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return _run(logits, rest, logits)


@torch.library.custom_op(
    "exprl::grpo_loss_from_logits_backward",
    mutates_args=(),
    schema=(
        f"(Tensor logits, Tensor targets, Tensor? temperatures, {SHAPE_SCHEMA}, "
        "Tensor top, Tensor log2_total, Tensor entropy, Tensor d_logp, Tensor? d_entropy) -> Tensor"
    ),
)
def _backward(logits: Tensor, targets: Tensor, temperatures: Tensor | None, *rest: Any) -> Tensor:
    from exprl_kernels.rowgrad import row_grad

    out = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    top, log2_total, entropy, d_logp, d_entropy = rest[3:]
    row_grad(
        logits,
        targets,
        temperatures,
        Shape(*rest[:3]),
        top=top,
        log2_total=log2_total,
        entropy=entropy,
        d_logp=d_logp,
        d_entropy=d_entropy,
        d_lse=None,
        out=out,
    )
    return out


def _run(logits: Tensor, rest: tuple[Any, ...], grad: Tensor | None) -> tuple[Tensor, ...]:
    from exprl_kernels.lossrows import empty_tokens, loss_rows

    rows, shape, terms = Rows(*rest[:8]), Shape(*rest[8:11]), Terms(*rest[11:])
    tokens = empty_tokens(len(logits), terms, logits.device)
    loss_rows(logits.detach(), rows, shape, terms, tokens, grad)
    seen = (tokens.logp, tokens.entropy, tokens.k3, tokens.clip_code, tokens.ratio)
    kept = (tokens.top, tokens.log2_total, tokens.d_logp, tokens.d_entropy)
    return tokens.loss.sum(), *seen, tokens.bad.sum(), *kept


@_loss_from_logits.register_fake
@_loss_from_logits_.register_fake
def _(logits: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    n, bonus = logits.shape[0], Terms(*rest[11:]).entropy_coef
    kinds = [torch.float32] * 3 + [torch.int8, torch.float32]
    return (
        logits.new_empty((), dtype=torch.float32),
        *(logits.new_empty(n, dtype=kind) for kind in kinds),
        logits.new_empty((), dtype=torch.int64),
        *(logits.new_empty(size, dtype=torch.float32) for size in (n, n, n, n if bonus else 0)),
    )


@_backward.register_fake
def _(logits: Tensor, *_: Any) -> Tensor:
    return logits.new_empty(logits.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    rows = Rows(*inputs[1:9])
    ctx.shape, ctx.arguments = inputs[9:12], len(inputs)
    ctx.bonus = Terms(*inputs[12:]).entropy_coef != 0.0
    entropy, kept = output[2], output[-4:]
    ctx.save_for_backward(inputs[0], rows.targets, rows.temperatures, entropy, *kept)


def _differentiate(ctx: Any, d_loss: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    logits, targets, temperatures, *kept = ctx.saved_tensors
    entropy, top, log2_total, d_logp, d_entropy = kept
    gradient = _backward(
        logits,
        targets,
        temperatures,
        *ctx.shape,
        *(top, log2_total, entropy),
        d_logp * d_loss,
        d_entropy * d_loss if ctx.bonus else None,
    )
    return gradient, *(None,) * (ctx.arguments - 1)


_loss_from_logits.register_autograd(_differentiate, setup_context=_save)


class _InPlace(torch.autograd.Function):
    """Its backward returns what the forward wrote over the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        # Kept past save_for_backward, whose guard is against just this overwriting.
        ctx.gradient, ctx.arguments = logits.detach(), 1 + len(rest)
        out: tuple[Tensor, ...] = _loss_from_logits_(ctx.gradient, *rest)[:7]
        ctx.mark_non_differentiable(*out[1:])
        return out

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        from exprl_kernels.rowgrad import scale_rows

        if ctx.gradient is None:
            raise RuntimeError(
                "inplace_grad = True: the gradient was handed out, backward runs once"
            )
        gradient, ctx.gradient = ctx.gradient, None
        scale_rows(gradient, d_loss)
        return gradient, *(None,) * (ctx.arguments - 1)


def _in_place(logits: Tensor, rows: Rows, shape: Shape, terms: Terms) -> GrpoOutput:
    if logits.stride(1) != 1 or logits.stride(0) < logits.shape[1]:
        raise ValueError(
            f"inplace_grad = True with logits of strides {logits.stride()}; expected rows without"
            f" gaps that do not overlap, ({logits.shape[1]}, 1)"
        )
    out = _InPlace.apply(logits, *rows, *shape, *terms)  # type: ignore[no-untyped-call]
    return GrpoOutput._make(out)
