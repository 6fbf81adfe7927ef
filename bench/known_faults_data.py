"""How often `exprl doctor data` is right: 20 data sets in which every fault was planted.

Five kinds of rows, each four times: without a fault, with a few of all faults, with many of all
faults, and with a third of the references swapped. Each kind is written by templates (_clean_rows),
faults are planted by _plant. `--real FILE` plants the same faults in rows of a data set of yours,
such as GSM8K, whose own faults then count as false alarms.

    python bench/known_faults_data.py [--real gsm8k.jsonl --problem question --reference answer
        --pattern '####\\s*(.+)']
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import _row
from _clean_rows import KINDS, PLAIN
from _plant import IMPLIED, PLANTERS, Planted, plant

ROWS = 300
FEW, MANY = 3, 12
NO_LETTERS = ("gold_unreadable", "answer_absent", "conflict")
"""Faults that letters as answers do not have: a letter stands everywhere."""


def plan_faults(kind: str, mix: str, rows: int) -> dict[str, int]:
    """How many of each fault."""
    if mix == "clean":
        return {}
    if mix == "swapped":
        return {"reference_foreign": rows // 3}
    skipped = NO_LETTERS if kind == "choice" else ()
    if kind == "division":
        skipped = ("gold_unreadable", "answer_absent", "reference_bare")
    count = FEW if mix == "few" else MANY
    return {fault: count for fault in PLANTERS if fault not in skipped}


def examine(planted: Planted, options: Sequence[str]) -> tuple[list[dict[str, Any]], float]:
    """The doctor's findings, by the command that a user types, and its wall seconds."""
    with tempfile.TemporaryDirectory(prefix="known-faults-") as folder:
        data, test = Path(folder, "data.jsonl"), Path(folder, "test.jsonl")
        _write(data, planted.rows)
        command = [sys.executable, "-m", "exprl", "doctor", "data", str(data), "--json", *options]
        for role, name in planted.columns.items():
            command += ["--column", f"{role}={name}"]
        if planted.test:
            _write(test, planted.test)
            command += ["--test", str(test)]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 3):
            raise SystemExit(done.stderr)
    return json.loads(done.stdout)["findings"], time.perf_counter() - start


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def score(planted: Planted, findings: Sequence[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    """By fault: planted, found, found as sure, and false alarms, also those that were sure."""
    counts: dict[str, Counter[str]] = {fault: Counter() for fault in PLANTERS}
    said: dict[tuple[int, str], bool] = {}
    for one in findings:
        key = (one["row"], one["fault"])
        said[key] = said.get(key, False) or one["sure"]
    for row, faults in planted.truth.items():
        for fault in faults:
            counts[fault]["planted"] += 1
            counts[fault]["found"] += (row, fault) in said
            hints = {fault, *IMPLIED.get(fault, ())}
            counts[fault]["named"] += any((row, one) in said for one in hints)
            counts[fault]["sure"] += said.get((row, fault), False)
    for (row, fault), sure in said.items():
        true = planted.truth.get(row, set())
        implied = set().union(*(IMPLIED.get(one, set()) for one in true))
        if fault in true | implied:
            continue
        mine = counts.setdefault(fault, Counter())
        mine["false"] += 1
        mine["false_sure"] += sure
    return counts


def score_rows(planted: Planted, findings: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """Rows: those with a fault, those of them that are to be changed, and changes of clean rows."""
    changed = {one["row"] for one in findings if one["proposal"] != "keep"}
    named = {one["row"] for one in findings}
    faulty = {row for row, faults in planted.truth.items() if faults}
    return Counter(
        rows=len(planted.rows),
        faulty=len(faulty),
        named=len(named & faulty),
        changed=len(changed & faulty),
        clean_named=len(named - faulty),
        clean_changed=len(changed - faulty),
    )


def make_sets(arguments: argparse.Namespace) -> Iterator[tuple[str, Planted, Sequence[str]]]:
    """Every data set: its name, its rows, and options of the doctor."""
    if arguments.real:
        rows, columns = _read_real(arguments)
        for mix in ("clean", "few", "many", "swapped"):
            name = f"{Path(arguments.real).parent.name} {mix}"
            yield name, plant(rows, columns, plan_faults("real", mix, len(rows)), seed=1), ()
        return
    for number, (kind, (make, columns, options)) in enumerate(KINDS.items()):
        for mix in ("clean", "few", "many", "swapped"):
            rows = _keep_different(make(random.Random(f"{kind} {mix}"), 3 * ROWS))[:ROWS]
            plan = plan_faults(kind, mix, ROWS)
            yield f"{kind} {mix}", plant(rows, columns, plan, seed=number), options


def _keep_different(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with numbers of their own: two with the same numbers may ask the same by chance."""
    by_numbers = {tuple(sorted(re.findall(r"\d+", str(row)))): row for row in rows}
    return list(by_numbers.values())


def _read_real(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows with the answer in a column of its own."""
    rows = []
    for line in Path(arguments.real).read_text(encoding="utf-8").splitlines()[: arguments.limit]:
        row = json.loads(line)
        solution = row[arguments.reference]
        found = re.search(arguments.pattern, solution)
        if found:
            problem = row[arguments.problem]
            answer = found.group(1).strip()
            rows.append({"problem": problem, "solution": solution, "answer": answer})
    return rows, PLAIN


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", help="jsonl file of real rows")
    parser.add_argument("--problem", default="question")
    parser.add_argument("--reference", default="answer")
    parser.add_argument("--pattern", default=r"####\s*(.+)")
    parser.add_argument("--limit", type=int, default=1000)
    arguments = parser.parse_args()
    total: dict[str, Counter[str]] = {}
    over_all: Counter[str] = Counter()
    rows = []
    print(f"{'data set':<20} rows faulty named changed | clean rows: named changed")
    for name, planted, options in make_sets(arguments):
        findings, wall = examine(planted, options)
        by_fault, by_row = score(planted, findings), score_rows(planted, findings)
        for fault, counts in by_fault.items():
            total.setdefault(fault, Counter()).update(counts)
        over_all += by_row
        print(
            f"{name:<20} {by_row['rows']:>4} {by_row['faulty']:>6} {by_row['named']:>5}"
            f" {by_row['changed']:>7} | {by_row['clean_named']:>17} {by_row['clean_changed']:>7}",
            flush=True,
        )
        extra = {"rows": by_row, "faults": {k: v for k, v in by_fault.items() if v}}
        rows.append(_row.Row(name, [wall], extra=extra))
    print_total(total, over_all)
    _row.append("known_faults_data", rows)


def print_total(total: Mapping[str, Counter[str]], over_all: Counter[str]) -> None:
    """Recall and precision of each fault over all data sets."""
    print(
        f"\n{'fault':<20} planted named found  sure | false alarms, sure | precision, of the sure"
    )
    for fault, counts in total.items():
        if not counts["planted"] and not counts["false"]:
            continue
        found, false = counts["found"], counts["false"]
        sure, false_sure = counts["sure"], counts["false_sure"]
        print(
            f"{fault:<20} {counts['planted']:>7} {_share(counts['named'], counts['planted'])}"
            f" {_share(found, counts['planted'])}"
            f" {_share(sure, counts['planted'])} | {false:>12} {false_sure:>5} |"
            f" {_share(found, found + false):>9} {_share(sure, sure + false_sure):>12}"
        )
    clean = over_all["rows"] - over_all["faulty"]
    print(
        f"\nof {over_all['faulty']} faulty rows {over_all['named']} are named and"
        f" {over_all['changed']} changed; of {clean} clean rows {over_all['clean_named']} are named"
        f" and {over_all['clean_changed']} changed"
    )


def _share(part: int, whole: int) -> str:
    return f"{part / whole:5.3f}" if whole else "    -"


if __name__ == "__main__":
    main()
