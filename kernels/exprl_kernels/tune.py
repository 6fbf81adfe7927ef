"""Time the row kernels with many block sizes on this GPU and write the fastest down.

Kernels look for the file when they are first called; without it they use the built-in table.
Nothing but speed depends on it. Other GPUs, dtypes and vocabularies in the file stay. Some minutes,
most of them compiling, and about 10 GB of GPU memory at the default size.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from exprl_kernels import tables
from exprl_kernels.tables import Block
from exprl_kernels.terms import Rows, Shape, Terms

COLUMNS = (512, 1024, 2048, 4096, 8192)
WARPS = (4, 8, 16, 32)
# Columns of a block that one thread holds, with three more blocks in registers: more spill, fewer
# make its loads short.
COLUMNS_PER_THREAD = range(2, 17)
REPEATS = 15
# A block that is faster by less is within the noise, and the smaller one stays.
MARGIN = 0.02
_SHAPE = Shape(1.0, 1.0, None)
_TERMS = Terms(0.2, 0.26, None, 0.01, 0.0, None)


def run(vocab: int, rows: int, file: Path | None) -> int:
    """Tune all kernels in fp32 and bf16 for logits [rows, vocab]; print and write the table.

    Raises:
        RuntimeError: without a GPU.
        ValueError: of a size that makes no sense, or a file that is not a table.
    """
    if vocab < 2 or rows < 1:
        raise ValueError(f"--vocab {vocab} --rows {rows}: expected at least 2 and 1")
    if not torch.cuda.is_available():
        raise RuntimeError(
            "tune times kernels on a GPU, and torch sees none here; the built-in block sizes "
            "(exprl_kernels/tables.py) are used"
        )
    file = file or tables.path()
    print(f"{torch.cuda.get_device_name()}, logits [{rows:,}, {vocab:,}]")
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        logits = torch.randn(rows, vocab, device="cuda").to(dtype)
        for kernel, launch in launches(logits):
            found[tables.key(kernel, logits)] = _fastest(kernel, logits, launch)
    write(file, found)
    print(f"wrote {file}" if file == tables.path() else f"wrote {file}; {_how_to_use(file)}")
    return 0


def candidates(vocab: int) -> list[Block]:
    """Blocks worth timing, the smallest first; no block has twice a row's columns."""
    return [
        Block(columns, warps)
        for columns in COLUMNS
        for warps in WARPS
        if columns // (32 * warps) in COLUMNS_PER_THREAD and columns < 2 * max(vocab, COLUMNS[0])
    ]


def fastest(timed: dict[Block, float]) -> Block:
    """The first block that no other beats by more than MARGIN."""
    best = min(timed.values())
    return next(block for block, seconds in timed.items() if seconds <= best * (1 + MARGIN))


def write(file: Path, found: dict[str, Block]) -> None:
    """Add to the table in `file`; a reader sees the old file or the new one, never a part."""
    try:
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except ValueError as error:
        raise ValueError(
            f"{file} is not a table of block sizes ({error}); delete it first"
        ) from error
    if not isinstance(known, dict):
        raise ValueError(f"{file} is not a table of block sizes; delete it first")
    known |= {name: list(block) for name, block in found.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    draft.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    draft.replace(file)


def launches(logits: Tensor) -> Iterator[tuple[str, Callable[[], None]]]:
    """Each kernel on logits, as the public functions launch it."""
    from exprl_kernels.lossrows import empty_tokens, loss_rows
    from exprl_kernels.rowgrad import row_grad
    from exprl_kernels.rowstats import empty_statistics, row_stats

    n, device = len(logits), logits.device

    def numbers() -> Tensor:
        return torch.zeros(n, device=device)

    targets = torch.arange(n, device=device) % logits.shape[1]
    gradient = torch.empty_like(logits)
    tokens = empty_tokens(n, _TERMS, device)
    rows = Rows(
        targets,
        torch.ones(1, device=device),
        torch.zeros(n, dtype=torch.int32, device=device),
        numbers() + 1.0 / n,
        trainer_logp=numbers() - 10.0,
        initial_logp=numbers() - 10.0,
        generator_logp=None,
        temperatures=None,
    )
    stats = empty_statistics(n, device)
    row_stats(logits, targets, None, _SHAPE, stats)
    yield "row_stats", lambda: row_stats(logits, targets, None, _SHAPE, stats)
    yield (
        "row_grad",
        lambda: row_grad(
            logits,
            targets,
            None,
            _SHAPE,
            top=stats.top,
            log2_total=stats.log2_total,
            entropy=stats.entropy,
            d_logp=rows.token_weight,
            d_entropy=None,
            d_lse=None,
            out=gradient,
        ),
    )
    yield "loss_rows", lambda: loss_rows(logits, rows, _SHAPE, _TERMS, tokens, gradient)


def _fastest(kernel: str, logits: Tensor, launch: Callable[[], None]) -> Block:
    """Time all candidates in turns, each as the table's entry."""
    name = tables.key(kernel, logits)
    entries = tables.table()
    before = tables.block(kernel, logits)
    blocks = sorted({before, *candidates(logits.shape[1])})
    times: dict[Block, list[float]] = {block: [] for block in blocks}
    for repeat in range(REPEATS + 1):
        for block in blocks:
            entries[name] = block
            seconds = _seconds(launch)
            if repeat:  # the first call compiles
                times[block].append(seconds)
    timed = {block: statistics.median(seconds) for block, seconds in times.items()}
    best = fastest(timed)
    entries[name] = best
    print(
        f"{name:44} {best.columns:>6} columns, {best.warps:>2} warps: {1e3 * timed[best]:.3f} ms, "
        f"was {before.columns}, {before.warps}: {1e3 * timed[before]:.3f} ms"
    )
    return best


def _seconds(launch: Callable[[], None]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    launch()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def _how_to_use(file: Path) -> str:
    return f"set {tables.VARIABLE}={file} to use it"
