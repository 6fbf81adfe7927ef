"""What `exprl doctor data` prints: a table of faults, or JSON."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from exprl.study.doctor.examination import Examination
from exprl.study.doctor.findings import FAULTS, MEANINGS, Fault, Finding

NAMED = 3
"""Rows that the table names for each fault."""


def show(examination: Examination, *, as_json: bool) -> None:
    """Print the table for a reader, or JSON for a program."""
    if as_json:
        print(json.dumps(_as_json(examination)))
        return
    console = Console()
    by_fault = _by_fault(examination)
    console.print(f"{examination.path}: {examination.rows} rows", markup=False)
    if not by_fault:
        console.print("no faults found")
        return
    table = Table("fault", "rows", "sure", "meaning", "first rows")
    for fault, findings in by_fault.items():
        rows = [str(one.row) for one in findings]
        more = " ..." if len(rows) > NAMED else ""
        table.add_row(
            fault,
            str(len(rows)),
            str(sum(one.sure for one in findings)),
            MEANINGS[fault],
            ", ".join(rows[:NAMED]) + more,
        )
    console.print(table)
    for fault, findings in by_fault.items():
        console.print(f"{fault}: row {findings[0].row}: {escape(findings[0].reason)}")


def _by_fault(examination: Examination) -> dict[Fault, list[Finding]]:
    found: dict[Fault, list[Finding]] = defaultdict(list)
    for one in examination.findings:
        found[one.fault].append(one)
    return {fault: found[fault] for fault in FAULTS if fault in found}


def _as_json(examination: Examination) -> dict[str, object]:
    return {
        "data": examination.path,
        "rows": examination.rows,
        "faults": {
            fault: {"rows": len(found), "sure": sum(one.sure for one in found)}
            for fault, found in _by_fault(examination).items()
        },
        "findings": [asdict(one) for one in examination.findings],
    }
