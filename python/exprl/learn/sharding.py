"""A model cut between the ranks of a trainer, by torch's FSDP2.

A rank holds its part of each weight in fp32, which is the master that the optimizer steps. A layer
is gathered in the compute dtype when its forward or backward comes, and let go of after it. Each
rank has micro-batches of its own, and the gradients of all ranks are added up in fp32: the token
weights already make the sum over all micro-batches the loss, however unequal the shares.

With LoRA the frozen weights are cut, in the compute dtype. Every rank has the whole adapter and its
optimizer, as both are small, and the ranks add up the adapter's gradients.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from exprl.errors import ConfigError
from exprl.learn.loss import LossStats
from exprl.learn.master import Masters
from exprl.learn.moments import Cut

FORWARD = "final_states"
"""The forward method of a sharded model, which calls no head."""


class Sharding:
    """How this rank and the others share models, in torch's default process group.

    rank, world: this rank, and how many there are.
    control: a group of gloo, for numbers of the host.
    """

    def __init__(self, device: torch.device, control: dist.ProcessGroup) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.device, self.control = device, control
        self._mesh = init_device_mesh(device.type, (self.world,))

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the ranks before this one: host memory holds one whole model at a time."""
        for _ in range(self.rank):
            dist.barrier(self.control)
        yield
        for _ in range(self.world - self.rank):
            dist.barrier(self.control)

    def shard(self, model: Any, dtype: torch.dtype) -> None:
        """Cut a model that lies in host memory; the parts go to the device, layer by layer.

        Parameters that learn in a model that is frozen elsewhere are an adapter's: they stay whole.

        Args:
            dtype: that the model computes in.

        Raises:
            ConfigError: the model does not say what its layers are.
        """
        from torch.distributed.fsdp import (
            FSDPModule,
            MixedPrecisionPolicy,
            fully_shard,
            register_fsdp_forward_method,
        )

        named = set(model._no_split_modules or ())
        layers = [m for m in model.modules() if type(m).__name__ in named]
        if not layers:
            raise ConfigError(
                f"ranks.count = {self.world}: {type(model).__name__} does not name its layers"
                " (_no_split_modules), so that it cannot be cut; set ranks.count = 1"
            )
        parameters = list(model.parameters())
        trained = [p for p in parameters if p.requires_grad]
        adapter = set(trained) if len(trained) < len(parameters) else set()
        for parameter in adapter:  # FSDP2 leaves them where they are
            parameter.data = parameter.data.to(self.device)
        precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        for module in [*layers, model]:
            fully_shard(module, mesh=self._mesh, mp_policy=precision, ignored_params=adapter)
        setattr(model, FORWARD, MethodType(_final_states, model))
        register_fsdp_forward_method(model, FORWARD)
        for module in model.modules():
            if isinstance(module, FSDPModule):  # a sum, and one that gloo knows, too
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)

    def total(self, stats: LossStats) -> LossStats:
        """The sums of all ranks, the same on each of them."""
        own = astuple(stats)
        rows = torch.empty(self.world, len(own), dtype=torch.float64)
        mine = torch.tensor(own, dtype=torch.float64)
        dist.all_gather(list(rows.unbind()), mine, group=self.control)
        result = LossStats()
        for row in rows.tolist():
            result.add(LossStats.from_numbers(row))
        return result

    def keep(self, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors in host memory, on rank 0; the others take them and keep none."""
        return {name: value.cpu() for name, value in tensors if self.rank == 0}


class Replicas(Masters):
    """The masters of an adapter: the same on every rank."""

    def collect(self) -> None:
        """Add up the gradients of all ranks."""
        gradients = [m.grad for m in self.named.values() if m.grad is not None]
        whole = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(whole)
        for gradient, summed in zip(
            gradients, whole.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(summed.view_as(gradient))


class Shards:
    """This rank's parts of a model's weights, as the masters that its optimizer steps.

    named: by the names of the model's parameters; they share memory with the sharded model.
    """

    def __init__(self, model: nn.Module, sharding: Sharding) -> None:
        """Take the parts of a model that `Sharding.shard` cut."""
        self.rank = sharding.rank
        self._sharding = sharding
        self._whole: dict[str, Any] = dict(model.named_parameters())
        self.named = {name: nn.Parameter(p.to_local()) for name, p in self._whole.items()}

    def collect(self) -> None:
        """Hand the gradients, which the backward has added up over the ranks, to the masters."""
        for name, parameter in self._whole.items():
            gradient, parameter.grad = parameter.grad, None
            self.named[name].grad = None if gradient is None else gradient.to_local()

    def publish(self) -> None:
        """The masters are the model's own memory: there is nothing to do."""

    def state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """The whole fp32 model in host memory, on rank 0; every rank must call it."""
        state: dict[str, Tensor] = model.state_dict()
        return self._sharding.keep((name, whole(value)) for name, value in state.items())

    def whole_norm(self, norm: Tensor) -> Tensor:
        """The norm of gradients from those of the ranks' parts."""
        square = norm.to(self._sharding.device, torch.float64) ** 2
        dist.all_reduce(square)
        return square.sqrt().float()

    def cut(self, name: str) -> Cut:
        """How a parameter is cut: in rows, as many for each rank as torch.chunk gives it."""
        shape, world = self._whole[name].shape, self._sharding.world
        rows = -(-shape[0] // world)
        width = shape[1:].numel()
        bounds = [min(rank * rows, shape[0]) * width for rank in range(world + 1)]
        return Cut(shape, bounds, self.rank, self._gather)

    def _gather(self, values: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        """All ranks' values, of which each may have another number."""
        most = max(sizes)
        padded = nn.functional.pad(values, (0, most - len(values)))
        rows = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(rows, padded.contiguous())
        return [row[:size] for row, size in zip(rows, sizes, strict=True)]


def whole(value: Tensor) -> Tensor:
    """A tensor that ranks share, gathered on each of them; any other one as it is.

    It is complete for what is computed after it on the same stream.
    """
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def tied_names(model: nn.Module) -> dict[str, str]:
    """The names of a state_dict under which a tensor stands again, each with its first name."""
    first: dict[int, str] = {}
    named = model.state_dict(keep_vars=True).items()
    every = {name: first.setdefault(id(value), name) for name, value in named}
    return {name: before for name, before in every.items() if name != before}


def release(*models: Any) -> None:
    """Let go of the weights that stay gathered after a forward, where a model is sharded."""
    for model in models:
        if hasattr(model, "reshard"):
            model.reshard()


def _final_states(model: Any, **inputs: Any) -> Tensor:
    states: Tensor = model.base_model(**inputs).last_hidden_state
    return states
