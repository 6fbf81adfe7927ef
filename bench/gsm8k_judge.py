"""How often the `numbers` rule judge misplaces real answers to GSM8K.

    python bench/gsm8k_judge.py GSM8K/example_model_solutions.jsonl [--items OUT.jsonl]

Grades every answer of the file's four models through `exprl judge score`'s own code, over HTTP,
with the right reference, with none, and with another problem's. `--items` writes the input lines
for the command line instead.
docs/concepts/method.md says what the rate is.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _row import Row, report

from exprl.judge import JudgeSettings, RuleJudge
from exprl.study import solutions
from exprl.study.calibrate import calibrate
from exprl.study.grade import CONDITIONS


def items(source: Path) -> Iterator[dict[str, Any]]:
    """One input line of `exprl judge score` per answer, with the truth in `is_correct`."""
    for i, text in enumerate(source.read_text(encoding="utf-8").splitlines()):
        row = json.loads(text)
        for model, answer in row.items():
            if isinstance(answer, dict):
                yield {
                    "id": f"{i}/{model}",
                    "problem": row["question"],
                    "reference": row["ground_truth"],
                    "trace": answer["solution"],
                    "is_correct": answer["is_correct"],
                }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--items", type=Path, help="write the input lines here and stop")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.items or Path(folder) / "items.jsonl"
        path.write_text("".join(json.dumps(item) + "\n" for item in items(arguments.source)))
        if arguments.items:
            return
        answers = solutions.read(path, label="is_correct")
    rows = []
    for condition in CONDITIONS:
        start = time.perf_counter()
        with RuleJudge("numbers") as server:
            settings = JudgeSettings((server.url,), server.model, view="outcome")
            result, _ = calibrate(answers, settings, condition)
        seconds = time.perf_counter() - start
        missing = result.right_missing + result.wrong_missing
        graded = len(answers) - missing
        rows.append(
            Row(
                f"reference: {condition}",
                [100.0 * result.misplacement.value],
                unit="%",
                note=f"{graded} graded, {missing} missing, {seconds:.1f} s",
                extra={
                    "false_positive_rate": result.false_positive.value,
                    "false_negative_rate": result.false_negative.value,
                    "graded": graded,
                    "missing": missing,
                    "seconds": seconds,
                },
            )
        )
    report("gsm8k_judge", rows)


if __name__ == "__main__":
    main()
