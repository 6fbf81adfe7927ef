"""fp32 master weights, for a model that computes in bf16.

    backward         master.grad += parameter.grad, and the bf16 gradient is freed at once
    optimizer step   master -= lr * update
    publish          parameter = master, rounded to bf16

An update of 1e-6 rounds to nothing in a bf16 weight; in the master it adds up. The forward knows
the bf16 parameters alone, as the engine does. A parameter in fp32 is its own master.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn


class Masters:
    """The values that the optimizer steps, by the names of the model's trainable parameters."""

    def __init__(self, model: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        """Move the parameters to the device, keep their fp32 values, and cast them to `dtype`.

        One by one, so that the device never holds the whole model in fp32 twice. Buffers, such as
        the frequencies of rotary embeddings, stay where they are, in fp32.
        """
        self.named: dict[str, nn.Parameter] = {}
        self._of: dict[nn.Parameter, nn.Parameter] = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            value = parameter.detach().to(device, torch.float32)
            parameter.data = value.to(dtype)
            master = parameter
            if parameter.dtype != value.dtype:
                master = nn.Parameter(value)
                parameter.register_post_accumulate_grad_hook(partial(_accumulate, master))
            self.named[name] = self._of[parameter] = master

    def collect(self) -> None:
        """One process has the whole gradients when its backwards are done: nothing to do."""

    def publish(self) -> None:
        """Bring the masters' values to the parameters, after an optimizer step."""
        with torch.no_grad():
            for parameter, master in self._of.items():
                if master is not parameter:
                    parameter.copy_(master)

    def state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """The model's state_dict with the masters in the parameters' places."""
        state = model.state_dict(keep_vars=True)
        return {name: self._of.get(value, value).detach() for name, value in state.items()}


def _accumulate(master: nn.Parameter, parameter: nn.Parameter) -> None:
    """Add a micro-batch's gradient to the master's; called when `parameter.grad` is complete."""
    assert parameter.grad is not None
    if master.grad is None:
        master.grad = parameter.grad.to(master.dtype)
    else:
        master.grad.add_(parameter.grad)
    parameter.grad = None
