"""In vLLM's workers: new weights come in over gloo, or in files.

vLLM imports this module in each worker for its `--worker-extension-cls`; the import registers both
ways beside vLLM's own, of which `nccl` is used as it is. They follow the protocol of
vllm.distributed.weight_transfer: init (gloo only) once, then start, update and finish each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from exprl.serve import gloo

Weights = Iterator[tuple[str, torch.Tensor]]


class WorkerExtension:
    """Adds nothing to a worker: to name it makes vLLM import this module."""


class _CheckpointTransfer(WeightTransferEngine):  # type: ignore[misc]  # vLLM is untyped
    """Weights with the names and shapes of a Hugging Face checkpoint.

    Names are those of the trainer's state dict, a tied head included: on a CPU vLLM keeps a copy of
    the head of its own, which only a tensor of that name renews.
    """

    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)

    def _load(self, weights: Weights) -> None:
        from vllm.model_executor.model_loader.mtp_validation import disable_mtp_completeness_check

        with disable_mtp_completeness_check():
            self.model.load_weights(weights)


@dataclass
class FilesInit(WeightTransferInitInfo):  # type: ignore[misc]
    """Files need no meeting before the first update."""


@dataclass
class FilesUpdate(WeightTransferUpdateInfo):  # type: ignore[misc]
    """path: of a safetensors file with all weights, in a folder that this machine sees."""

    path: str


class FilesTransfer(_CheckpointTransfer):
    """Reads the weights of each update from one safetensors file."""

    init_info_cls = FilesInit
    update_info_cls = FilesUpdate

    def init_transfer_engine(self, init_info: FilesInit) -> None:
        """Nothing to do."""

    def receive_weights(self, update_info: FilesUpdate) -> None:
        """Load all tensors of the file, which may be deleted after `finish_weight_update`."""
        from safetensors import safe_open

        with safe_open(update_info.path, framework="pt") as file:
            self._load((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118

    def shutdown(self) -> None:
        """Nothing to do."""


@dataclass
class GlooInit(WeightTransferInitInfo):  # type: ignore[misc]
    """Where a group of trainer and workers meets; rank 0 is the trainer.

    world_size: 1 + the workers of all servers.
    rank_offset: rank of this server's first worker.
    timeout_s: longest wait for the others, here and in each broadcast.
    """

    master_address: str
    master_port: int
    world_size: int
    rank_offset: int
    timeout_s: float


@dataclass
class GlooUpdate(WeightTransferUpdateInfo):  # type: ignore[misc]
    """What the trainer broadcasts, in this order; dtypes as torch names them, such as float32."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]


class GlooTransfer(_CheckpointTransfer):
    """Takes the weights of each update from the trainer's broadcasts, one per tensor."""

    init_info_cls = GlooInit
    update_info_cls = GlooUpdate

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._group: Any = None

    def init_transfer_engine(self, init_info: GlooInit) -> None:
        """Join the group; an earlier one, which may have lost members, is left."""
        self._group = None
        parallel = self.parallel_config
        rank = parallel.data_parallel_index * parallel.world_size + parallel.rank
        wait_s = init_info.timeout_s
        self._group = gloo.join_gloo(
            gloo.find_store(init_info.master_address, init_info.master_port, wait_s),
            rank=init_info.rank_offset + rank,
            world_size=init_info.world_size,
            timeout_s=wait_s,
        )

    def receive_weights(self, update_info: GlooUpdate) -> None:
        """Load each tensor as it comes in.

        Raises:
            RuntimeError: there is no group, or the trainer did not send in time.
        """
        if self._group is None:
            raise RuntimeError("no group: init_weight_transfer_engine must be called first")
        self._load(self._receive(self._group, update_info))

    def _receive(self, group: Any, update: GlooUpdate) -> Weights:
        rows = zip(update.names, update.dtype_names, update.shapes, strict=True)
        for name, dtype_name, shape in rows:
            # A new tensor each time: vLLM keeps them until a layer is whole.
            tensor = torch.empty(shape, dtype=getattr(torch, dtype_name))
            gloo.broadcast(group, tensor)
            yield name, tensor

    def shutdown(self) -> None:
        """Leave the group."""
        self._group = None


WeightTransferEngineFactory.register_engine("gloo", GlooTransfer)
WeightTransferEngineFactory.register_engine("files", FilesTransfer)
