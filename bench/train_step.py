"""A training step of the trainer itself, without sampling, on random weights of the Qwen3 sizes.

    bench/train_step.py --shapes 0.6b,4b                    on a GPU; a row for each setting
    bench/train_step.py --kl 0,0.001 --optimizers adamw     axes: each takes a list
    bench/train_step.py --smoke                             a tiny model on the CPU (CI)

Weights are drawn on the device and written once per shape, so that the trainer loads them as it
loads any model; nothing is downloaded. Lengths of prompt and rollout together are lognormal, with
a median of 0.56 of the longest and a sigma of 0.5, clipped to the longest: at 16,384 tokens a mean
of about 9,800 (_rollouts.py). They are packed by exprl.learn.batch.pack.

MFU counts what the model needs, not what is recomputed and not the initial policy:
    (6 N tokens + 3 sum over sequences of 2 L^2 heads head_dim layers) / seconds / peak of the card
with N the parameters that are multiplied, 4 N instead of 6 N where LoRA freezes them, and L the
length of a sequence. Peaks: 989 TF/s, dense bf16, for H100 and H200.

After a warm-up on one micro-batch a step is watched, phase by phase, for seconds and peak memory;
then `--repeats` steps are timed with nothing watching. A row is written as soon as it is measured;
a setting that does not fit or cannot run here is a row that says so.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from _phases import peak_bytes, reset_peak, watched
from _rollouts import packed
from _row import RESULTS, Row, append, seconds
from _shapes import SHAPES, Shape, weights

from exprl import config
from exprl.errors import ExprlError
from exprl.learn import fused
from exprl.learn.memory import Setup, Shapes, predict
from exprl.learn.policy import Policy
from exprl.types import TrainBatch

PACKAGES = ("torch", "triton", "transformers", "peft", "torchao", "liger-kernel", "flash-attn")
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12}
# Of a prediction: what torch does not count as allocated.
UNCOUNTED = ("CUDA context", "allocator")
MEMORY_BAR = 0.15


@dataclass(frozen=True, slots=True)
class Setting:
    """What is varied.

    rank: of LoRA, 0 = all weights are trained.
    recomputed: share of the layers whose activations are recomputed in the backward.
    """

    shape: str
    rank: int
    optimizer: str
    kl_coef: float
    attention: str
    fused: str
    recomputed: float

    @property
    def name(self) -> str:
        """As a table shows it."""
        trained = f"lora {self.rank}" if self.rank else "full"
        return (
            f"{self.shape} {trained}, {self.optimizer}, kl {self.kl_coef:g}, "
            f"attention {self.attention}, fused {self.fused}, recomputed {self.recomputed:g}"
        )


def main() -> None:
    args = arguments()
    # As Ctrl-C does: the folder of weights is taken away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("error: cut off by SIGTERM"))
    on_gpu = torch.cuda.is_available()
    if not (on_gpu or args.smoke or args.shapes in ("tiny", "100m")):
        raise SystemExit(
            "error: torch sees no GPU here; without one use --smoke, or --shapes tiny or 100m with"
            " the axes"
        )
    device = torch.device("cuda" if on_gpu else "cpu")
    failed, off = 0, list[str]()
    for name in ("tiny" if args.smoke else args.shapes).split(","):
        shape = SHAPES.get(name)
        if shape is None:
            raise SystemExit(f"error: no shape {name!r}; there are {', '.join(SHAPES)}")
        with weights(shape, device, args.scratch) as folder:
            for setting in settings(name, args):
                row = measure(setting, shape, folder, args)
                append("train_step", [row], PACKAGES, args.results)
                print(line(row), flush=True)
                failed += row.extra["status"].startswith("failed")
                # Of a tiny model nearly all of the memory is Python's and torch's own.
                if not row.extra["smoke"] and abs(row.extra["memory_error"] or 0.0) > MEMORY_BAR:
                    off.append(row.name)
    if failed:
        raise SystemExit(f"error: {failed} settings failed")
    if args.check_memory and off:
        raise SystemExit(f"error: predicted peaks more than {MEMORY_BAR:.0%} off: {'; '.join(off)}")


def settings(shape: str, args: argparse.Namespace) -> Iterator[Setting]:
    """The product of the axes."""
    axes = (args.ranks, args.optimizers, args.kl, args.attention, args.fused, args.recomputed)
    for rank, optimizer, kl, attention, kernels, recomputed in itertools.product(
        *(axis.split(",") for axis in axes)
    ):
        yield Setting(shape, int(rank), optimizer, float(kl), attention, kernels, float(recomputed))


def measure(setting: Setting, shape: Shape, folder: Path, args: argparse.Namespace) -> Row:
    """Load, step, time; whatever goes wrong becomes the row's status."""
    batches = packed(shape, args.rollouts, args.micro_batch_tokens or shape.longest)
    lengths = [n for batch in batches[0] for n in np.diff(batch.cu_seqlens).tolist()]
    row = Row(setting.name, [])
    row.extra.update(
        asdict(setting),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        smoke=not torch.cuda.is_available() or shape.name == "tiny",
        status="ok",
        parameters=shape.parameters(),
        rollouts=len(lengths),
        tokens=sum(lengths),
        mean_tokens=float(np.mean(lengths)),
        micro_batches=len(batches[0]),
        micro_batch_tokens=args.micro_batch_tokens or shape.longest,
        seconds={},
        peak_bytes={},
        predicted=predicted(setting, shape, max(int(b.cu_seqlens[-1]) for b in batches[0])),
    )
    taken = list[float]()
    try:
        taken = _steps(setting, folder, batches, args.repeats, row.extra)
    except torch.OutOfMemoryError:
        row.extra["status"] = "out of memory"
    except (ExprlError, ImportError) as error:
        row.extra["status"] = f"cannot run here: {error}"
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        row.extra["status"] = f"failed: {type(error).__name__}: {reason[:300]}"
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    row = Row(row.name, taken, extra=row.extra)
    step = row.median if taken else None
    flops = (4 if setting.rank else 6) * shape.multiplied() * sum(lengths)
    flops += 3 * sum(map(shape.attention_flops, lengths))
    peak = _peak_flops()
    row.extra.update(
        tokens_per_s=sum(lengths) / step if step else None,
        flops=flops,
        mfu=flops / step / peak if step and peak else None,
        memory_error=memory_error(row),
    )
    return row


def _steps(
    setting: Setting,
    folder: Path,
    batches: list[list[TrainBatch]],
    repeats: int,
    about: dict[str, Any],
) -> list[float]:
    """Seconds of each timed step; what is seen before goes into `about`, and stays on an error."""
    reset_peak()
    policy = open_policy(setting, folder)
    about["attention_kernel"] = policy.model.config._attn_implementation
    about["peak_bytes"]["load"] = peak_bytes()
    loss = config.Loss(kl_coef=setting.kl_coef)
    policy.step([batches[0][:1]], loss)
    models = [policy.model, *([policy.initial.model] if policy.initial else [])]
    with watched(models) as phases:
        try:
            updates = policy.step(batches, loss)
        finally:
            about["seconds"], load = phases.seconds, about["peak_bytes"]
            about["peak_bytes"] = load | phases.peak_bytes
    if updates[0].skipped:
        raise ArithmeticError(f"the step was skipped: gradient norm {updates[0].grad_norm}")
    about["loss"], about["grad_norm"] = updates[0].loss.loss, updates[0].grad_norm

    def step() -> None:
        policy.step(batches, loss)
        if policy.device.type == "cuda":
            torch.cuda.synchronize()

    return seconds(step, repeats, warmups=0)


def predicted(setting: Setting, shape: Shape, tokens: int) -> dict[str, int]:
    """Bytes by phase, as the dry run predicts them: of torch on a GPU, of the process on a CPU.

    Args:
        tokens: of the largest micro-batch.
    """
    on_gpu = torch.cuda.is_available()
    setup = Setup(
        gpu=on_gpu,
        optimizer=setting.optimizer,  # type: ignore[arg-type]
        micro_batch_tokens=tokens,
        recomputed=setting.recomputed,
        fused=on_gpu and fused.choose(setting.fused, "qwen3", torch.device("cuda")),
        needs_initial=setting.kl_coef > 0,
        lora_rank=setting.rank,
    )
    skipped = UNCOUNTED if on_gpu else ()
    phases = predict(Shapes.of(shape.config()), setup).phases.items()
    return {
        phase: sum(size for part, size in parts.items() if part not in skipped)
        for phase, parts in phases
    }


def memory_error(row: Row) -> float | None:
    """By what share of the measured peak the predicted one is off; None = nothing was measured."""
    measured = [size for size in row.extra["peak_bytes"].values() if size is not None]
    if not measured or row.extra["status"] != "ok":
        return None
    return max(row.extra["predicted"].values()) / max(measured) - 1


def open_policy(setting: Setting, folder: Path) -> Policy:
    """The trainer's own, of a setting."""
    model = config.Model(
        path=str(folder),
        dtype="bfloat16",
        attention=setting.attention,  # type: ignore[arg-type]
        fused=setting.fused,  # type: ignore[arg-type]
        gradient_checkpointing=setting.recomputed or False,
    )
    return Policy(
        model,
        config.Optim(lr=1e-6, kind=setting.optimizer),  # type: ignore[arg-type]
        config.Lora(rank=setting.rank),
        temperature=1.0,
        needs_initial=setting.kl_coef > 0,
    )


def line(row: Row) -> str:
    """What a reader wants of a row."""
    seen = row.extra
    if seen["status"] != "ok":
        return f"{row.name}: {seen['status']}"
    mfu = "" if seen["mfu"] is None else f", {seen['mfu']:.1%} MFU"
    off = "" if seen["memory_error"] is None else f", {seen['memory_error']:+.1%} off"
    peaks = ", ".join(f"{k} {v / 1e9:.2f}" for k, v in seen["peak_bytes"].items() if v is not None)
    parts = ", ".join(f"{k} {v:.3g}" for k, v in seen["seconds"].items())
    return (
        f"{row.name}: {row.median:.3g} s for {seen['tokens']:,} tokens, "
        f"{seen['tokens_per_s']:,.0f} tokens/s{mfu}\n    peak GB: {peaks}; predicted "
        f"{max(seen['predicted'].values()) / 1e9:.2f}{off}\n    seconds: {parts}"
    )


def _peak_flops() -> float | None:
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((flops for card, flops in PEAK_FLOPS.items() if card in name), None)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def axis(name: str, default: str, what: str) -> None:
        parser.add_argument(name, default=default, help=f"{what} (default {default})")

    axis("--shapes", "0.6b,4b", f"of {', '.join(SHAPES)}; separated by commas, as all lists")
    axis("--ranks", "0", "of LoRA; 0 trains all weights")
    axis("--optimizers", "adamw", "of adamw, adamw8bit")
    axis("--kl", "0,0.001", "coefficients of the KL to the initial policy; 0 keeps none")
    axis("--attention", "auto", "as model.attention")
    axis("--fused", "auto", "as model.fused")
    axis("--recomputed", "1", "shares of the layers, as model.gradient_checkpointing; 0 = none")
    parser.add_argument("--rollouts", type=int, default=8, help="of a step (default 8)")
    parser.add_argument(
        "--micro-batch-tokens", type=int, help="default: the longest sequence of the shape"
    )
    parser.add_argument("--repeats", type=int, default=2, help="timed steps each (default 2)")
    parser.add_argument("--smoke", action="store_true", help="the tiny shape, on any machine")
    parser.add_argument(
        "--check-memory",
        action="store_true",
        help=f"exit with 1 if a predicted peak is more than {MEMORY_BAR:.0%} off, tiny ones aside",
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        help="where the weights go for a while (default: in memory if"
        " /dev/shm has room, else the system's temporary folder)",
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS / "train_step.jsonl", help="file to add rows to"
    )
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
