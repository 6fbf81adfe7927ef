"""Weights, from one process to its child: safetensors in memory that both have open.

The memory has no name in any folder, so nothing is left of it when both have ended, however they
end. It takes the size of the model while weights pass, and one part of them more on each side.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from safetensors.torch import load, save

PART_BYTES = 2**30


def open_memory() -> int:
    """A file descriptor of empty memory, for a child to inherit (`pass_fds`)."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("exprl-weights")
    with tempfile.TemporaryFile() as file:  # not Linux: a file without a name
        return os.dup(file.fileno())


def write_weights(
    memory: int, weights: Iterable[tuple[str, Any]], part_bytes: int = PART_BYTES
) -> list[int]:
    """Write names and tensors in parts.

    Args:
        memory: from `open_memory`; what it held is gone.

    Returns:
        Bytes of each part, which `read_weights` needs to know.
    """
    clear(memory)
    with open(memory, "wb", closefd=False) as file:
        return [file.write(save(part)) for part in _in_parts(weights, part_bytes)]


def read_weights(memory: int, sizes: Sequence[int]) -> Iterator[tuple[str, Any]]:
    """What `write_weights` wrote, part after part."""
    start = 0
    with mmap.mmap(memory, sum(sizes), prot=mmap.PROT_READ) as content:
        for size in sizes:
            yield from load(content[start : start + size]).items()
            start += size


def clear(memory: int) -> None:
    """Give the memory back to the machine."""
    os.ftruncate(memory, 0)
    os.lseek(memory, 0, os.SEEK_SET)


def _in_parts(weights: Iterable[tuple[str, Any]], limit: int) -> Iterator[dict[str, Any]]:
    part: dict[str, Any] = {}
    size = 0
    for name, value in weights:
        # A tied head shares its memory with the embedding, which safetensors refuses: so copy.
        own = value.detach().cpu().clone().contiguous()
        if part and size + own.nbytes > limit:
            yield part
            part, size = {}, 0
        part[name] = own
        size += own.nbytes
    if part:
        yield part
