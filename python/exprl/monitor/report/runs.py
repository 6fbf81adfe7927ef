"""Run folders, to what a report shows of them; what a run lacks is said, and stops nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exprl import config, files
from exprl.errors import ConfigError
from exprl.monitor.alarms import NAMES, find_alarms
from exprl.monitor.metrics_log import EVALUATIONS_FILE, read_metrics
from exprl.run.starts import read_first_step, read_starts
from exprl.types import Float64Array


@dataclass(frozen=True, slots=True)
class Episode:
    """Steps in a row that raised one alarm.

    first, last: steps, from 1.
    message, remedy: what was seen at the first of them, and what to do; empty where the run's
        settings cannot be read.
    """

    name: str
    first: int
    last: int
    message: str = ""
    remedy: str = ""

    @property
    def steps(self) -> str:
        """For readers.

        >>> Episode("missing", 3, 5).steps, Episode("missing", 3, 3).steps
        ('steps 3 to 5', 'step 3')
        """
        if self.first == self.last:
            return f"step {self.first}"
        return f"steps {self.first} to {self.last}"


@dataclass(frozen=True, slots=True)
class Run:
    """One run as a report shows it.

    name: short, and unlike those of the other runs in the report.
    first_step: what the run itself calls its first step, in its files of rollouts: 1, or 0.
    rows: of metrics.jsonl, each with its `step`, counted from 1 also in runs of an earlier exprl.
    settings: dotted keys of config.toml; empty where there is none.
    config: None where config.toml is missing, or of another exprl whose settings differ.
    notes: what is missing or cannot be read.
    """

    path: Path
    name: str
    first_step: int
    rows: Sequence[Mapping[str, Any]]
    evaluations: Sequence[Mapping[str, Any]]
    starts: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    config: config.Config | None
    notes: tuple[str, ...]

    @property
    def steps(self) -> list[int]:
        """Numbers of the steps, from 1."""
        return [row["step"] for row in self.rows]

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics, in the order in which they came."""
        names = dict.fromkeys(name for row in self.rows for name in row)
        return [name for name in names if name not in ("step", "time_s")]

    def values(self, metric: str) -> Float64Array:
        """[rows] of one metric; NaN where it has no number."""
        found = [row.get(metric) for row in self.rows]
        return np.array([math.nan if x is None else x for x in found], dtype=np.float64)

    def total(self, metric: str) -> float:
        """Its sum over the steps; NaN where no step has it."""
        values = self.values(metric)
        return float(np.nansum(values)) if np.isfinite(values).any() else math.nan


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read what the folders hold, apart from their rollouts.

    Raises:
        DataError: one is not the folder of a run, or its metrics.jsonl is broken.
    """
    return [read_run(path, name) for path, name in zip(folders, name_runs(folders), strict=True)]


def read_run(path: Path, name: str) -> Run:
    """Read one run."""
    notes: list[str] = []
    rows, first = read_metrics(path), read_first_step(path)
    rows = [row | {"step": row["step"] - first + 1} for row in rows]
    evaluations = path / EVALUATIONS_FILE
    cfg, settings = _read_settings(path, notes)
    return Run(
        path=path,
        name=name,
        first_step=first,
        rows=rows,
        evaluations=files.read_jsonl(evaluations) if evaluations.exists() else [],
        starts=read_starts(path),
        settings=settings,
        config=cfg,
        notes=tuple(notes),
    )


def name_runs(folders: Sequence[Path]) -> list[str]:
    """The ends of the paths that tell them apart.

    >>> name_runs([Path("/runs/a/seed0"), Path("/runs/b/seed0")])
    ['a/seed0', 'b/seed0']
    >>> name_runs([Path("/runs/a")])
    ['a']
    """
    parts = [path.resolve().parts for path in folders]
    for length in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{path} ({i})" for i, path in enumerate(folders, 1)]


def find_episodes(run: Run) -> list[Episode]:
    """The alarms of a run: each stretch of steps, in the order in which they began."""
    found = []
    for name in NAMES:
        raised = run.values(f"alarm/{name}") > 0
        edges = np.flatnonzero(np.diff(np.concatenate(([False], raised, [False])).astype(int)))
        for begin, end in edges.reshape(-1, 2):
            message, remedy = _say_alarm(run, name, int(begin))
            found.append(Episode(name, run.steps[begin], run.steps[end - 1], message, remedy))
    return sorted(found, key=lambda episode: episode.first)


def _say_alarm(run: Run, name: str, row: int) -> tuple[str, str]:
    """The words of an alarm at the row where it begins: the ones that the run printed."""
    if run.config is None:
        return "", ""
    rows = run.rows[: row + 1]
    cfg = run.config
    for alarm in find_alarms(rows, cfg.alarms, cfg.advantage, None, cfg.reward.steps):
        if alarm.name == name:
            return alarm.message, alarm.remedy
    return "", ""


def _read_settings(path: Path, notes: list[str]) -> tuple[config.Config | None, Mapping[str, Any]]:
    file = path / "config.toml"
    if not file.exists():
        notes.append("There is no config.toml, so that settings are not shown.")
        return None, {}
    try:
        cfg = config.load(file)
        return cfg, config.flatten(cfg)
    except ConfigError as error:
        notes.append(
            "config.toml does not fit this version of exprl, so that it is shown as it stands,"
            f" without its defaults: {error}"
        )
    try:
        return None, dict(config.leaves(config.read(file)))
    except ConfigError:
        return None, {}
