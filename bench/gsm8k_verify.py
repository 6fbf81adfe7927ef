"""What the strict verifier makes of real answers to GSM8K, beside the lenient one.

    python bench/gsm8k_verify.py GSM8K/example_model_solutions.jsonl [--changed OUT.jsonl]

Verifies every answer of the file's four models both ways, with the whole reference as the gold
answer, and compares both with the file's own labels. `--changed` writes the traces on which the
two differ, or on which the strict one differs from the label, to be read by eye.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from _row import Row, report
from gsm8k_judge import items

from exprl import config
from exprl.types import Problem, Prompt
from exprl.verify.verifiers import Verdict, Verifiers


def verify(found: list[dict[str, Any]], how: config.Verify) -> list[Verdict]:
    """The verdict on each answer, strict or lenient."""
    treatment = config.Treatment("math", "verifier", 0.5, "outcome", None, "grpo", verify=how)
    verifiers = Verifiers(lambda _: treatment)

    def examine(item: dict[str, Any]) -> Verdict:
        problem = Problem(item["id"], Prompt(item["id"], ()), item["reference"], "math")
        return verifiers.examine(item["trace"], problem)

    with ThreadPoolExecutor(verifiers.workers) as threads:
        verdicts = list(threads.map(examine, found))
    verifiers.close()
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--changed", type=Path, help="write the traces that differ here")
    arguments = parser.parse_args()
    found = list(items(arguments.source))
    strict, lenient = verify(found, "strict"), verify(found, "lenient")
    labels = [item["is_correct"] for item in found]
    counts = {
        "answers": len(found),
        "labelled_right": sum(labels),
        "right_strict": sum(v.correct is True for v in strict),
        "right_lenient": sum(v.correct is True for v in lenient),
        "missing": sum(v.correct is None for v in strict),
        "lenient_right_strict_wrong": 0,
        "lenient_wrong_strict_right": 0,
    }
    lines = []
    for item, now, before in zip(found, strict, lenient, strict=True):
        if now.correct != before.correct:
            counts[f"lenient_{_word(before)}_strict_{_word(now)}"] += 1
        if now.correct != before.correct or now.correct != item["is_correct"]:
            lines.append(
                {"strict": now.correct, "reason": now.reason, "lenient": before.correct}
                | {key: item[key] for key in ("id", "is_correct", "reference", "trace")}
            )
    if arguments.changed:
        arguments.changed.write_text("".join(json.dumps(line) + "\n" for line in lines))
    reasons = Counter(v.reason.split(":")[0] for v in strict)
    rows = [
        Row(
            f"differs from the label, {name}",
            [float(sum(v.correct != y for v, y in zip(verdicts, labels, strict=True)))],
            unit="answers",
            extra=counts | {"reasons": dict(reasons)},
        )
        for name, verdicts in (("strict", strict), ("lenient", lenient))
    ]
    report("gsm8k_verify", rows, ("math-verify",))


def _word(verdict: Verdict) -> str:
    return "right" if verdict.correct else "wrong"


if __name__ == "__main__":
    main()
