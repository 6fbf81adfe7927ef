"""The trackers of [logging]: TensorBoard, Weights & Biases and trackio, by one interface.

Each takes numbers, the settings of the run, tables of sample rollouts, and the HTML report.
"""

from __future__ import annotations

import importlib
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

from exprl import config, files
from exprl.errors import ConfigError

_TENSORBOARD = "tensorboard.summary.writer.event_file_writer"
SAMPLES = "samples"
REPORT = "report"

Settings = Mapping[str, Any]
"""Of the whole run, by dotted key (config.flatten)."""


class Table(NamedTuple):
    """Texts of models among others: whoever shows them escapes them."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


class Tracker(Protocol):
    """Where a run is watched."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add finite numbers at a step; further ones of the same step may follow."""

    def table(self, step: int, table: Table) -> None:
        """Show sample rollouts of a step."""

    def report(self, step: int, page: Path) -> None:
        """Show RUN/report.html, or say where it lies."""

    def close(self) -> None:
        """Write what is not written yet."""


def open_trackers(
    run_dir: Path, logging: config.Logging, settings: Settings, resume_step: int
) -> list[Tracker]:
    """Those that were asked for.

    Args:
        resume_step: the first step that will be logged.

    Raises:
        ConfigError: a package is not installed, or its service refuses the run.
    """
    trackers: list[Tracker] = []
    if logging.tensorboard:
        _required(_TENSORBOARD, "tensorboard")
        trackers.append(TensorBoard(run_dir / "tensorboard", settings, resume_step))
    if logging.wandb_project is not None:
        package = _required("wandb", "wandb")
        name = _recorded_name(run_dir, "wandb")
        own = {"id": name, "dir": str(run_dir), "allow_val_change": True}
        trackers.append(Dashboard(package, logging.wandb_project, name, settings, own))
    if logging.trackio_project is not None:
        package = _required("trackio", "trackio")
        name = _recorded_name(run_dir, "trackio")
        trackers.append(Dashboard(package, logging.trackio_project, name, settings, {}))
    return trackers


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


class TensorBoard:
    """Event files: scalars, the settings as hyperparameters and as text, rollouts as a table."""

    def __init__(self, folder: Path, settings: Settings, resume_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._writer = EventFileWriter(str(folder))
        # A session that starts at a step makes TensorBoard drop what came after it.
        start = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(wall_time=time.time(), step=resume_step, session_log=start))
        values = {key: _plain(value) for key, value in settings.items()}
        self._add(0, hparams_pb(values, trial_id=str(folder.absolute())))
        rows = [(key, _as_code(str(value))) for key, value in values.items()]
        self._text(0, "config", Table(("setting", "value"), rows))

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write scalars."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=x) for name, x in numbers.items()]
        self._add(step, Summary(value=values))

    def table(self, step: int, table: Table) -> None:
        """Write a table of texts. Its cells are Markdown, which could load pictures: so as code."""
        rows = [tuple(_as_code(cell) for cell in row) for row in table.rows]
        self._text(step, SAMPLES, Table(table.columns, rows))

    def report(self, step: int, page: Path) -> None:
        """Say where the report lies: TensorBoard shows no HTML."""
        self._text(step, REPORT, Table(("file",), [(_as_code(str(page.absolute())),)]))

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()

    def _text(self, step: int, tag: str, table: Table) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.plugins.text.metadata import create_summary_metadata

        rows = [table.columns, *table.rows]
        tensor = TensorProto(
            dtype="DT_STRING",
            string_val=[cell.encode() for row in rows for cell in row],
        )
        for size in (len(rows), len(table.columns)):
            tensor.tensor_shape.dim.add(size=size)
        metadata = create_summary_metadata(display_name="", description="")
        self._add(step, Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=metadata)]))

    def _add(self, step: int, summary: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()


class Dashboard:
    """W&B or trackio, which share their interface."""

    def __init__(
        self,
        package: ModuleType,
        project: str,
        name: str,
        settings: Settings,
        own: Mapping[str, Any],
    ) -> None:
        """Begin a run, or go on with that of this name.

        Args:
            own: arguments of `init` that only this package has.
        """
        self._package: Any = package
        try:
            self._package.init(
                project=project, name=name, resume="allow", config=dict(settings), **own
            )
        except Exception as error:  # not logged in, no network: before the first step
            key = f"logging.{package.__name__}_project"
            raise ConfigError(
                f"{key} = {project!r}: {package.__name__} does not begin the run: {error}"
            ) from error

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log numbers."""
        self._package.log(dict(numbers), step=step)

    def table(self, step: int, table: Table) -> None:
        """Log a table, which the package shows with its texts escaped."""
        own = self._package.Table(columns=list(table.columns), data=[list(r) for r in table.rows])
        self._package.log({SAMPLES: own}, step=step)

    def report(self, step: int, page: Path) -> None:
        """Log the report, without references: they stay on this machine."""
        from exprl.monitor.report.page import write_report

        with tempfile.TemporaryDirectory() as folder:
            shown = Path(folder) / page.name
            write_report([page.parent], shown, references=False)
            self._package.log({REPORT: self._package.Html(str(shown))}, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._package.finish()


def _recorded_name(run_dir: Path, package: str) -> str:
    """The name by which the tracker knows the run, so that a start goes on with the earlier one."""
    path = run_dir / f"{package}_run"
    if not path.exists():
        files.write_text(path, f"{run_dir.name}-{os.urandom(4).hex()}")
    return path.read_text()


def _plain(value: Any) -> bool | int | float | str:
    """A setting as TensorBoard takes it."""
    if isinstance(value, bool | int | float | str):
        return value
    return "none" if value is None else json.dumps(value)


def _as_code(text: str) -> str:
    """Text as a code block of Markdown: shown as it stands, whatever it holds."""
    return "\n".join(f"    {line}" for line in text.splitlines() or [""])


def _required(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError:
        key = "tensorboard" if package == "tensorboard" else f"{package}_project"
        raise ConfigError(
            f"logging.{key} needs a package that is not installed: pip install {package}"
        ) from None
