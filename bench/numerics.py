"""What the precision of the logits does to log-probs and to the ratio of the policy gradient.

    bench/numerics.py                the head of Qwen3-4B on 512 tokens, a minute or two on a CPU
    bench/numerics.py --rows 4096    more tokens

Log-probs of every provider against fp64 from the same bf16 hidden states and head, on peaked rows
(one token is 8 to 22 logits above the others) and flat ones; targets are drawn from the policy.
Prints the tables of docs/project/numerics.md, and adds a JSON row for each line.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from _row import RESULTS, Row, append, has_gpu

if TYPE_CHECKING:
    from _loss_problem import Problem
    from torch import Tensor

BATCH = 128


def main() -> None:
    args = arguments()
    if not has_gpu():
        os.environ.setdefault("TRITON_INTERPRET", "1")
    import torch
    from _loss_problem import SHAPES, make_problem
    from _loss_table import device_name

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = replace(
        SHAPES["4b"],
        sequences=max(1, args.rows // BATCH),
        tokens=min(args.rows, BATCH),
        hidden=args.hidden,
        vocab=args.vocab,
    )
    print(f"N {shape.rows:,}, H {shape.hidden:,}, V {shape.vocab:,}, bf16 inputs, {device_name()}")
    for kind, peaked in (("peaked", 1.0), ("flat", 0.0)):
        problem = make_problem(shape, device, torch.bfloat16, ragged=False, peaked=peaked)
        wanted, entropy = exact_logp(problem)
        found = [row(kind, problem, *seen, wanted) for seen in log_probs(problem)]
        append("numerics", found, ["torch", "liger-kernel"], args.results)
        print_table(kind, found, entropy.mean().item())


def log_probs(problem: Problem) -> Iterator[tuple[str, Tensor | str]]:
    """Name and logp [N] of each provider, or why it has none."""
    import _loss_rivals as rivals
    import torch
    from _loss_providers import exprl_logp

    leaves = problem.hidden, problem.weight
    ways = {
        "exprl linear_logp: fp32 logits": exprl_logp,
        "torch as TRL, bf16 logits as they are": partial(rivals.trl_head_logp, upcast=False),
        "torch as TRL, bf16 logits cast to fp32": partial(rivals.trl_head_logp, upcast=True),
        "Liger fused-linear: bf16 logits cast to fp32": rivals.liger_logp,
    }
    if problem.hidden.is_cuda:
        ways["Liger Triton: bf16 logits"] = rivals.liger_triton_head_logp
    for name, logp in ways.items():
        try:
            with torch.no_grad():
                yield name, logp(problem, *leaves)
        except ImportError as error:
            yield name, f"absent ({error.name}): install requirements/bench.txt"


def row(kind: str, problem: Problem, name: str, logp: Tensor | str, wanted: Tensor) -> Row:
    """Errors of one provider; values are |dlogp| of each token."""
    about = {"rows_are": kind, "N": problem.shape.rows, "H": problem.shape.hidden}
    about |= {"V": problem.shape.vocab, "device": problem.hidden.device.type}
    if isinstance(logp, str):
        return Row(name, [], "nats", note=logp, extra=about)
    error = logp.double() - wanted
    ratio_error = error.expm1().abs()
    trainer = problem.trainer_logp.flatten().double()
    flipped = clipped(problem, logp.double() - trainer) != clipped(problem, wanted - trainer)
    about |= {
        "logp_error_max": error.abs().max().item(),
        "logp_error_p99": error.abs().quantile(0.99).item(),
        "ratio_off_by_1_percent": (ratio_error > 0.01).double().mean().item(),
        "ratio_error_max": ratio_error.max().item(),
        "clip_decisions_flipped": flipped.double().mean().item(),
        "logp_positive": int((logp > 0).sum()),
    }
    return Row(name, error.abs().tolist(), "nats", extra=about)


def clipped(problem: Problem, log_ratio: Tensor) -> Tensor:
    """Whether the clip holds a token [N], at the advantages and the log-ratio given."""
    from _loss_problem import CLIP_HIGH, CLIP_LOW

    ratio, adv = log_ratio.exp(), problem.token_adv.flatten()
    return ((ratio > 1 + CLIP_HIGH) & (adv > 0)) | ((ratio < 1 - CLIP_LOW) & (adv < 0))


def exact_logp(problem: Problem) -> tuple[Tensor, Tensor]:
    """logp and entropy [N] in fp64, the head a part at a time."""
    import torch

    hidden = problem.hidden.double()
    logits = torch.cat([hidden @ part.double().T for part in problem.weight.split(8192)], dim=1)
    log_prob = torch.log_softmax(logits, dim=-1)
    del logits
    logp = log_prob.gather(-1, problem.targets.view(-1, 1))[:, 0]
    return logp, -(log_prob.exp() * log_prob).sum(-1)


def print_table(kind: str, rows: Sequence[Row], entropy: float) -> None:
    """As Markdown, for the page."""
    print(f"\n{kind.capitalize()} rows, mean entropy {entropy:.2f} nats:\n")
    print("| | median of abs dlogp | 99 % | max | ratio off by > 1 % | clip flipped | logp > 0 |")
    print("|---|---|---|---|---|---|---|")
    for line in rows:
        seen = line.extra
        if not line.values:
            print(f"| {line.name} | {line.note} |")
            continue
        print(
            f"| {line.name} | {line.median:.1e} | {seen['logp_error_p99']:.1e} "
            f"| {seen['logp_error_max']:.1e} | {seen['ratio_off_by_1_percent']:.1%} "
            f"| {seen['clip_decisions_flipped']:.2%} | {seen['logp_positive']} |"
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=512, help="N, a multiple of 128 (default 512)")
    parser.add_argument("--hidden", type=int, default=2560, help="H (default 2560)")
    parser.add_argument("--vocab", type=int, default=151_936, help="V (default 151936)")
    parser.add_argument(
        "--results", type=Path, default=RESULTS / "numerics.jsonl", help="file to add rows to"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
