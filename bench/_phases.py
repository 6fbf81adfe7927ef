"""Where a training step spends its seconds and its memory, seen from hooks of torch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclass(slots=True)
class Phases:
    """Seconds and peak bytes by phase.

    logp: forwards without a graph, of the initial policy or of the trainer before its updates.
    forward: the body of the model. backward: head, loss, backward, and clipping. optimizer: its
    step. rest: what lies between.
    Bytes are those that torch has allocated on the GPU, on a CPU the process's resident memory.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: dict[str, int | None] = field(default_factory=dict)
    _name: str = "rest"
    _start: float = 0.0

    def enter(self, name: str) -> None:
        """End the phase that runs, with all of its work done, and begin another."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._start:
            self.seconds[self._name] = self.seconds.get(self._name, 0.0) + now - self._start
            peak, before = peak_bytes(), self.peak_bytes.get(self._name)
            self.peak_bytes[self._name] = max(peak, before or 0) if peak is not None else None
        reset_peak()
        self._name, self._start = name, time.perf_counter()


@contextmanager
def watched(models: Iterable[Any]) -> Iterator[Phases]:
    """The phases of what is done with transformers models, and of every optimizer's step."""
    phases = Phases()

    def before_body(*_: object) -> None:
        phases.enter("forward" if torch.is_grad_enabled() else "logp")

    def after_body(*_: object) -> None:
        if torch.is_grad_enabled():
            phases.enter("backward")

    handles = [
        register_optimizer_step_pre_hook(lambda *_: phases.enter("optimizer")),
        register_optimizer_step_post_hook(lambda *_: phases.enter("rest")),
    ]
    for model in models:
        handles.append(model.base_model.register_forward_pre_hook(before_body))
        handles.append(model.base_model.register_forward_hook(after_body))
    phases.enter("rest")
    try:
        yield phases
        phases.enter("rest")
    finally:
        for handle in handles:
            handle.remove()


def reset_peak() -> None:
    """Begin to look for a new peak."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif CLEAR.exists():
        CLEAR.write_text("5")  # Linux: the peak of the resident memory starts anew


def peak_bytes() -> int | None:
    """The peak since `reset_peak`; None where this system cannot tell."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if not CLEAR.exists():
        return None
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return peaks[0] * 1024 if peaks else None
