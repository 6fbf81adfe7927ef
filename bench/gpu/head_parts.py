"""The parts of the loss of a head, each timed alone on one GPU: what its step is made of.

    bench/gpu/head_parts.py            the head of Qwen3-4B, under a minute on an H200
    bench/gpu/head_parts.py --smoke    a tiny head, on any machine; the times say nothing

Ceilings of the card, the products for several numbers of tokens a chunk, the row kernels, and the
whole loss for several chunk sizes. A row of results/head_parts.jsonl for each, as it is measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
from _row import RESULTS, Row, append, has_gpu

if not has_gpu():
    # Triton reads it once, when it is imported.
    os.environ.setdefault("TRITON_INTERPRET", "1")

import torch
from torch import Tensor

from exprl_kernels import grpo_loss_from_logits, linear_grpo_loss
from exprl_kernels.tune import launches

PACKAGES = ("torch", "triton")
WARMUPS, REPEATS = 2, 10
# Of a square product and of a copy that are large enough to show what the card can do.
CEILING_ROWS, CEILING_BYTES = 8192, 2**31


class Part(NamedTuple):
    """Something to be timed.

    work: one call.
    flops, moved: of one call, floating-point operations and bytes that must be read and written.
    """

    name: str
    work: Callable[[], object]
    flops: float = 0.0
    moved: float = 0.0


class Sizes(NamedTuple):
    """N tokens, H hidden size, V vocabulary, and the chunks to try."""

    tokens: int
    hidden: int
    vocab: int
    chunks: tuple[int, ...]


FULL = Sizes(16_384, 2560, 151_936, (1024, 2048, 4096, 8192, 16_384))
TINY = Sizes(8, 16, 307, (4, 8))


def main() -> None:
    args = arguments()
    on_gpu = torch.cuda.is_available()
    if not (on_gpu or args.smoke):
        raise SystemExit("error: torch sees no GPU here; --smoke runs a tiny head on the CPU")
    sizes = TINY if args.smoke else FULL
    device = torch.device("cuda" if on_gpu else "cpu")
    about = {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "smoke": args.smoke,
        "N": sizes.tokens,
        "H": sizes.hidden,
        "V": sizes.vocab,
    }
    failed = 0
    for group in (ceilings, products, row_kernels, whole_loss):
        for part in group(sizes, device):
            failed += not measure(part, args, about)
    if failed:
        raise SystemExit(f"error: {failed} parts failed")


def measure(part: Part, args: argparse.Namespace, about: dict[str, object]) -> bool:
    """Time a part, print its line and append its row; False if it raised."""
    status, taken, peak = "ok", list[float](), None
    try:
        for _ in range(0 if args.smoke else WARMUPS):
            part.work()
        before = _start_peak()
        taken = [_seconds(part.work) for _ in range(1 if args.smoke else REPEATS)]
        peak = None if before is None else torch.cuda.max_memory_allocated() - before
    except torch.OutOfMemoryError:
        status = "out of memory"
    except Exception as error:
        status = f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
    row = Row(part.name, taken)
    seconds = statistics.median(taken) if taken else None
    row.extra.update(
        about,
        status=status,
        tflops=part.flops / seconds / 1e12 if seconds and part.flops else None,
        tb_per_s=part.moved / seconds / 1e12 if seconds and part.moved else None,
        peak_bytes=peak,
    )
    append("head_parts", [row], PACKAGES, args.results)
    print(_line(row), flush=True)
    return not status.startswith("failed")


def ceilings(sizes: Sizes, device: torch.device) -> Iterator[Part]:
    """What the card can do: a large product in bf16, and a copy."""
    rows = CEILING_ROWS if sizes is FULL else 64
    a, b = (torch.randn(rows, rows, device=device, dtype=torch.bfloat16) for _ in range(2))
    yield Part(f"ceiling: product {rows}^3", lambda: a @ b, flops=2.0 * rows**3)
    count = CEILING_BYTES if sizes is FULL else 2**20
    source = torch.zeros(count, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    yield Part("ceiling: copy", lambda: target.copy_(source), moved=2.0 * count)


def products(sizes: Sizes, device: torch.device) -> Iterator[Part]:
    """The three products of a chunk, as the loss forms them and with bf16 results."""
    hidden, weight, _ = _head(sizes, device)
    for chunk in sizes.chunks:
        x = hidden[:chunk]
        flops = 2.0 * chunk * sizes.hidden * sizes.vocab
        narrow = torch.empty(chunk, sizes.vocab, dtype=torch.bfloat16, device=device).normal_()
        d_hidden = torch.empty_like(x)
        yield Part(
            f"z bf16, chunk {chunk}", lambda x=x, z=narrow: torch.mm(x, weight.T, out=z), flops
        )
        yield Part(
            f"dX, chunk {chunk}", lambda z=narrow, d=d_hidden: torch.mm(z, weight, out=d), flops
        )
        if device.type == "cuda":  # these products with an fp32 result are cuBLAS's alone
            wide = torch.empty(chunk, sizes.vocab, device=device)
            yield Part(
                f"z fp32, chunk {chunk}",
                lambda x=x, z=wide: torch.mm(x, weight.T, torch.float32, out=z),
                flops,
            )
            del wide
            d_weight = torch.zeros(sizes.vocab, sizes.hidden, device=device)
            yield Part(
                f"dW = fp32, chunk {chunk}",
                lambda x=x, z=narrow, d=d_weight: torch.mm(z.T, x, torch.float32, out=d),
                flops,
            )
            yield Part(
                f"dW += fp32, chunk {chunk}",
                lambda x=x, z=narrow, d=d_weight: torch.addmm(d, z.T, x, torch.float32, out=d),
                flops,
            )
            del d_weight
        del narrow


def row_kernels(sizes: Sizes, device: torch.device) -> Iterator[Part]:
    """Each row kernel on a chunk of logits; bytes are one read of them and one write, if any."""
    rows = min(4096, sizes.chunks[-1])
    for dtype in (torch.float32, torch.bfloat16):
        logits = (2.0 * torch.randn(rows, sizes.vocab, device=device)).to(dtype)
        for name, launch in launches(logits):
            passes = 1 if name == "row_stats" else 2
            label = f"{name} {str(dtype).removeprefix('torch.')}, {rows} rows"
            yield Part(label, launch, moved=passes * logits.numel() * dtype.itemsize)
        del logits


def whole_loss(sizes: Sizes, device: torch.device) -> Iterator[Part]:
    """Forward and backward of `linear_grpo_loss` by chunk size, and of logits in place."""
    hidden, weight, loss = _head(sizes, device)
    targets = torch.arange(sizes.tokens, device=device) % sizes.vocab

    def step(chunk: int) -> None:
        leaves = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
        limits = {"chunk_tokens": chunk, "workspace_bytes": 40 << 30}
        linear_grpo_loss(*leaves, targets, **loss, **limits, backend="triton").loss.backward()

    flops = 6.0 * sizes.tokens * sizes.hidden * sizes.vocab
    for chunk in sizes.chunks:
        yield Part(f"linear_grpo_loss, chunk {chunk}", lambda chunk=chunk: step(chunk), flops)
    logits = hidden @ weight.T

    def in_place() -> None:
        leaf = logits.detach().requires_grad_()
        options = {"inplace_grad": True, "backend": "triton"}
        grpo_loss_from_logits(leaf, targets, **loss, **options).loss.backward()

    yield Part("grpo_loss_from_logits, in place", in_place, moved=4.0 * logits.numel())


def _head(sizes: Sizes, device: torch.device) -> tuple[Tensor, Tensor, dict[str, object]]:
    """hidden [N, H] and weight [V, H] in bf16, and what else the loss asks for."""
    n, generator = sizes.tokens, torch.Generator(device).manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, device=device, generator=generator)

    hidden = (2.0 * normal(n, sizes.hidden)).bfloat16()
    weight = (normal(sizes.vocab, sizes.hidden) / sizes.hidden**0.5).bfloat16()
    loss = {
        "seg_adv": normal(8),
        "seg_id": (torch.arange(n, device=device) * 8 // n).int(),
        "token_weight": torch.full((n,), 1 / n, device=device),
        "trainer_logp": torch.full((n,), -10.0, device=device),
        "initial_logp": torch.full((n,), -10.0, device=device),
        "kl_coef": 0.01,
    }
    return hidden, weight, loss


def _seconds(work: Callable[[], object]) -> float:
    _wait()
    start = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _start_peak() -> int | None:
    """Bytes in use as the peak's counter starts; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def _line(row: Row) -> str:
    if not row.values:
        return f"{row.name:44} {row.extra['status']}"
    columns = [f"{1e3 * row.median:10.3f} ms"]
    for key, unit in (("tflops", "TF/s"), ("tb_per_s", "TB/s")):
        if row.extra[key] is not None:
            columns.append(f"{row.extra[key]:8.4g} {unit}")
    if row.extra["peak_bytes"]:
        columns.append(f"peak {row.extra['peak_bytes'] / 1e9:.2f} GB above inputs")
    return f"{row.name:44} {'  '.join(columns)}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="a tiny head, on any machine")
    parser.add_argument(
        "--results", type=Path, default=RESULTS / "head_parts.jsonl", help="file to add rows to"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
