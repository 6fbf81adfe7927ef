"""The scheduler replayed on four simulated servers with prefix caches, beside other orders.

    python bench/judge cache

One training step of 36 problems x 16 rollouts x ~8 prefixes, three loads. Builds and runs the Rust
example `cache_simulator`, which drives the dispatcher's own scheduler. Bars: at least
0.97 of the hits of one endless cache, and no server with more than 1.15 of the mean load.
docs/project/benchmarks.md has what was seen.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _row import Row, report

ROOT = Path(__file__).parents[2]
LEAST_SHARE, MOST_BALANCE = 0.97, 1.15


def main(arguments: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser("cache", description=__doc__.splitlines()[0]).parse_args(arguments)
    command = "cargo run --quiet --locked --release -p exprl-rehearsal"
    command += " --example cache_simulator"
    lines = subprocess.run(command.split(), cwd=ROOT, check=True, capture_output=True, text=True)
    runs: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for line in lines.stdout.splitlines():
        run = json.loads(line)
        runs[run["name"], run["kv_tokens"]].append(run)
    rows = [row(name, kv_tokens, group) for (name, kv_tokens), group in runs.items()]
    report("judge_cache", rows)
    ours = [run for (name, _), group in runs.items() if name.startswith("exprl") for run in group]
    share = min(run["share_of_ideal_hits"] for run in ours)
    balance = max(max(run["prefill_balance"], run["request_balance"]) for run in ours)
    print(f"exprl's worst of {len(ours)}: {share:.3f} of the ideal's hits (bar {LEAST_SHARE}),")
    print(f"  the busiest server {balance:.3f} of the mean (bar {MOST_BALANCE})")


def row(name: str, kv_tokens: int, runs: list[dict[str, Any]]) -> Row:
    millions = [run["prefill_tokens"] / 1e6 for run in runs]
    saving = sum(run["prompt_tokens"] for run in runs) / sum(run["prefill_tokens"] for run in runs)
    shares = [run["share_of_ideal_hits"] for run in runs]
    balance = max(max(run["prefill_balance"], run["request_balance"]) for run in runs)
    note = f"{saving:.1f}x less than {runs[0]['prompt_tokens'] / 1e6:.1f} M, "
    note += "no hits possible" if None in shares else f"{min(shares):.3f} of the ideal's hits"
    note += f", busiest/mean {balance:.2f}"
    extra = {
        "kv_tokens": kv_tokens,
        "saving": saving,
        "share_of_ideal_hits": None if None in shares else min(shares),
        "balance": balance,
        "simulated_s": [run["simulated_s"] for run in runs],
    }
    return Row(f"{name}, {kv_tokens // 1000} k tokens of cache", millions, "M", note, extra)


if __name__ == "__main__":
    main()
