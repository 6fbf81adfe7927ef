"""Whether a run fits the memory of its machine, and the cheapest setting with which it would."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from exprl import config
from exprl.errors import ConfigError
from exprl.learn import fused
from exprl.learn.memory.prediction import Prediction, predict
from exprl.learn.memory.shapes import GIB, Setup, Shapes
from exprl.learn.model import read_config

# Of the memory that there is. A prediction is good to 15 %.
WARN_ABOVE, REFUSE_ABOVE = 0.9, 1.15
SMALLEST_MICRO_BATCH = 1024


@dataclass(frozen=True, slots=True)
class Machine:
    """name: as a message calls it; bytes: of its memory."""

    name: str
    bytes: int


def machine(gpu: bool) -> Machine:
    """The GPU that torch sees, or the host, of which a container may have a part."""
    if gpu:
        seen = torch.cuda.get_device_properties(0)
        return Machine(seen.name, seen.total_memory)
    return Machine("this host", host_bytes())


def host_bytes(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Memory of the host, or of the container that this process runs in.

    Args:
        limit: where the kernel says what the container may use.
    """
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        allowed = limit.read_text(encoding="ascii").strip()
    except OSError:
        return installed
    return min(installed, int(allowed)) if allowed.isdecimal() else installed


def table(prediction: Prediction) -> Table:
    """Parts down, phases across, in GiB; the phase that needs most is marked."""
    grid = Table(box=None, pad_edge=False)
    grid.add_column("GiB", no_wrap=True)
    parts = dict.fromkeys(part for phase in prediction.phases.values() for part in phase)
    for phase in prediction.phases:
        marked = f"[bold]{phase}[/]" if phase == prediction.peak_phase else phase
        grid.add_column(marked, justify="right")
    for part in parts:
        sizes = [phase.get(part, 0) for phase in prediction.phases.values()]
        grid.add_row(part, *(f"{size / GIB:.2f}" if size else "-" for size in sizes))
    totals = [sum(phase.values()) for phase in prediction.phases.values()]
    grid.add_row("[bold]sum[/]", *(f"[bold]{size / GIB:.2f}[/]" for size in totals))
    return grid


def shapes_of(model: config.Model) -> Shapes:
    """The shapes of the model at model.path; of its files only the config is read.

    Raises:
        ConfigError: there is none.
    """
    return Shapes.of(read_config(model), trust_remote_code=model.trust_remote_code)


def setup_of(
    model: config.Model,
    lora: config.Lora,
    optim: config.Optim,
    rollout: config.Rollout,
    *,
    objective: config.Objective,
    model_type: str,
    gpu: bool,
    longest: int,
    needs_initial: bool,
    needs_engine: bool,
    ranks: int = 1,
) -> Setup:
    """The settings of a run that its memory depends on.

    Args:
        model_type: of the model's transformers config.
        gpu: for a GPU, whether or not this machine has one.
        longest: tokens of the longest prompt with its response.
        needs_initial: as `Config.needs_initial_policy` says.
        needs_engine: whether one computes where the trainer does.
        ranks: trainer processes.
    """
    kernels = gpu and fused.choose(model.fused, model_type, torch.device("cuda"))
    targets = lora.targets
    return Setup(
        gpu=gpu,
        dtype=model.dtype,
        optimizer=optim.kind,
        objective=objective,
        micro_batch_tokens=optim.micro_batch_tokens,
        longest=longest,
        recomputed=float(model.gradient_checkpointing),
        fused=kernels,
        needs_initial=needs_initial,
        offload_initial=model.offload_initial,
        offload=model.offload,
        ranks=ranks,
        lora_rank=lora.rank,
        lora_targets=None if isinstance(targets, str) else targets,
        engine=rollout.engine if needs_engine else None,
        engine_share=rollout.gpu_memory_utilization,
        sequences=rollout.max_num_seqs,
    )


def check(shapes: Shapes, setup: Setup, where: Machine, *, ignore: bool) -> str | None:
    """Compare what a run will need with the memory that there is, before anything is loaded.

    Args:
        ignore: train.ignore_memory.

    Returns:
        A warning; None where there is room.

    Raises:
        ConfigError: it will not fit; the message names the cheapest settings that would.
    """
    card = where.bytes if setup.gpu else None
    if predict(shapes, setup, card, quick=True).peak < WARN_ABOVE / 2 * where.bytes:
        return None  # far away from the limit: no need to count
    prediction = predict(shapes, setup, card)
    share = prediction.peak / where.bytes
    if share <= WARN_ABOVE:
        return None
    found = cheapest(shapes, setup, where.bytes)
    remedy = "no setting is enough; use a smaller model, or more memory"
    if found is not None:
        remedy = f"with {found[0]} it would need {found[1].peak / GIB:.1f} GiB"
    text = (
        f"the run needs about {prediction.peak / GIB:.1f} GiB ({prediction.peak_phase}), and"
        f" {where.name} has {where.bytes / GIB:.1f} GiB: {remedy}"
    )
    if share > REFUSE_ABOVE and not ignore:
        raise ConfigError(f"{text}; train.ignore_memory = true tries it all the same")
    return text


def cheapest(shapes: Shapes, setup: Setup, memory: int) -> tuple[str, Prediction] | None:
    """The settings to change and what they would need; None where nothing is enough.

    The first that fits, in the order of their cost; a change costs more than all before it.
    """
    options = list(_options(shapes, setup))
    for chosen in product(*([None, *option] for option in reversed(options))):
        changes = [change for change in reversed(chosen) if change]
        if changes:
            changed = replace(setup, **{k: v for _, new in changes for k, v in new.items()})
            prediction = predict(shapes, changed, memory if setup.gpu else None)
            if prediction.peak <= WARN_ABOVE * memory:
                return " and ".join(name for name, _ in changes), prediction
    return None


def _options(shapes: Shapes, setup: Setup) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """What can be changed, the cheapest first; each with the values to try."""
    least = max(setup.longest, SMALLEST_MICRO_BATCH)
    halves = [setup.micro_batch_tokens >> i for i in (1, 2, 3)]
    yield [
        (f"optim.micro_batch_tokens = {n}", {"micro_batch_tokens": n})
        for n in dict.fromkeys(max(half, least) for half in halves)
        if n < setup.micro_batch_tokens
    ]
    if setup.recomputed < 1.0:
        yield [("model.gradient_checkpointing = true", {"recomputed": 1.0})]
    if setup.gpu and setup.needs_initial and not setup.offload_initial:
        yield [("model.offload_initial = true", {"offload_initial": True})]
    if setup.optimizer == "adamw" and not setup.lora_rank:
        yield [('optim.kind = "adamw8bit"', {"optimizer": "adamw8bit"})]
    if setup.gpu and setup.engine and not setup.offload:
        yield [("model.offload = true", {"offload": True})]
    if not setup.lora_rank and shapes.linears:
        yield [("lora.rank = 32", {"lora_rank": 32})]
