"""RUN/metrics.jsonl, and the trackers that were asked for."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from exprl import config, files
from exprl.errors import DataError
from exprl.monitor.samples import sample_table
from exprl.monitor.trackers import Settings, open_trackers
from exprl.types import Float64Array, Problem, Scored

FILE_NAME = "metrics.jsonl"
EVALUATIONS_FILE = "eval.jsonl"


class MetricsLog:
    """One JSON object per step, appended to RUN/metrics.jsonl; and the trackers.

    A line is `{"step": 12, "time_s": 1781000000.0, "reward/mean": 0.5, ...}`: `step` counts from
    1 (from 0 in a run of an earlier exprl), `time_s` is seconds since the Unix epoch, null stands
    for a number that does not exist (NaN, infinity).
    """

    def __init__(
        self,
        run_dir: Path,
        logging: config.Logging,
        resume_step: int,
        settings: Settings | None = None,
        evaluated: Collection[int] = (),
    ) -> None:
        """Open the log, without the steps that a resumed run will do again.

        Args:
            run_dir: created if missing.
            logging: which trackers to feed.
            resume_step: first step that will be written; lines from it on are dropped.
            settings: of the whole run by dotted key, for the trackers.
            evaluated: steps whose evaluations the trackers have from an earlier start.

        Raises:
            ConfigError: a tracker's package is not installed, or its service refuses the run.
            DataError: a line of an earlier metrics.jsonl is broken.
        """
        self._path = run_dir / FILE_NAME
        earlier = files.read_jsonl(self._path) if self._path.exists() else []
        files.write_jsonl(self._path, [row for row in earlier if row["step"] < resume_step])
        self._samples, self._evaluated = logging.samples, evaluated
        self._last_step = resume_step - 1
        self._trackers = open_trackers(run_dir, logging, settings or {}, resume_step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the metrics of a step, and tell the trackers."""
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        row = {name: finite.get(name) for name in metrics}
        files.append_jsonl(self._path, {"step": step, "time_s": round(time.time(), 3)} | row)
        self._last_step = step
        for tracker in self._trackers:
            tracker.log(step, finite)

    def write_samples(
        self,
        step: int,
        scored: Sequence[Scored],
        advantages: Sequence[Float64Array],
        problems: Sequence[Problem],
    ) -> None:
        """Show some rollouts of a step in the trackers (logging.samples)."""
        if not (self._trackers and self._samples and scored):
            return
        by_id = {problem.id: problem for problem in problems}
        table = sample_table(scored, advantages, by_id, self._samples)
        for tracker in self._trackers:
            tracker.table(step, table)

    def write_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tell the trackers of an evaluation after `step` steps; RUN/eval.jsonl has it already."""
        if step in self._evaluated:
            return
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        for tracker in self._trackers:
            tracker.log(step, finite)

    def add_report(self, page: Path) -> None:
        """Give the trackers the HTML report of the run, at its last step.

        It holds texts of rollouts, so logging.samples = 0 keeps it on this machine, too.
        """
        for tracker in self._trackers if self._samples else ():
            tracker.report(self._last_step, page)

    def close(self) -> None:
        """Finish the trackers."""
        while self._trackers:
            self._trackers.pop().close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of RUN/metrics.jsonl; a last line that a kill cut short is left out.

    Raises:
        DataError: the file is missing, or a line before the last is broken.
    """
    path = run_dir / FILE_NAME
    if not path.exists():
        raise DataError(f"{path}: no such file; {run_dir} is not the folder of a run")
    return files.read_jsonl(path)
