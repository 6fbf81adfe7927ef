"""Tensors that wait in host memory while somebody else needs the GPU.

Their buffers are pinned and made once, so that copies run beside the host at the full speed of the
bus. torch rounds each pinned buffer up to a power of two bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class HostMemory:
    """Room in host memory for named tensors of a device.

    A tensor that is away keeps its identity and its values; only its memory lies here. So whoever
    holds it (a model, an optimizer) needs to know nothing, as long as nobody computes with it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[str, Tensor] = {}

    @torch.no_grad()
    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Bring the tensors here and let go of their memory on the device. Waits once."""
        for name, tensor in tensors.items():
            self._buffer(name, tensor).copy_(tensor, non_blocking=True)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # the buffers hold what was sent only from here on
        self.drop(tensors)

    def drop(self, tensors: Mapping[str, Tensor]) -> None:
        """Let go of the memory on the device of tensors that were not changed since `take`."""
        for name, tensor in tensors.items():
            tensor.data = self._buffers[name]

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Bring the tensors to the device again. Later work there comes after the copies."""
        for name, tensor in tensors.items():
            buffer = self._buffers[name]
            value = torch.empty_like(buffer, device=self._device, pin_memory=False)
            tensor.data = value.copy_(buffer, non_blocking=True)

    def _buffer(self, name: str, tensor: Tensor) -> Tensor:
        if name not in self._buffers:
            pinned = self._device.type == "cuda"
            self._buffers[name] = torch.empty_like(tensor, device="cpu", pin_memory=pinned)
        return self._buffers[name]


class InitialPolicy:
    """The frozen initial policy, which needs the device only while it is asked.

    model: transformers'; computes within `on_device` alone.
    visits: how often its weights were copied to the device.
    """

    def __init__(self, model: Any, device: torch.device, *, offload: bool) -> None:
        """Take a model that lies on the device.

        Args:
            offload: keep its weights in host memory between visits (model.offload_initial).
        """
        self.model = model.requires_grad_(False)
        self.visits = 0
        self._host = HostMemory(device) if offload else None
        self._here = not offload
        if self._host:
            self._host.take(self._weights())

    @contextmanager
    def on_device(self) -> Iterator[Any]:
        """The model, ready to compute. Within a visit, further ones copy nothing."""
        if self._host is None or self._here:
            yield self.model
            return
        self._host.restore(self._weights())
        self._here = True
        self.visits += 1
        try:
            yield self.model
        finally:
            self._host.drop(self._weights())
            self._here = False

    def resident(self) -> dict[str, Tensor]:
        """The weights that stay on the device between visits, by name."""
        return {} if self._host else self._weights()

    def _weights(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters())
