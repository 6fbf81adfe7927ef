"""One trainer rank beside the trainer of one process: what FSDP2 changes, and what it costs.

    bench/ranks.py              on a GPU: FSDP2 at world 1 over NCCL, in bf16, Qwen3-0.6B's shape
    bench/ranks.py --smoke      a tiny model on the CPU, over gloo (CI)

Both load the same random weights and take the same steps on the same batches. The process rounds
fp32 masters to bf16 parameters by itself (learn/master.py); the rank leaves that to FSDP2's mixed
precision (learn/sharding.py). One rank gathers from nobody, so this measures what does not depend
on their number: numerics, hooks, copies, memory.

Each setting leaves a row for the process and one for the rank: seconds of a step, peak memory, loss
and gradient norm of each step, and the mean |difference| of the two's log-probs of one micro-batch,
as loaded and after the steps. The exit code is 1 where the two differ by more than the bars below.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from _phases import peak_bytes, reset_peak
from _rollouts import packed
from _row import RESULTS, Row, append
from _shapes import SHAPES, Shape, weights

from exprl import config
from exprl.learn.control import Follower, open_team
from exprl.learn.model import best_device
from exprl.learn.policy import Policy
from exprl.learn.ranks import Leader
from exprl.types import TrainBatch

PACKAGES = ("torch", "triton", "transformers", "peft", "torchao", "liger-kernel", "flash-attn")
LOSS = config.Loss(kl_coef=0.001)
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "full, adamw": {},
    "full, adamw8bit": {"optimizer": "adamw8bit"},
    "lora 32, adamw": {"rank": 32},
}
# Both compute the same products of the same bf16 numbers; order and fusing may differ.
LOADED_GAP = 0.02
NORM_APART = 0.02
LOSS_APART = 0.02


def main() -> None:
    args = arguments()
    device = best_device()
    if device.type == "cpu" and not args.smoke:
        sys.exit("error: torch sees no GPU here; without one use --smoke")
    shape = SHAPES["tiny" if args.smoke else args.shape]
    batches = packed(shape, args.rollouts, args.micro_batch_tokens or shape.longest)
    failed = []
    with weights(shape, device, args.scratch) as folder:
        for name in args.settings:
            try:
                rows = compare(name, shape, folder, batches, args.steps)
            except Exception as error:
                traceback.print_exc()
                failed.append(f"{name}: {type(error).__name__}")
                continue
            append("ranks", rows, PACKAGES, args.results)
            print(*map(line, rows), sep="\n", flush=True)
            failed += [f"{name}: {fault}" for fault in faults(rows)]
    if failed:
        sys.exit("error: " + "; ".join(failed))


def compare(
    name: str, shape: Shape, folder: Path, batches: list[list[TrainBatch]], steps: int
) -> list[Row]:
    """The rows of a setting: one process, then one rank."""
    rows, heard = [], []
    for kind in ("process", "rank"):
        row, logps = run(kind, name, shape, folder, batches, steps)
        rows.append(row)
        heard.append(logps)
    for own, other in zip(*heard, strict=True):
        rows[1].extra["logp_gap"].append((own - other).abs().mean().item())
    return rows


def run(
    kind: str, name: str, shape: Shape, folder: Path, batches: list[list[TrainBatch]], steps: int
) -> tuple[Row, list[torch.Tensor]]:
    """One of the two: its row, and its log-probs as loaded and after the steps."""
    first, taken, logps = batches[0][0], [], []
    extra: dict[str, Any] = {
        "kind": kind,
        "setting": name,
        "shape": shape.name,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "smoke": shape.name == "tiny",
        "tokens": sum(len(b.input_ids) for b in batches[0]),
        "micro_batches": len(batches[0]),
        "loss": [],
        "grad_norm": [],
        "logp_gap": [],
        "peak_bytes": {},
    }
    reset_peak()
    with opened(kind, name, folder) as policy:
        extra["peak_bytes"]["load"] = peak_bytes()
        reset_peak()
        logps.append(policy.logp(first).float().cpu())
        for _ in range(steps):
            start = time.perf_counter()
            update = policy.step(batches, LOSS)[0]
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
            extra["loss"].append(update.loss.loss)
            extra["grad_norm"].append(update.grad_norm)
        extra["peak_bytes"]["step"] = peak_bytes()
        logps.append(policy.logp(first).float().cpu())
        started = time.perf_counter()
        for _ in policy.weights():
            pass
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        extra["weights_s"] = time.perf_counter() - started
    del policy
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    # The first step compiles and warms up.
    return Row(f"{shape.name} {name}, {kind}", taken[1:], extra=extra), logps


@contextmanager
def opened(kind: str, name: str, folder: Path) -> Iterator[Policy]:
    """The policy of one process, or the leader of a team of one."""
    settings = SETTINGS[name]
    given: dict[str, Any] = {
        "model": config.Model(path=str(folder), dtype="bfloat16", gradient_checkpointing=True),
        "optim": config.Optim(lr=1e-6, kind=settings.get("optimizer", "adamw")),
        "lora": config.Lora(rank=settings.get("rank", 0)),
        "temperature": 1.0,
        "needs_initial": True,
    }
    if kind == "process":
        yield Policy(**given)
        return
    with open_team(1, "127.0.0.1", _start_nobody, best_device()) as team:
        yield Leader(team, **given)


def faults(rows: Sequence[Row]) -> Iterator[str]:
    """In which of their numbers the rank and the process are further apart than rounding is."""
    process, rank = (row.extra for row in rows)
    gap = rank["logp_gap"][0]
    if not gap <= LOADED_GAP:
        yield f"log-probs of the loaded weights are {gap:.3g} apart"
    norms = zip(process["grad_norm"], rank["grad_norm"], strict=True)
    apart = max(abs(own - other) / own for own, other in norms)
    if not apart <= NORM_APART:
        yield f"gradient norms are {apart:.2%} apart"
    losses = zip(process["loss"], rank["loss"], strict=True)
    apart = max(abs(own - other) / max(abs(own), 0.01) for own, other in losses)
    if not apart <= LOSS_APART:
        yield f"losses are {apart:.2%} apart"


def line(row: Row) -> str:
    """What a reader wants of a row."""
    seen = row.extra
    peaks = ", ".join(f"{k} {v / 1e9:.2f}" for k, v in seen["peak_bytes"].items() if v is not None)
    gaps = ", ".join(f"{gap:.3g}" for gap in seen["logp_gap"])
    return (
        f"{row.name}: {row.median:.3g} s for {seen['tokens']:,} tokens; peak GB: {peaks};"
        f" weights gathered in {seen['weights_s']:.3g} s\n"
        f"    loss {[round(x, 6) for x in seen['loss']]}, gradient norm"
        f" {[round(x, 5) for x in seen['grad_norm']]}"
        + (f", log-prob gap to the process: loaded, after the steps: {gaps}" if gaps else "")
    )


def _start_nobody(rank: int, env: Mapping[str, str]) -> Follower:
    raise AssertionError("a team of one has no followers")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="0.6b", help=f"of {', '.join(SHAPES)} (default 0.6b)")
    parser.add_argument("--steps", type=int, default=3, help="the first is not timed (default 3)")
    parser.add_argument("--rollouts", type=int, default=8, help="of a step (default 8)")
    parser.add_argument(
        "--micro-batch-tokens", type=int, help="default: the longest sequence of the shape"
    )
    parser.add_argument("--smoke", action="store_true", help="the tiny shape, on any machine")
    parser.add_argument(
        "--settings",
        nargs="+",
        choices=list(SETTINGS),
        default=list(SETTINGS),
        help="which of them",
    )
    parser.add_argument("--scratch", type=Path, help="where the weights go for a while")
    parser.add_argument(
        "--results", type=Path, default=RESULTS / "ranks.jsonl", help="file to add rows to"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
