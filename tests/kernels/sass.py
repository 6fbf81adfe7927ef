"""Count the instructions of a compiled kernel's loops, per logit, in its machine code.

A loop is what lies between a label and the last branch back to it; only innermost loops count.
Its logits per iteration are the bytes that one thread loads from global memory, over the size of a
logit, or where it loads nothing, the bytes it stores over the size of a gradient.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import triton

NVDISASM = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
_LABEL = re.compile(r"^(\.L_x_\d+):")
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@(!?U?P\d|!?U?PT)\s+)?([A-Z][\w.]*)\s*([^;]*);")
_ACCESS = re.compile(r"(LDG|STG)\.E(?:\.\w+)*?(?:\.(U8|U16|S8|S16|64|128))?(?:\.\w+)*$")
_BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, None: 4, "64": 8, "128": 16}


class Loop(NamedTuple):
    """An innermost loop, of one thread and iteration."""

    instructions: int
    loaded: int  # bytes
    stored: int  # bytes
    masked: bool  # its loads, or else its stores, are predicated
    nan_maxima: int  # instructions that take a maximum and let NaN pass


def loops(cubin: bytes) -> list[Loop]:
    """The innermost loops of a kernel, in the order of the code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [str(NVDISASM), "-c", file.name], capture_output=True, text=True, check=True
        ).stdout
    labels: dict[str, int] = {}
    code: list[tuple[str | None, str, str]] = []
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(code)
        elif found := _INSTRUCTION.search(line):
            code.append((found[1], found[2], found[3]))
    spans: dict[int, int] = {}
    for at, (_, name, operands) in enumerate(code):
        target = re.search(r"\.L_x_\d+", operands)
        if name.startswith("BRA") and target and labels.get(target[0], at + 1) <= at:
            spans[labels[target[0]]] = at + 1
    inner = [
        span for span in spans.items()
        if not any(o != span and span[0] <= o[0] and o[1] <= span[1] for o in spans.items())
    ]  # fmt: skip
    return [_loop(code[start:end]) for start, end in sorted(inner)]


def _loop(code: list[tuple[str | None, str, str]]) -> Loop:
    moved = {"LDG": 0, "STG": 0}
    masked = {"LDG": False, "STG": False}
    for predicate, name, _ in code:
        if access := _ACCESS.match(name):
            moved[access[1]] += _BYTES[access[2]]
            masked[access[1]] |= predicate is not None
    return Loop(
        len(code),
        moved["LDG"],
        moved["STG"],
        masked["LDG" if moved["LDG"] else "STG"],
        sum(name.startswith("FMNMX.NAN") for _, name, _ in code),
    )
