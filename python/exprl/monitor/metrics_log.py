"""RUN/metrics.jsonl, and the trackers that were asked for."""

from __future__ import annotations

import importlib
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from exprl import config, files
from exprl.errors import ConfigError, DataError

FILE_NAME = "metrics.jsonl"
_TENSORBOARD = "tensorboard.summary.writer.event_file_writer"

Tracker = Callable[[int, Mapping[str, float]], None]
"""Takes a step and its finite metrics."""


class MetricsLog:
    """One JSON object per step, appended to RUN/metrics.jsonl; and the trackers.

    A line is `{"step": 12, "time_s": 1781000000.0, "reward/mean": 0.5, ...}`: `step` counts from
    1 (from 0 in a run of an earlier exprl), `time_s` is seconds since the Unix epoch, null stands
    for a number that does not exist (NaN, infinity).
    """

    def __init__(self, run_dir: Path, logging: config.Logging, resume_step: int) -> None:
        """Open the log, without the steps that a resumed run will do again.

        Args:
            run_dir: created if missing.
            logging: which trackers to feed.
            resume_step: first step that will be written; lines from it on are dropped.

        Raises:
            ConfigError: a tracker's package is not installed; says how to install it.
            DataError: a line of an earlier metrics.jsonl is broken.
        """
        self._path = run_dir / FILE_NAME
        earlier = files.read_jsonl(self._path) if self._path.exists() else []
        files.write_jsonl(self._path, [row for row in earlier if row["step"] < resume_step])
        self._closers: list[Callable[[], object]] = []
        self._trackers = self._open_trackers(run_dir, logging, resume_step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the metrics of a step, and tell the trackers."""
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        row = {name: finite.get(name) for name in metrics}
        files.append_jsonl(self._path, {"step": step, "time_s": round(time.time(), 3)} | row)
        for tracker in self._trackers:
            tracker(step, finite)

    def close(self) -> None:
        """Finish the trackers."""
        while self._closers:
            self._closers.pop()()

    def _open_trackers(
        self, run_dir: Path, logging: config.Logging, resume_step: int
    ) -> list[Tracker]:
        trackers: list[Tracker] = []
        if logging.tensorboard:
            trackers.append(self._tensorboard(run_dir, resume_step))
        for name, project in (
            ("wandb", logging.wandb_project),
            ("trackio", logging.trackio_project),
        ):
            if project is not None:
                trackers.append(self._tracker(name, project, run_dir))
        return trackers

    def _tensorboard(self, run_dir: Path, resume_step: int) -> Tracker:
        writer_module = _required(_TENSORBOARD, "tensorboard")
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary

        writer = writer_module.EventFileWriter(str(run_dir / "tensorboard"))
        # A session that starts at a step makes TensorBoard drop what came after it.
        start = SessionLog(status=SessionLog.START)
        writer.add_event(Event(wall_time=time.time(), step=resume_step, session_log=start))
        self._closers.append(writer.close)

        def write(step: int, metrics: Mapping[str, float]) -> None:
            values = [Summary.Value(tag=name, simple_value=x) for name, x in metrics.items()]
            event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
            writer.add_event(event)
            writer.flush()

        return write

    def _tracker(self, package: str, project: str, run_dir: Path) -> Tracker:
        """W&B or trackio, which share their interface; a resumed run goes on as the same run."""
        tracker: Any = _required(package, package)
        name_file = run_dir / f"{package}_run"
        if not name_file.exists():
            files.write_text(name_file, f"{run_dir.name}-{os.urandom(4).hex()}")
        name = name_file.read_text()
        keys = {"id": name, "dir": str(run_dir)} if package == "wandb" else {}
        tracker.init(project=project, name=name, resume="allow", **keys)
        self._closers.append(tracker.finish)
        return lambda step, metrics: tracker.log(dict(metrics), step=step)


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of RUN/metrics.jsonl; a last line that a kill cut short is left out.

    Raises:
        DataError: the file is missing, or a line before the last is broken.
    """
    path = run_dir / FILE_NAME
    if not path.exists():
        raise DataError(f"{path}: no such file; {run_dir} is not the folder of a run")
    return files.read_jsonl(path)


def check_trackers(logging: config.Logging) -> None:
    """Whether the trackers that were asked for can be imported.

    Raises:
        ConfigError: one is not installed; says how to install it.
    """
    if logging.tensorboard:
        _required(_TENSORBOARD, "tensorboard")
    for package in ("wandb", "trackio"):
        if getattr(logging, f"{package}_project") is not None:
            _required(package, package)


def _required(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError:
        key = "tensorboard" if package == "tensorboard" else f"{package}_project"
        raise ConfigError(
            f"logging.{key} needs a package that is not installed: pip install {package}"
        ) from None
