"""Table 5 in miniature: the judge against known truth, with the right reference, none, a wrong one.

The solutions are the rollouts of one ExpRL-Process run, whose policy solves some problems and not
others; the truth is the verifier's. The judge is the rule, and once more with 20 % of its grades
drawn at random, as a model's judgement would be noisy.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _row import RESULTS, machine
from pyarrow import parquet

from exprl import files
from exprl.judge import JudgeItem, JudgeSettings, RuleJudge
from exprl.study.calibrate import calibrate, to_json
from exprl.study.grade import Condition, Line

FILE = RESULTS / "paper_judge.jsonl"
CONDITIONS: tuple[Condition, ...] = ("right", "none", "wrong")
JUDGES = {"rule": 0.0, "rule, 20 % of its grades random": 0.2}


def save(judged: Sequence[dict[str, Any]]) -> None:
    """Replace bench/results/paper_judge.jsonl."""
    about = {"bench": "paper_judge", **machine()}
    lines = [json.dumps(about | one, ensure_ascii=False) + "\n" for one in judged]
    files.write_text(FILE, "".join(lines))


def read() -> list[dict[str, Any]]:
    """The rows of bench/results/paper_judge.jsonl."""
    return files.read_jsonl(FILE) if FILE.exists() else []


def measure(run: Path, data: Path) -> list[dict[str, Any]]:
    """One row per judge and condition, on the finished rollouts of the run."""
    lines = solutions(run, data)
    rows = []
    for name, random_rate in JUDGES.items():
        with RuleJudge("division", random_rate=random_rate) as server:
            settings = JudgeSettings((server.url,), server.model, view="outcome")
            for condition in CONDITIONS:
                result, _ = calibrate(lines, settings, condition)
                rows.append({"judge": name, "solutions": len(lines), **to_json(result)})
    return rows


def solutions(run: Path, data: Path) -> list[Line]:
    """The finished rollouts of a run, each with its hidden reference and the truth."""
    problems = {row["id"]: row for row in map(json.loads, data.read_text().splitlines())}
    found: list[Line] = []
    for path in sorted((run / "rollouts").glob("step-*.parquet")):
        for one in parquet.read_table(path).to_pylist():
            problem = problems[one["problem_id"]]
            if one["correct"] is None or one["finish_reason"] != "stop":
                continue
            item = JudgeItem(
                id=f"{len(found)}",
                problem=problem["problem"],
                reference=problem["reference"],
                segments=tuple(one["segments"]),
                domain="division",
            )
            found.append(Line(item, one["correct"]))
    return found
