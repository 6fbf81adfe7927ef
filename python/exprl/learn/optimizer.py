"""AdamW on the master weights: its kind, its learning rate, and its state as plain tensors.

adamw8bit holds both moments in 8 bits with a scale for every 256 values (arXiv 2110.02861), by
torchao: 2 bytes a parameter and not 8. Tensors of fewer than 4,096 values keep fp32 moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from exprl import config
from exprl.errors import ConfigError
from exprl.learn import moments
from exprl.learn.moments import MOMENTS

if TYPE_CHECKING:  # one process needs none of it
    from exprl.learn.sharding import Shards

COMPILE_FROM = 10_000_000
"""Parameters from which compiling torchao's step pays on a CPU: seconds for every shape, once."""


class Optimizer:
    """AdamW over named masters.

    adamw: torch's or torchao's optimizer.

    Args:
        masters: by name; their gradients are what `step` goes by.
        updates: optimizer steps of the whole run, which the schedule is laid over; None is enough
            for a constant rate.
        shards: where `masters` are this rank's parts of them: who holds the rest.

    Raises:
        ConfigError: optim.kind needs a package that is not there, or the schedule has no length.
    """

    def __init__(
        self,
        settings: config.Optim,
        masters: Mapping[str, nn.Parameter],
        updates: int | None,
        shards: Shards | None = None,
    ) -> None:
        self._masters = masters
        self._shards = shards
        self._in_8_bits = settings.kind == "adamw8bit"
        self._max_grad_norm = settings.max_grad_norm
        self._rate = schedule(settings, updates)
        self.adamw = _adamw(settings, list(masters.values()))

    def clip(self) -> Tensor:
        """Scale the gradients down to optim.max_grad_norm; returns their norm before that."""
        masters = self._masters.values()
        norm = nn.utils.get_total_norm([m.grad for m in masters if m.grad is not None])
        if self._shards:
            norm = self._shards.whole_norm(norm)
        nn.utils.clip_grads_with_norm_(masters, self._max_grad_norm, norm)
        return norm

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
        """The state, each 8-bit moment by its parts: NAME.exp_avg.codes, NAME.exp_avg.scale, ...

        With shards every rank must take all of it, and only the first one is given any.
        """
        for name, master in self._masters.items():
            for key, value in self.adamw.state[master].items():
                if self._shards is None:
                    yield from moments.to_file(f"{name}.{key}", value)
                elif key in MOMENTS:
                    cut = self._shards.cut(name)
                    yield from moments.gather(
                        f"{name}.{key}", value, cut, in_8_bits=self._in_8_bits
                    )
                elif self._shards.rank == 0:
                    yield f"{name}.{key}", value

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `tensors` gave, from however many ranks.

        A master without state has made no step yet.
        """
        for name, master in self._masters.items():
            if f"{name}.step" not in tensors:
                continue
            fused = self.adamw.defaults.get("fused")
            step = tensors[f"{name}.step"].to(master.device if fused else "cpu")
            start = self._shards.cut(name).start if self._shards else 0
            self.adamw.state[master] = {"step": step} | {
                key: moments.from_file(
                    f"{name}.{key}", tensors, master, start, in_8_bits=self._in_8_bits
                )
                for key in MOMENTS
            }

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
