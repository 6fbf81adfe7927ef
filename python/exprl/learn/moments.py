"""AdamW's moments in a file, whichever ranks hold them.

    NAME.exp_avg                           [shape], fp32
    NAME.exp_avg.codes, .scale, .qmap      [shape] uint8, [numel / 256] fp32, [256] fp32: in 8 bits

A rank holds a range of a moment's values, taken in the order of memory, and quantizes it by itself
(adamw8bit). Where all ranges are in 8 bits, their blocks of 256 are those of the whole moment, and
where none is, the whole is in fp32: the file is then the same for any number of ranks. A range that
is too small or no multiple of 256 stays in fp32 while others do not; then each has a name with its
first value's place:

    NAME.exp_avg.0.codes, NAME.exp_avg.0.scale, NAME.exp_avg.0.qmap, NAME.exp_avg.8192
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")
QUANTIZED = ("codes", "scale", "qmap")
"""What torchao's 8-bit tensors are made of: [shape] uint8, [numel / 256] fp32, [256] fp32."""

# torchao's: values that share a scale, and the least that it quantizes.
BLOCK, SMALLEST = 256, 4096


@dataclass(frozen=True, slots=True)
class Cut:
    """How the ranks share a tensor.

    shape: of the whole.
    bounds: [ranks + 1]; rank r holds the values from bounds[r] to bounds[r + 1].
    rank: this one.
    gather: takes this rank's values [n_r], and how many values each rank has; returns all of them.
    """

    shape: torch.Size
    bounds: Sequence[int]
    rank: int
    gather: Callable[[Tensor, Sequence[int]], list[Tensor]]

    @property
    def start(self) -> int:
        """Place of this rank's first value."""
        return self.bounds[self.rank]


def to_file(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a moment that one process holds, or of AdamW's count of steps."""
    if hasattr(value, "codes"):
        yield from ((f"{name}.{part}", getattr(value, part)) for part in QUANTIZED)
    else:
        yield name, value


def gather(name: str, value: Tensor, cut: Cut, *, in_8_bits: bool) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a moment that ranks share, in host memory; for the first rank alone.

    Every rank must take all of them, at the same time.

    Args:
        in_8_bits: whether the optimizer quantizes what it can.
    """
    sizes = [end - start for start, end in zip(cut.bounds, cut.bounds[1:], strict=False)]
    narrow = [size if in_8_bits and is_quantized(size) else 0 for size in sizes]
    wide = [size - less for size, less in zip(sizes, narrow, strict=True)]
    values, none = value, torch.empty(0, device=value.device)
    codes, scale, qmap = none.to(torch.uint8), none, none
    if hasattr(value, "codes"):
        moment: Any = value
        codes, scale, qmap, values = moment.codes.flatten(), moment.scale, moment.qmap, none
    all_codes = all_scales = all_values = [none] * len(sizes)
    if any(narrow):
        all_codes = cut.gather(codes, narrow)
        all_scales = cut.gather(scale, [size // BLOCK for size in narrow])
        all_tables = cut.gather(qmap, [BLOCK if size else 0 for size in narrow])
        qmap = next(table for table in all_tables if len(table))
    if any(wide):
        all_values = cut.gather(values.flatten(), wide)
    if cut.rank != 0:
        return
    if not any(wide):
        yield f"{name}.codes", torch.cat(all_codes).view(cut.shape).cpu()
        yield f"{name}.scale", torch.cat(all_scales).cpu()
        yield f"{name}.qmap", qmap.cpu()
    elif not any(narrow):
        yield name, torch.cat(all_values).view(cut.shape).cpu()
    else:
        for rank, start in enumerate(cut.bounds[:-1]):
            if narrow[rank]:
                yield f"{name}.{start}.codes", all_codes[rank].cpu()
                yield f"{name}.{start}.scale", all_scales[rank].cpu()
                yield f"{name}.{start}.qmap", qmap.cpu().clone()
            elif wide[rank]:
                yield f"{name}.{start}", all_values[rank].cpu()


def from_file(
    name: str, tensors: Mapping[str, Tensor], master: Tensor, start: int, *, in_8_bits: bool
) -> Tensor:
    """A rank's part of a moment, as its optimizer holds it.

    It is exact where the file was written by as many ranks, and wherever the blocks of 256 are the
    same; else values are quantized anew, which moves one by up to 1 % of the largest in its block.

    Args:
        tensors: of the file, by name.
        master: this rank's part of the weight.
        start: place of its first value in the whole.
        in_8_bits: whether the optimizer quantizes what it can.
    """
    size, device = master.numel(), master.device
    quantizes = in_8_bits and is_quantized(size)
    found = sorted(_find(name, tensors), key=lambda one: one[0])
    for place, part in found:
        exact = quantizes and hasattr(part, "codes") and (start - place) % BLOCK == 0
        if exact and place <= start and start + size <= place + part.numel():
            return _slice(part, start - place, size, master.shape).to(device)
    values = torch.cat([_wide(part) for _, part in found])
    mine = values[start : start + size].reshape(master.shape).to(device, torch.float32)
    if not quantizes:
        return mine
    from torchao.optim.subclass_8bit import OptimState8bit

    moment: Tensor = OptimState8bit.zeros(
        master.shape, name.endswith(".exp_avg"), BLOCK, device, torch.float32
    )
    return moment.copy_(mine)


def is_quantized(size: int) -> bool:
    """Whether torchao keeps a tensor of so many values in 8 bits."""
    return size >= SMALLEST and size % BLOCK == 0


def _find(name: str, tensors: Mapping[str, Tensor]) -> Iterator[tuple[int, Any]]:
    """The parts of a moment in a file: (place of the first value, its values [n])."""
    if name in tensors:
        yield 0, tensors[name].flatten()
    elif f"{name}.codes" in tensors:
        yield 0, _quantized(name, name, tensors)
    else:
        starts = {key[len(name) + 1 :].split(".")[0] for key in tensors if _is_part(name, key)}
        for start in starts:
            key = f"{name}.{start}"
            yield int(start), tensors[key] if key in tensors else _quantized(name, key, tensors)


def _is_part(name: str, key: str) -> bool:
    return key.startswith(f"{name}.") and key[len(name) + 1 :].split(".", maxsplit=1)[0].isdecimal()


def _quantized(name: str, key: str, tensors: Mapping[str, Tensor]) -> Any:
    from torchao.optim.subclass_8bit import OptimState8bit

    codes, scale, qmap = (tensors[f"{key}.{part}"] for part in QUANTIZED)
    signed = name.endswith(".exp_avg")
    return OptimState8bit(codes.flatten(), scale, qmap, signed, torch.float32)


def _slice(part: Any, start: int, size: int, shape: torch.Size) -> Tensor:
    from torchao.optim.subclass_8bit import OptimState8bit

    moment: Tensor = OptimState8bit(
        part.codes[start : start + size].reshape(shape).clone(),
        part.scale[start // BLOCK : (start + size) // BLOCK].clone(),
        part.qmap.clone(),
        part.signed,
        torch.float32,
    )
    return moment


def _wide(part: Any) -> Tensor:
    values: Tensor = part.dequantize() if hasattr(part, "codes") else part
    return values
