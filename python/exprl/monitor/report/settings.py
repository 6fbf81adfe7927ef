"""The settings of runs as tables: what they were, what was changed, and where runs differ."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from exprl import config
from exprl.monitor.report.runs import Run

NO_DIFFERENCE = ("run_dir", "logging.")
"""Where a run lies and how it is watched does not make it another run."""

ABSENT = "(no such setting)"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting; `values` has one text for each run."""

    key: str
    meaning: str
    values: tuple[str, ...]
    changed: bool = False


def find_differences(runs: Sequence[Run]) -> list[Setting]:
    """The settings on which the runs differ."""
    keys = sorted({key for run in runs for key in run.settings})
    rows = [Setting(key, explain(key), _values(runs, key)) for key in keys]
    return [
        row for row in rows if len(set(row.values)) > 1 and not row.key.startswith(NO_DIFFERENCE)
    ]


def list_settings(run: Run) -> list[tuple[str, list[Setting]]]:
    """All settings of a run by section; those that differ from its method's preset are marked."""
    preset = config.defaults(run.config.method) if run.config else {}
    rows = [
        Setting(
            key,
            explain(key),
            (show_value(value),),
            changed=key in preset and preset[key] != value,
        )
        for key, value in run.settings.items()
    ]
    rows.sort(key=lambda row: "." in row.key)  # those without a section first
    return [
        (name, list(found))
        for name, found in groupby(rows, lambda row: row.key.rpartition(".")[0] or "run")
    ]


def explain(key: str) -> str:
    """What a setting means; empty for one that this exprl does not know."""
    try:
        return config.describe(key)
    except KeyError:
        return ""


def show_value(value: Any) -> str:
    """A value as TOML has it, apart from null; user and password of an address are left out.

    >>> show_value(True), show_value(None), show_value("http://me:secret@host/v1")
    ('true', 'none', 'http://***@host/v1')
    """
    text = value if isinstance(value, str) else "none" if value is None else json.dumps(value)
    return re.sub(r"//[^/@\s\"]+@", "//***@", text)


def _values(runs: Sequence[Run], key: str) -> tuple[str, ...]:
    return tuple(show_value(run.settings[key]) if key in run.settings else ABSENT for run in runs)
