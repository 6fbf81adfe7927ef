"""Everything measured: RUN/metrics.jsonl, the trackers that were asked for, the terminal."""

from __future__ import annotations

import importlib
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text

from exprl import config, files
from exprl.errors import ConfigError, DataError

FILE_NAME = "metrics.jsonl"
_TENSORBOARD = "tensorboard.summary.writer.event_file_writer"

Tracker = Callable[[int, Mapping[str, float]], None]
"""Takes a step and its finite metrics."""


class MetricsLog:
    """One JSON object per step, appended to RUN/metrics.jsonl; and the trackers.

    A line is `{"step": 12, "time_s": 1781000000.0, "reward/mean": 0.5, ...}`: `step` counts from
    0, `time_s` is seconds since the Unix epoch, null stands for a number that does not exist
    (NaN, infinity).
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


class Progress:
    """What a run does, on stderr: a row per step, and a bar for the phase it is in.

    Without a terminal (a log file) rows only, each with the names of its values.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal
        self._rows = 0
        self._phase: tuple[str, TaskID] | None = None
        self._bar = Bar(
            TextColumn("{task.description:>8}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._live,
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def start(self, done: int, total: int) -> None:
        """Say where a run goes on that has `done` of its `total` steps already."""
        if done >= total:
            self.note(f"the run has its {done} steps; to go on: train.steps={done + 1} or more")
        elif done:
            self.note(f"goes on after step {done}")

    def phase(self, name: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done in the phase `name` (sample, judge, ...)."""
        if self._phase is None or self._phase[0] != name:
            self._end_phase()
            self._phase = (name, self._bar.add_task(name, total=total))
        self._bar.update(self._phase[1], completed=done, total=total)

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Print the row of a finished step.

        Args:
            step: steps done, 1..total.
            metrics: of this step, by the names of metrics.jsonl; what is absent shows as `-`.
        """
        self._end_phase()
        cells = [(title, width, *show(metrics)) for title, width, show in _COLUMNS]
        if not self._live:
            words = [f"{title} {text}" for title, _, text, _ in cells if text != "-"]
            self._print(Text(f"step {step}/{total}  " + "  ".join(words)))
            return
        if self._rows % _HEADER_EVERY == 0:
            titles = "".join(f"{title:>{width}}" for title, width, *_ in cells)
            self._print(Text(f"{'step':>9}{titles}", style="bold"))
        self._rows += 1
        row = Text(f"{f'{step}/{total}':>9}")
        for _, width, text, style in cells:
            row.append(f"{text:>{width}}", style=style)
        self._print(row)

    def note(self, text: str) -> None:
        """Print a line between the rows."""
        self._end_phase()
        self._print(Text(text, style="cyan"))

    def warn(self, text: str) -> None:
        """Print a warning between the rows."""
        self._print(Text(f"warning: {text}", style="yellow"))

    def _end_phase(self) -> None:
        if self._phase is not None:
            self._bar.remove_task(self._phase[1])
            self._phase = None

    def _print(self, text: Text) -> None:
        self._console.print(text, no_wrap=True, overflow="ignore", crop=self._live)


_HEADER_EVERY = 20

Cell = tuple[str, str]
"""Text and rich style."""


def _number(name: str, form: str, style: str = "") -> Callable[[Mapping[str, float]], Cell]:
    def show(metrics: Mapping[str, float]) -> Cell:
        value = metrics.get(name, math.nan)
        return (format(value, form), style) if math.isfinite(value) else ("-", "dim")

    return show


def _missing(metrics: Mapping[str, float]) -> Cell:
    text, style = _number("judge/missing_rate", ".1%")(metrics)
    return text, "bold red" if metrics.get("judge/missing_rate", 0.0) > 0.0 else style


def _tokens_per_s(metrics: Mapping[str, float]) -> Cell:
    seconds = metrics.get("time/rollout_s", 0.0)
    speed = metrics.get("rollout/tokens", math.nan) / seconds if seconds > 0.0 else math.nan
    return _number("speed", ",.0f")({"speed": speed})


def _phases(metrics: Mapping[str, float]) -> Cell:
    names = ("rollout", "judge", "train", "sync")
    cells = [_number(f"time/{name}_s", ".1f")(metrics)[0] for name in names]
    return "-" if set(cells) == {"-"} else "+".join(cells), "dim"


# Title, width on a terminal, value. `solved`: share of the step's rollouts that the verifier calls
# right; `unsolved`: share of the training problems that no rollout has solved so far; `seconds`:
# sampling + what the judge took beyond it + training + weight sync.
_COLUMNS: tuple[tuple[str, int, Callable[[Mapping[str, float]], Cell]], ...] = (
    ("reward", 8, _number("reward/mean", ".3f", "bold cyan")),
    ("solved", 8, _number("reward/correct_rate", ".1%", "green")),
    ("unsolved", 10, _number("reward/unsolved", ".1%")),
    ("judged", 8, _number("judge/requests", ",.0f")),
    ("missing", 9, _missing),
    ("length", 8, _number("rollout/length_mean", ",.0f")),
    ("KL", 9, _number("policy/kl", ".4f")),
    ("entropy", 9, _number("policy/entropy", ".3f")),
    ("tokens/s", 10, _tokens_per_s),
    ("seconds", 20, _phases),
)

_CURVES = (
    ("reward/mean", "mean reward", "tab:blue"),
    ("reward/correct_rate", "pass@1 of the step's rollouts", "tab:green"),
    ("reward/unsolved", "problems never solved so far", "tab:red"),
)


def read(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of RUN/metrics.jsonl; a last line that a kill cut short is left out.

    Raises:
        DataError: the file is missing, or a line before the last is broken.
    """
    path = run_dir / FILE_NAME
    if not path.exists():
        raise DataError(f"{path}: no such file; {run_dir} is not the folder of a run")
    return files.read_jsonl(path)


def curve(run_dir: Path, out_png: Path) -> None:
    """Draw reward, pass@1 of the batch and the share of unsolved problems over the steps.

    Raises:
        DataError: the run has no metrics yet.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = read(run_dir)
    figure = Figure(figsize=(7.0, 3.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, label, colour in _CURVES:
        points = [(row["step"] + 1, row[name]) for row in rows if row.get(name) is not None]
        if points:
            marker = "o" if len(points) < 50 else None
            axes.plot(*zip(*points, strict=True), color=colour, label=label, marker=marker, ms=3)
    if not axes.lines:
        raise DataError(f"{run_dir / FILE_NAME}: holds nothing to draw")
    axes.set(xlabel="training step", ylabel="share", ylim=(-0.02, 1.02))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(out_png)


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
