"""What the strict verifier makes of real answers to GSM8K, beside the lenient one.

    python bench/gsm8k_verify.py GSM8K/example_model_solutions.jsonl [--changed OUT.jsonl]

Verifies every answer of the file's four models both ways, with the whole reference as the gold
answer, and compares both with the file's own labels. Then the same with answers that mark nothing:
without their last line (`A: n`), their first half, and with the last line denied. `--changed`
writes the traces on which strict and lenient differ, to be read by eye.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable
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


def drop_last_line(trace: str) -> str:
    """Cut before the line that marks the answer."""
    return trace.rstrip().rpartition("\n")[0]


def take_half(trace: str) -> str:
    """Cut in the middle, as by a limit on the length."""
    return trace[: len(trace) // 2]


def deny(trace: str) -> str:
    """The answer is named, and called wrong."""
    body, _, last = trace.rstrip().rpartition("\n")
    return f"{body}\n{last.removeprefix('A:').strip()} is wrong, and I give up."


CHANGES: dict[str, Callable[[str], str] | None] = {
    "as they are": None,
    "without the last line": drop_last_line,
    "the first half": take_half,
    "the last line denied": deny,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--changed", type=Path, help="write the traces that differ here")
    arguments = parser.parse_args()
    whole = list(items(arguments.source))
    rows, lines = [], []
    for name, change in CHANGES.items():
        found = [x | {"trace": change(x["trace"])} for x in whole] if change else whole
        strict, lenient = verify(found, "strict"), verify(found, "lenient")
        for how, verdicts in (("strict", strict), ("lenient", lenient)):
            reasons = Counter(verdict.reason.split(":")[0] for verdict in verdicts)
            extra: dict[str, Any] = {
                "answers": len(found),
                "missing": sum(verdict.correct is None for verdict in verdicts),
                "reasons": dict(reasons),
            }
            if change is None:  # the labels are about whole answers
                labels = [item["is_correct"] for item in found]
                pairs = zip(verdicts, labels, strict=True)
                extra["labelled_right"] = sum(labels)
                extra["differ_from_label"] = sum(v.correct != label for v, label in pairs)
            right = sum(verdict.correct is True for verdict in verdicts)
            rows.append(Row(f"right, {name}, {how}", [float(right)], "answers", extra=extra))
        lines += [
            {"change": name, "strict": now.reason, "lenient": before.reason} | item
            for item, now, before in zip(found, strict, lenient, strict=True)
            if now.correct != before.correct
        ]
    if arguments.changed:
        arguments.changed.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report("gsm8k_verify", rows, ("math-verify",))


if __name__ == "__main__":
    main()
