"""AdamW on the master weights: its kind, its learning rate, and its state as plain tensors.

adamw8bit holds both moments in 8 bits with a scale for every 256 values (arXiv 2110.02861), by
torchao: 2 bytes a parameter and not 8. Tensors of fewer than 4,096 values keep fp32 moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from exprl import config
from exprl.errors import ConfigError

MOMENTS = ("exp_avg", "exp_avg_sq")
QUANTIZED = ("codes", "scale", "qmap")
"""What torchao's 8-bit tensors are made of: [shape] uint8, [numel / 256] fp32, [256] fp32."""

COMPILE_FROM = 10_000_000
"""Parameters from which compiling torchao's step pays on a CPU: seconds for every shape, once."""


class Optimizer:
    """AdamW over named masters.

    adamw: torch's or torchao's optimizer.

    Args:
        masters: by name; their gradients are what `step` goes by.
        updates: optimizer steps of the whole run, which the schedule is laid over; None is enough
            for a constant rate.

    Raises:
        ConfigError: optim.kind needs a package that is not there, or the schedule has no length.
    """

    def __init__(
        self, settings: config.Optim, masters: Mapping[str, nn.Parameter], updates: int | None
    ) -> None:
        self._masters = masters
        self._max_grad_norm = settings.max_grad_norm
        self._rate = schedule(settings, updates)
        self.adamw = _adamw(settings, list(masters.values()))

    def clip(self) -> Tensor:
        """Scale the gradients down to optim.max_grad_norm; returns their norm before that."""
        return nn.utils.clip_grad_norm_(self._masters.values(), self._max_grad_norm)

    def learning_rate(self, update: int) -> float:
        """Of the update that comes after `update` others."""
        return self._rate(update)

    def step(self, update: int) -> None:
        """Step the masters by their gradients, at the learning rate of this update."""
        rate = self._rate(update)
        for group in self.adamw.param_groups:
            if isinstance(group["lr"], Tensor):  # torchao's, for torch.compile
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        with self._stance():
            self.adamw.step()

    def clear(self) -> None:
        """Drop the gradients."""
        self.adamw.zero_grad(set_to_none=True)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The state, each 8-bit moment by its parts: NAME.exp_avg.codes, NAME.exp_avg.scale, ..."""
        for name, master in self._masters.items():
            for key, value in self.adamw.state[master].items():
                parts = [part for part in QUANTIZED if hasattr(value, part)]
                if parts:
                    yield from ((f"{name}.{key}.{part}", getattr(value, part)) for part in parts)
                else:
                    yield f"{name}.{key}", value

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `tensors` gave; a master without state has made no step yet."""
        for name, master in self._masters.items():
            if f"{name}.step" not in tensors:
                continue
            fused = self.adamw.defaults.get("fused")
            step = tensors[f"{name}.step"].to(master.device if fused else "cpu")
            moments = {key: _moment(f"{name}.{key}", tensors, master.device) for key in MOMENTS}
            self.adamw.state[master] = {"step": step, **moments}

    def _stance(self) -> AbstractContextManager[Any]:
        """Without torch.compile where it would take longer than it saves."""
        values = list(self._masters.values())
        if values[0].is_cuda or sum(map(Tensor.numel, values)) >= COMPILE_FROM:
            return nullcontext()
        eager: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
        return eager


def schedule(settings: config.Optim, updates: int | None) -> Callable[[int], float]:
    """The learning rate as a function of the number of updates done before.

    Warm-up rises linearly to optim.lr at update `warmup_steps`; then the rate stays, or falls to
    0 right after the last update. transformers' schedules, read one update ahead, as theirs begin
    with a rate of 0.

    >>> rate = schedule(config.Optim(lr=1.0, warmup_steps=2, schedule="linear"), updates=5)
    >>> [round(rate(update), 2) for update in range(5)]
    [0.5, 1.0, 0.75, 0.5, 0.25]

    Raises:
        ConfigError: the schedule's length is not known, or all of it is warm-up.
    """
    from transformers import get_scheduler

    name, warmup = settings.schedule, settings.warmup_steps
    if name != "constant" and (updates is None or updates <= warmup):
        raise ConfigError(
            f'optim.schedule = "{name}" falls after optim.warmup_steps = {warmup}, and the run has'
            f" {updates} updates (train.steps x optim.mini_batches); lower warmup_steps, or set"
            ' optim.schedule = "constant"'
        )
    unused = torch.optim.SGD([torch.zeros(())], lr=1.0)
    factors = get_scheduler(
        "constant_with_warmup" if name == "constant" else name,
        unused,
        num_warmup_steps=warmup,
        num_training_steps=None if updates is None else updates + 1,
    ).lr_lambdas
    return lambda update: settings.lr * float(factors[0](update + 1))


def _adamw(settings: config.Optim, masters: list[nn.Parameter]) -> torch.optim.Optimizer:
    arguments: dict[str, Any] = {
        "lr": settings.lr,
        "betas": settings.betas,
        "eps": settings.eps,
        "weight_decay": settings.weight_decay,
    }
    if settings.kind == "adamw":
        return torch.optim.AdamW(masters, fused=masters[0].is_cuda, **arguments)
    try:
        from torchao.optim import AdamW8bit
    except ImportError as error:
        raise ConfigError(
            'optim.kind = "adamw8bit" needs the package torchao; install it, or set optim.kind ='
            ' "adamw"'
        ) from error
    optimizer: torch.optim.Optimizer = AdamW8bit(masters, **arguments)
    return optimizer


def _moment(name: str, tensors: Mapping[str, Tensor], device: torch.device) -> Tensor:
    """A moment from its tensor, or from the parts of an 8-bit one."""
    if name in tensors:
        return tensors[name].to(device)
    from torchao.optim.subclass_8bit import OptimState8bit

    parts = (tensors[f"{name}.{part}"].to(device) for part in QUANTIZED)
    moment: Tensor = OptimState8bit(*parts, signed=name.endswith(".exp_avg"), dtype=torch.float32)
    return moment
