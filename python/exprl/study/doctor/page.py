"""What `exprl doctor data` prints: a table of faults, or JSON."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from exprl.study.doctor.examination import Examination
from exprl.study.doctor.findings import FAULTS, MEANINGS, Fault, Finding

NAMED = 3
"""Rows that the table names for each fault."""


def show(examination: Examination, patch: Path | None, *, as_json: bool) -> None:
    """Print the table for a reader, or JSON for a program."""
    if as_json:
        print(json.dumps(_as_json(examination)))
        return
    console = Console(highlight=False, markup=False, soft_wrap=True)
    by_fault = _by_fault(examination)
    console.print(f"{examination.source.path}: {_describe_columns(examination)}")
    if by_fault:
        console.print(_make_table(by_fault))
    for line in _summarize(examination, by_fault, patch):
        console.print(line)


def _make_table(by_fault: dict[Fault, list[Finding]]) -> Table:
    table = Table("fault", "rows", "sure", "what it means", "first rows")
    for column in table.columns[1:3]:
        column.justify = "right"
    for fault, findings in by_fault.items():
        rows = [str(one.row) for one in findings]
        more = " ..." if len(rows) > NAMED else ""
        sure = str(sum(one.sure for one in findings))
        first = ", ".join(rows[:NAMED]) + more
        table.add_row(fault, str(len(rows)), sure, MEANINGS[fault], first)
    return table


def _describe_columns(examination: Examination) -> str:
    named = [f"{role} = {name!r}" for role, name in examination.source.columns if name is not None]
    return f"{examination.rows} rows; {', '.join(named)}"


def _summarize(
    examination: Examination, by_fault: dict[Fault, list[Finding]], patch: Path | None
) -> Iterator[str]:
    """An example of each fault, what to know of the file, and what to do next."""
    for fault, findings in by_fault.items():
        first = max(findings, key=lambda one: one.sure)  # of equals the first
        yield f"{fault}, row {first.row}: {first.reason}"
    for remark in examination.remarks:
        yield f"to check: {remark}"
    if not by_fault:
        yield "no faults found"
        return
    proposals = Counter(one.proposal for one in examination.findings)
    yield (
        f"{examination.changed} of {examination.rows} rows should be dropped or mended;"
        f" {proposals['keep']} findings are only to be looked at"
    )
    if patch is None:
        yield "add --patch FILE to write the findings down, review them, and apply them"
    else:
        yield (
            f"wrote {patch}: review each proposal, then exprl doctor apply {patch} --out NEW_FILE"
        )


def _by_fault(examination: Examination) -> dict[Fault, list[Finding]]:
    found: dict[Fault, list[Finding]] = defaultdict(list)
    for one in examination.findings:
        found[one.fault].append(one)
    return {fault: found[fault] for fault in FAULTS if fault in found}


def _as_json(examination: Examination) -> dict[str, object]:
    return {
        "data": examination.source.path,
        "rows": examination.rows,
        "to_change": examination.changed,
        "columns": dict(examination.source.columns),
        "faults": {
            fault: {"rows": len(found), "sure": sum(one.sure for one in found)}
            for fault, found in _by_fault(examination).items()
        },
        "remarks": examination.remarks,
        "findings": [asdict(one) for one in examination.findings],
    }
