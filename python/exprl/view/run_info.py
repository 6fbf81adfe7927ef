"""What a run says of itself beside its rollouts: settings, metrics, progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from exprl import config, files
from exprl.errors import ExprlError
from exprl.monitor.metrics_log import FILE_NAME
from exprl.run.recorded import recorded_config

Metrics = Mapping[str, Any]
"""A row of metrics.jsonl."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A step in the chart; None where the metrics lack it."""

    step: int
    reward: float | None
    solved: float | None
    alarms: tuple[str, ...]
    recorded: bool


class RunInfo:
    """Reads RUN/config.toml once, and RUN/metrics.jsonl again whenever it has grown."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.name = run_dir.resolve().name
        self.cfg, self.cfg_error = _read_config(run_dir)
        self._seen: tuple[int, int] | None = None
        self._metrics: dict[int, Metrics] = {}

    @property
    def stamp(self) -> str:
        """Changes whenever a step is finished."""
        return "-".join(map(str, self._look() or ()))

    @property
    def planned(self) -> int | None:
        """Steps that the run was to have."""
        return self.cfg.train.steps if self.cfg else None

    @property
    def finished(self) -> int:
        """Steps that are done."""
        return len(self.metrics())

    def metrics(self) -> Mapping[int, Metrics]:
        """The rows of metrics.jsonl by step; none before the first step is done."""
        seen = self._look()
        if seen is not None and seen != self._seen:
            rows = files.read_jsonl(self.run_dir / FILE_NAME)
            self._metrics, self._seen = {row["step"]: row for row in rows}, seen
        return self._metrics

    def newest(self) -> datetime | None:
        """When the last step was done."""
        rows = self.metrics()
        return datetime.fromtimestamp(rows[max(rows)]["time_s"], UTC) if rows else None

    def bars(self, recorded: list[int]) -> list[Bar]:
        """The chart: every step that has metrics or rollouts."""
        rows, there = self.metrics(), set(recorded)
        return [_bar(step, rows.get(step, {}), step in there) for step in sorted({*rows, *there})]

    def _look(self) -> tuple[int, int] | None:
        try:
            found = (self.run_dir / FILE_NAME).stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_size


def alarms_of(row: Metrics) -> tuple[str, ...]:
    """The alarms that were raised in a step."""
    return tuple(
        name.removeprefix("alarm/")
        for name, value in row.items()
        if name.startswith("alarm/") and value
    )


def _bar(step: int, row: Metrics, recorded: bool) -> Bar:
    return Bar(
        step, row.get("reward/mean"), row.get("reward/correct_rate"), alarms_of(row), recorded
    )


def _read_config(run_dir: Path) -> tuple[config.Config | None, str]:
    """The run's settings, or why there are none: pages show the rollouts all the same."""
    try:
        cfg = recorded_config(run_dir)
    except ExprlError as error:
        return None, str(error)
    return cfg, "" if cfg else f"{run_dir / 'config.toml'} is missing"
