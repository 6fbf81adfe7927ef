"""Block sizes of the row kernels, by what they run on: a small table instead of an autotuner.

An autotuner needs a driver at import and tunes anew in every process. `python -m exprl_kernels
tune` measures on a GPU and writes a table of the same form, which is read from the file named by
EXPRL_KERNELS_TABLE, or from exprl_kernels/blocks.json in the user's cache folder.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

KERNELS = ("row_stats", "row_grad", "loss_rows")
VARIABLE = "EXPRL_KERNELS_TABLE"


class Block(NamedTuple):
    """Columns of a row that share one load, and the warps that share them (rowmath.py)."""

    columns: int
    warps: int


# By bytes per logit: 16 bytes a thread and load, no spills on sm_90.
DEFAULT = {2: Block(2048, 8), 4: Block(1024, 8)}
# The interpreter pays per operation and not per element.
INTERPRETED = Block(16384, 4)


def block(kernel: str, logits: Tensor) -> Block:
    """The block of a kernel on logits [N, V]; never more columns than the next power of 2 of V."""
    if logits.is_cuda or os.environ.get("TRITON_INTERPRET") != "1":
        tuned = table().get(key(kernel, logits)) if logits.is_cuda else None
        chosen = tuned or DEFAULT[logits.element_size()]
    else:
        chosen = INTERPRETED
    vocab = max(16, logits.shape[1])
    return Block(min(chosen.columns, 1 << (vocab - 1).bit_length()), chosen.warps)


def key(kernel: str, logits: Tensor) -> str:
    """Kernel, architecture, dtype and size of the vocabulary (to the power of 2 above it)."""
    major, minor = torch.cuda.get_device_capability(logits.device)
    vocab = 1 << (max(1, logits.shape[1]) - 1).bit_length()
    return f"{kernel}/sm_{major}{minor}/{str(logits.dtype).removeprefix('torch.')}/{vocab}"


def path() -> Path:
    """Where `tune` writes and every process reads."""
    named = os.environ.get(VARIABLE)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else cache / "exprl_kernels" / "blocks.json"


@functools.cache
def table() -> dict[str, Block]:
    """The tuned table; empty where none was written.

    Raises:
        ValueError: the file is not such a table.
    """
    file = path()
    if not file.exists():
        return {}
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return {name: Block(int(columns), int(warps)) for name, (columns, warps) in rows.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} is not a table of block sizes ({error}); delete it, or write it anew with "
            "`python -m exprl_kernels tune`"
        ) from error
