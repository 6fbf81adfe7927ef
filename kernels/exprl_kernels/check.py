"""Arguments of the public functions: what is refused, and what is made of the rest.

Shapes, dtypes, devices and settings are free to check and always are. Values (targets in 0..V-1,
segments that tile, finite weights) live on the device. On a CPU they are checked eagerly. On a GPU
the loss on hidden states reads them back with the counts of rows that it leaves out; with
`drop_zero_rows=False`, under torch.compile and from ready logits nothing is read back, and an
offending row is left out and counted in `bad_rows` instead.
"""

from __future__ import annotations

import math
import os
from typing import Literal

import torch
from torch import Tensor

from exprl_kernels.terms import Rows, Shape, Terms

Backend = Literal["auto", "triton", "torch"]


def choose(backend: Backend, device: torch.device) -> Literal["triton", "torch"]:
    """The implementation for tensors on `device`; "auto" is Triton on a GPU, else plain torch.

    Raises:
        ValueError: "triton" on a CPU without Triton's interpreter, or an unknown name.
        ImportError: on a GPU without Triton.
    """
    match backend:
        case "torch":
            return "torch"
        case "auto" if device.type != "cuda":
            return "torch"
        case "auto" | "triton":
            if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
                raise ValueError(
                    f"backend = 'triton' with tensors on {device}: needs a GPU, or the interpreter "
                    "(TRITON_INTERPRET=1 before Triton is imported)"
                )
            _require_triton()
            return "triton"
        case _:
            raise ValueError(f"backend = {backend!r}; expected 'auto', 'triton' or 'torch'")


def _require_triton() -> None:
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "the loss kernels need the package `triton`; install it, or pass backend='torch'"
        ) from error


def compute_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """The dtype of the operands of the head's products: autocast's, or the inputs' own."""
    if torch.is_autocast_enabled(hidden.device.type):
        return torch.get_autocast_dtype(hidden.device.type)
    if hidden.dtype != weight.dtype:
        raise ValueError(
            f"hidden is {hidden.dtype} and weight is {weight.dtype}; cast one of them, or call "
            "under torch.autocast"
        )
    return hidden.dtype


def kernel_dtype(dtype: torch.dtype) -> None:
    """Refuse what the kernels would compute badly."""
    if dtype not in (torch.float32, torch.bfloat16):
        hint = {
            torch.float16: "gradients of one token in 100,000 underflow in it",
            torch.float64: "the kernels' statistics are fp32; use backend='torch'",
        }.get(dtype, "not a floating-point type of the loss")
        raise ValueError(f"the kernels take float32 and bfloat16, got {dtype}: {hint}")


def head(hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    """hidden [N, H], weight [V, H], targets [N]."""
    if hidden.dim() != 2:
        raise ValueError(f"hidden has shape {_shape(hidden)}; expected [N, H]")
    if weight.dim() != 2 or weight.shape[1] != hidden.shape[1]:
        raise ValueError(
            f"weight has shape {_shape(weight)}; expected [V, H] with H = {hidden.shape[1]}"
        )
    _same_device(hidden.device, {"weight": weight})
    _floating({"hidden": hidden, "weight": weight})
    _targets(targets, len(hidden), hidden.device)


def ready_logits(logits: Tensor, targets: Tensor) -> None:
    """logits [N, V], targets [N]."""
    if logits.dim() != 2:
        raise ValueError(f"logits has shape {_shape(logits)}; expected [N, V]")
    _floating({"logits": logits})
    _targets(targets, len(logits), logits.device)


def shape(
    temperature: float | Tensor, logit_scale: float, softcap: float | None, like: Tensor
) -> tuple[Shape, Tensor | None]:
    """The numbers, and the temperatures [N] where they are per token."""
    _positive(logit_scale=logit_scale, softcap=softcap)
    if not isinstance(temperature, Tensor):
        _positive(temperature=temperature)
        return Shape(float(temperature), float(logit_scale), softcap), None
    per_token = temperature.expand(len(like)) if temperature.dim() == 0 else temperature
    _per_token(len(like), like.device, {"temperature": per_token})
    return Shape(1.0, float(logit_scale), softcap), per_token.detach().contiguous()


def rows(
    targets: Tensor,
    *,
    seg_adv: Tensor,
    seg_id: Tensor | None,
    seg_off: Tensor | None,
    token_weight: Tensor,
    trainer_logp: Tensor | None,
    initial_logp: Tensor | None,
    generator_logp: Tensor | None,
    temperatures: Tensor | None,
) -> Rows:
    """The loss's tensors, detached and contiguous."""
    n, device = len(targets), targets.device
    if seg_adv.dim() != 1:
        raise ValueError(
            f"seg_adv has shape {_shape(seg_adv)}; expected one number per segment, [S], with "
            "seg_id [N] or seg_off [S+1] (for advantages per token: seg_id = arange(N))"
        )
    _floating({"seg_adv": seg_adv})
    _same_device(device, {"seg_adv": seg_adv, "seg_id": seg_id, "seg_off": seg_off})
    given = {
        "token_weight": token_weight,
        "trainer_logp": trainer_logp,
        "initial_logp": initial_logp,
        "generator_logp": generator_logp,
    }
    _per_token(n, device, given)
    weight, trainer, initial, generator = (
        None if value is None else value.detach().contiguous() for value in given.values()
    )
    assert weight is not None
    ids = _segments(n, len(seg_adv), seg_id, seg_off)
    advantages = seg_adv.detach().contiguous()
    return Rows(
        targets.contiguous(), advantages, ids, weight, trainer, initial, generator, temperatures
    )


def terms(rows: Rows, numbers: Terms) -> Terms:
    """The numbers, in themselves and against the tensors that they need."""
    low, high, dual, kl, _, cap = numbers
    if kl and rows.initial_logp is None:
        raise ValueError(f"kl_coef = {kl} needs initial_logp")
    if cap is not None and rows.generator_logp is None:
        raise ValueError(f"importance_cap = {cap} needs generator_logp")
    if (low is None) != (high is None):
        raise ValueError(f"clip_low = {low} and clip_high = {high} go together")
    if low is not None and not 0.0 <= low <= 1.0:
        raise ValueError(f"clip_low = {low}; expected 0..1, the ratio is held at 1 - clip_low")
    if high is not None and not high >= 0.0:
        raise ValueError(f"clip_high = {high}; expected >= 0, the ratio is held at 1 + clip_high")
    if dual is not None and (low is None or not dual > 1.0):
        raise ValueError(f"dual_clip = {dual} with clip_low = {low}; expected > 1, and a clip")
    _positive(importance_cap=cap)
    for name, value in (("kl_coef", kl), ("entropy_coef", numbers.entropy_coef)):
        if not math.isfinite(value):
            raise ValueError(f"{name} = {value}; expected a finite number")
    return numbers


def values(rows: Rows, vocab: int, *counts: Tensor) -> list[int]:
    """Refuse wrong values; return the counts, read in the same synchronization."""
    wrong = {
        "targets": _outside(rows.targets, vocab),
        "seg_id": _outside(rows.seg_id, len(rows.seg_adv)),
        "token_weight": ~torch.isfinite(rows.token_weight),
        "seg_adv": ~torch.isfinite(rows.seg_adv),
    }
    expected = {
        "targets": f"0..V-1 = 0..{vocab - 1} (give tokens without a target weight 0 and target 0)",
        "seg_id": f"0..S-1 = 0..{len(rows.seg_adv) - 1}, or a seg_off that rises from 0 to N",
        "token_weight": "finite numbers, 0 for tokens to leave out",
        "seg_adv": "finite numbers; leave segments without a score out by token_weight",
    }
    if rows.temperatures is not None:
        wrong["temperature"] = ~(rows.temperatures > 0) | torch.isinf(rows.temperatures)
        expected["temperature"] = "finite numbers > 0"
    read = torch.stack([*(mask.sum() for mask in wrong.values()), *counts]).tolist()
    for (name, mask), is_wrong in zip(wrong.items(), read, strict=False):
        if is_wrong:
            tensor: Tensor = getattr(rows, "temperatures" if name == "temperature" else name)
            at = int(mask.nonzero()[0])
            raise ValueError(f"{name}[{at}] = {tensor[at].item()}; expected {expected[name]}")
    return [int(count) for count in read[len(wrong) :]]


def target_values(targets: Tensor, vocab: int) -> None:
    """Refuse targets outside the vocabulary. One synchronization with the device."""
    mask = _outside(targets, vocab)
    if mask.any():
        at = int(mask.nonzero()[0])
        raise ValueError(f"targets[{at}] = {int(targets[at])}; expected 0..V-1 = 0..{vocab - 1}")


def eager(device: torch.device) -> bool:
    """Whether values can be looked at for free: on a CPU, outside torch.compile."""
    return device.type == "cpu" and not torch.compiler.is_compiling()


def _segments(n: int, s: int, seg_id: Tensor | None, seg_off: Tensor | None) -> Tensor:
    """seg_id [N]; -1 everywhere where seg_off does not tile 0..N."""
    if (seg_id is None) == (seg_off is None):
        raise ValueError("give seg_id [N] or seg_off [S+1], one of them")
    if seg_id is not None:
        if seg_id.shape != (n,):
            raise ValueError(f"seg_id has shape {_shape(seg_id)}; expected [N] = ({n},)")
        _integral({"seg_id": seg_id})
        return seg_id.contiguous()
    assert seg_off is not None
    if seg_off.shape != (s + 1,):
        raise ValueError(f"seg_off has shape {_shape(seg_off)}; expected [S+1] = ({s + 1},)")
    _integral({"seg_off": seg_off})
    tiles = (seg_off[0] == 0) & (seg_off[-1] == n) & (seg_off[1:] >= seg_off[:-1]).all()
    if eager(seg_off.device) and not tiles:
        raise ValueError(
            f"seg_off = {seg_off.tolist()} does not tile the tokens; expected S+1 = {s + 1} "
            f"numbers that start at 0, do not fall, and end at N = {n}"
        )
    tokens = torch.arange(n, device=seg_off.device, dtype=seg_off.dtype)
    return torch.where(tiles, torch.searchsorted(seg_off[1:].contiguous(), tokens, right=True), -1)


def _targets(targets: Tensor, n: int, device: torch.device) -> None:
    if targets.shape != (n,):
        raise ValueError(f"targets has shape {_shape(targets)}; expected [N] = ({n},)")
    _integral({"targets": targets})
    _same_device(device, {"targets": targets})


def _per_token(n: int, device: torch.device, tensors: dict[str, Tensor | None]) -> None:
    for name, value in tensors.items():
        if value is not None and value.shape != (n,):
            raise ValueError(f"{name} has shape {_shape(value)}; expected [N] = ({n},)")
    _same_device(device, tensors)
    _floating(tensors)


def _same_device(device: torch.device, tensors: dict[str, Tensor | None]) -> None:
    for name, value in tensors.items():
        if value is not None and value.device != device:
            raise ValueError(f"{name} is on {value.device}; expected {device}, as the first input")


def _floating(tensors: dict[str, Tensor | None]) -> None:
    for name, value in tensors.items():
        if value is not None and not value.is_floating_point():
            raise ValueError(f"{name} has dtype {value.dtype}; expected a floating-point type")


def _integral(tensors: dict[str, Tensor]) -> None:
    for name, value in tensors.items():
        if value.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"{name} has dtype {value.dtype}; expected int64 or int32")


def _positive(**numbers: float | None) -> None:
    for name, value in numbers.items():
        if value is not None and not (value > 0.0 and math.isfinite(value)):
            raise ValueError(f"{name} = {value}; expected a finite number > 0")


def _outside(index: Tensor, size: int) -> Tensor:
    return (index < 0) | (index >= size)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
