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

from exprl import files
from exprl.judge import JudgeSettings, RuleJudge
from exprl.study import solutions
from exprl.study.calibrate import calibrate, to_json
from exprl.study.grade import CONDITIONS

FILE = RESULTS / "paper_judge.jsonl"
JUDGES = {"rule": 0.0, "rule, 20 % of its grades random": 0.2}


def save(judged: Sequence[dict[str, Any]]) -> None:
    """Replace bench/results/paper_judge.jsonl."""
    about = {"bench": "paper_judge", **machine()}
    lines = [json.dumps(about | one, ensure_ascii=False) + "\n" for one in judged]
    files.write_text(FILE, "".join(lines))


def read() -> list[dict[str, Any]]:
    """The rows of bench/results/paper_judge.jsonl."""
    return files.read_jsonl(FILE) if FILE.exists() else []


def measure(run: Path) -> list[dict[str, Any]]:
    """One row per judge and condition, on the finished rollouts of the run."""
    finished = [
        s for s in solutions.read(run) if s.correct is not None and s.finish_reason == "stop"
    ]
    rows = []
    for name, random_rate in JUDGES.items():
        with RuleJudge("division", random_rate=random_rate) as server:
            settings = JudgeSettings((server.url,), server.model, view="outcome")
            for condition in CONDITIONS:
                result, _ = calibrate(finished, settings, condition)
                rows.append({"judge": name, "solutions": len(finished), **to_json(result)})
    return rows
