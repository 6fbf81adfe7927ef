"""`exprl demo`: train on the miniature, then show what changed and where to look next."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from exprl import config, files
from exprl.cli import shipped
from exprl.cli.options import INTERRUPTED
from exprl.cli.printable import make_printable
from exprl.errors import ConfigError
from exprl.evaluate.during_training import read_evaluations
from exprl.monitor.curve import draw_curve
from exprl.monitor.metrics_log import read_metrics
from exprl.train import run_training

KS = (1, 16, 64)
MARK = ".demo"
"""A file that says: this run is the demo's, and the next demo may replace it."""


def run(config_file: Path | None, run_dir: Path, overrides: Sequence[str] = ()) -> int:
    """Train from scratch into `run_dir`, write summary.json and curve.png, print the report.

    Args:
        config_file: None = the demo's own, whose files lie in the package.

    Raises:
        ConfigError: `run_dir` holds something that is not a demo, or the config has no evaluation.
    """
    own: list[str] = []
    if config_file is None:
        config_file, own = shipped.locate_demo()
    cfg = config.load(config_file, [*own, *overrides, f"run_dir={json.dumps(str(run_dir))}"])
    if cfg.eval.data is None or cfg.eval.samples < max(KS):
        raise ConfigError(f"{config_file}: the demo needs eval.data and eval.samples >= {max(KS)}")
    _clear(run_dir)
    if run_training(cfg).interrupted:
        return INTERRUPTED
    summary = summarize(cfg, run_dir)
    files.write_json(run_dir / "summary.json", summary)
    draw_curve(run_dir, run_dir / "curve.png")
    _report(summary, run_dir)
    return 0


def summarize(cfg: config.Config, run_dir: Path) -> dict[str, Any]:
    """The run in one flat object, from its own metrics.jsonl and eval.jsonl."""
    rows = read_metrics(run_dir)
    before, *_, after = read_evaluations(run_dir)
    rollouts = sum(row["rollout/count"] for row in rows)
    summary: dict[str, Any] = {
        "method": cfg.method,
        "steps": len(rows),
        "wall_s": round(sum(row["time/step_s"] for row in rows), 2),
        "seed": cfg.seed,
        "judge_requests": int(sum(row["judge/requests"] for row in rows)),
        "judge_missing_rate": sum(row["judge/missing"] for row in rows) / rollouts,
        "single_segment_rate": rows[-1]["steps/single_rate"],
        "rollouts": int(rollouts),
        "unsolved_after": rows[-1]["reward/unsolved"],
    }
    for k in KS:
        summary[f"pass_at_{k}_before"] = before.at(k)
        summary[f"pass_at_{k}_after"] = after.at(k)
    return summary


def _clear(run_dir: Path) -> None:
    if run_dir.exists():
        ours = any((run_dir / name).exists() for name in (MARK, "summary.json"))
        if not (run_dir.is_dir() and (ours or not any(run_dir.iterdir()))):
            raise ConfigError(f"{run_dir} is not a run of the demo; choose another --run-dir")
        shutil.rmtree(run_dir)
    run_dir.mkdir(parents=True)
    (run_dir / MARK).touch()


def _report(summary: dict[str, Any], run_dir: Path) -> None:
    console = Console(highlight=False, soft_wrap=True)
    table = Table("fresh problems", "before", "after", title="What it learned")
    for k in KS:
        values = (summary[f"pass_at_{k}_{when}"] for when in ("before", "after"))
        table.add_row(f"pass@{k}", *(f"{value:.3f}" for value in values))
    console.print(table)
    console.print(
        f"{summary['steps']} steps in {summary['wall_s']:.0f} s, {summary['rollouts']} rollouts,"
        f" {summary['judge_requests']} judge requests, {summary['judge_missing_rate']:.2%} of the"
        " rollouts without a grade\n"
    )
    console.print(colored_rollout(run_dir))
    console.print(
        f"\nThe run is in {run_dir}: metrics.jsonl, eval.jsonl, curve.png, summary.json,"
        " rollouts/ (parquet), checkpoints/ (Hugging Face format), ledger/ (every grade)."
    )
    console.print("Try next:")
    if not Path("configs/division_sparse.toml").exists():
        console.print(f"  {_command()} examples    copies configs/ and examples/ into this folder")
    console.print(
        f"  {_command()} train configs/division_sparse.toml     sparse GRPO from the same start\n"
        f"  {_command()} train configs/division_outcome.toml    one grade per rollout\n"
        f"  {_command()} eval {run_dir} -n 64 -k 1 -k 64\n"
        f"  {_command()} doctor\n"
        "What the miniature does not show is said in examples/division/README.md."
    )


def _command() -> str:
    """How `exprl` is called here: `make demo` leaves it in .venv/bin, which may not be on PATH."""
    called = os.path.relpath(sys.argv[0])
    return called if called.startswith(".venv") else "exprl"


def colored_rollout(run_dir: Path) -> Text:
    """The first step's rollout whose advantages differ most, one line for each of its steps.

    What a policy writes is neither read as markup nor sent as a control sequence.
    """
    from pyarrow import parquet

    path = min((run_dir / "rollouts").glob("step-*.parquet"))
    rows = [r for r in parquet.read_table(path).to_pylist() if None not in r["advantages"]]
    row = max(rows, key=lambda r: max(r["advantages"]) - min(r["advantages"]))
    text = Text(f"A rollout of the first step (problem {row['problem_id']}), as the judge saw it\n")
    text.append("  grade  advantage  step\n", style="dim")
    for segment, grade, advantage in zip(
        row["segments"], row["grades"], row["advantages"], strict=True
    ):
        style = "blue" if advantage > 0 else "dark_orange" if advantage < 0 else "default"
        shown = make_printable(segment)
        text.append(f"  {grade if grade else '-':>5}  {advantage:+9.2f}  {shown}\n", style=style)
    return text
