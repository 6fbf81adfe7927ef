"""What every benchmark shares: repeated measurements, a table, one JSON row per line of it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
DEVICES = Path("/dev")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table: repeated measurements of one thing.

    values: one per repeat, in `unit`.
    note: what a reader must know, such as a subset that was scaled up.
    extra: more columns of the JSON row (sizes, ratios, settings).
    """

    name: str
    values: Sequence[float]
    unit: str = "s"
    note: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return float(np.median(self.values))

    def percentile(self, percent: float) -> float:
        return float(np.percentile(self.values, percent))


def seconds(work: Callable[[], object], repeats: int, warmups: int = 1) -> list[float]:
    """Wall seconds of each of `repeats` calls, after `warmups` that are not counted."""
    for _ in range(warmups):
        work()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return taken


def report(bench: str, rows: Sequence[Row], packages: Sequence[str] = ()) -> None:
    """Print the table and append its rows to results/<bench>.jsonl."""
    widest = max(len(row.name) for row in rows)
    print(f"{'':{widest}}  {'median':>10} {'p20':>10} {'p80':>10}  n")
    for row in rows:
        numbers = (row.median, row.percentile(20), row.percentile(80))
        columns = " ".join(f"{number:>10.4g}" for number in numbers)
        note = f"  ({row.note})" if row.note else ""
        print(f"{row.name:{widest}}  {columns}  {len(row.values)} {row.unit}{note}")
    append(bench, rows, packages)


def append(
    bench: str, rows: Sequence[Row], packages: Sequence[str] = (), path: Path | None = None
) -> None:
    """Append the rows to `path`, or to results/<bench>.jsonl."""
    about = {"bench": bench, **machine(packages)}
    path = path or RESULTS / f"{bench}.jsonl"
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(about | as_json(row), ensure_ascii=False) + "\n")


def as_json(row: Row) -> dict[str, Any]:
    """A row without values, of something that could not run, has null for its numbers."""
    return {
        "name": row.name,
        "unit": row.unit,
        "median": row.median if row.values else None,
        "p20": row.percentile(20) if row.values else None,
        "p80": row.percentile(80) if row.values else None,
        "repeats": len(row.values),
        "note": row.note,
        **row.extra,
    }


def machine(packages: Sequence[str] = ()) -> dict[str, Any]:
    """What the numbers depend on: processor, cores, load, versions, date, commit."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1min": round(os.getloadavg()[0], 2),
        "versions": {
            "python": platform.python_version(),
            **{name: package_version(name) for name in ("exprl", "numpy", *packages)},
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
    }


def has_gpu() -> bool:
    """Whether a device file of an NVIDIA GPU is here; a container may see only /dev/nvidia3.

    For what must be known before torch and Triton are imported.
    """
    return any(DEVICES.glob("nvidia[0-9]*"))


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit that is checked out, with `+` if files differ from it; None outside of git."""
    try:
        git = ["git", "-C", str(Path(__file__).parent)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, check=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.decode().strip() + ("+" if changed.stdout else "")
