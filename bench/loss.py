"""The GRPO loss of a language-model head: exprl against its rivals, and against the floors.

    bench/loss.py                       on a GPU the 4b shape, else a small one on the CPU
    bench/loss.py --shapes 4b,8b        the heads of Qwen3-4B and Qwen3-8B, < 8 minutes on an H200
    bench/loss.py --smoke               tiny, to see that every adapter works (CI); no bars
    bench/loss.py --only exprl,Liger    providers whose name holds one of these words

All providers get the same tensors in one process, in an order that rotates. TF/s counts 6NHV for
everyone, whatever work was done. Errors are against fp64 on the same inputs. A provider's row is
written as soon as it is measured. One that is not installed is a row that says how to install it.
Exit code 1 if a bar is missed, or if one of exprl's own providers failed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from _row import RESULTS, append, has_gpu

if TYPE_CHECKING:
    from _loss_problem import Problem, Shape

PACKAGES = ["torch", "triton", "liger-kernel", "cut-cross-entropy", "quack-kernels"]
SEGMENTS_PER_SEQUENCE = 4
# Logits of more elements than this take minutes on a CPU.
LARGEST_ON_CPU = 2**26


def main() -> None:
    args = arguments()
    if not has_gpu():
        # Triton reads it once, when it is imported.
        os.environ.setdefault("TRITON_INTERPRET", "1")
    # As Ctrl-C does: what was measured so far is written.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("error: cut off by SIGTERM"))
    import torch
    from _loss_measure import Measured, measure
    from _loss_problem import make_problem, with_segments
    from _loss_providers import providers
    from _loss_table import as_row, check_bars, print_table

    on_gpu = torch.cuda.is_available()
    smoke = args.smoke or not on_gpu
    device = torch.device("cuda" if on_gpu else "cpu")
    if not on_gpu:
        # Inductor's compile times would be all that a small shape shows.
        torch.compiler.set_stance("force_eager")
    chosen = [p for p in providers() if any(word in p.name for word in args.only.split(","))]
    missed, failed = 0, list[str]()
    for shape in shapes(args, on_gpu):
        dtype = getattr(torch, args.dtype)
        by_sequence = make_problem(shape, device, dtype, ragged=not on_gpu)
        for problem in (by_sequence, with_segments(by_sequence, SEGMENTS_PER_SEQUENCE)):

            def write(result: Measured, problem: Problem = problem) -> None:
                row = as_row(problem, result, smoke=smoke)
                append("loss", [row], PACKAGES, args.results)

            allowed = [p for p in chosen if p.runs_on(problem)]
            results = measure(problem, allowed, args.repeats, write)
            print_table(problem, results)
            failed += [r.provider.name for r in results if r.failed and r.provider.ours]
            if not smoke:
                missed += check_bars(problem, results)
    if smoke:
        print("\nsmoke: no bar was checked", end="")
        print("; torch.compile was off, and Triton ran in its interpreter" if not on_gpu else "")
    if failed:
        raise SystemExit(f"error: failed: {', '.join(failed)}; {missed} bars were missed")
    if missed:
        raise SystemExit(f"error: {missed} bars were missed")


def shapes(args: argparse.Namespace, on_gpu: bool) -> list[Shape]:
    """The chosen shapes; refuses what this machine cannot do in reasonable time."""
    from _loss_problem import SHAPES

    default = "tiny" if args.smoke else "4b" if on_gpu else "small"
    found = []
    for name in (args.shapes or default).split(","):
        shape = SHAPES.get(name)
        if shape is None:
            raise SystemExit(f"error: no shape {name!r}; there are {', '.join(SHAPES)}")
        if shape.rows * shape.vocab > LARGEST_ON_CPU and not on_gpu:
            raise SystemExit(
                f"error: shape {name} needs a GPU, and torch sees none here; "
                "without one use --shapes small, or --smoke"
            )
        found.append(shape)
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", help="of tiny, small, 4b, 8b; separated by commas")
    parser.add_argument("--smoke", action="store_true", help="the tiny shape, on any machine")
    parser.add_argument(
        "--repeats", type=int, default=10, help="timed steps each, at most (default 10)"
    )
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--only", default="", metavar="WORDS", help="providers, by parts of names")
    parser.add_argument(
        "--results", type=Path, default=RESULTS / "loss.jsonl", help="file that rows are added to"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
