"""What a run does, on the terminal: a line per step, and bars for the run and its phases."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from exprl.monitor import step_line

HEADER_EVERY = 20
SETTLED_S = 0.5
"""What is done within so many seconds of a bar's start was done before: no rate is taken of it."""


class Progress:
    """What a run does, on stderr: a line per step, and bars for the run and the phase it is in.

    A line is as long as the terminal is wide at most. Without a terminal (a pipe, a log file) there
    are lines only, each with the names of its values, of at most 80 characters (or $COLUMNS).
    """

    def __init__(self, console: Console | None = None) -> None:
        # Colours in a log file may be asked for ($FORCE_COLOR); bars that redraw themselves not.
        self._console = console or Console(
            stderr=True, highlight=False, force_interactive=None if sys.stderr.isatty() else False
        )
        self._live = self._console.is_interactive
        self._columns: list[step_line.Column] = []
        self._rows = 0
        self._phases: dict[int | None, tuple[str, TaskID]] = {}
        self._run: TaskID | None = None
        self._run_seconds = 0.0
        self._lock = threading.RLock()  # a signal handler notes, too
        self._bar = BarColumn()
        self._bars = Bars(
            TextColumn("{task.description:>8}"),
            self._bar,
            MofNCompleteColumn(),
            _Rate(),
            _Left(),
            console=self._console,
            transient=True,
            disable=not self._live,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def start(self, done: int, total: int) -> None:
        """Say where a run goes on that has `done` of its `total` steps already."""
        if done >= total:
            self.note(f"the run has its {done} steps; to go on: train.steps={done + 1} or more")
            return
        if done:
            self.note(f"goes on after step {done}")
        self._run = self._begin("run", done, total)

    def phase(self, name: str, done: int, total: int, step: int | None = None) -> None:
        """Show that `done` of `total` are done in the phase `name` (sample, judge, ...).

        Args:
            step: of the steps that are sampled ahead, which: each has a bar of its own. Their
                threads may call this at the same time.
        """
        with self._lock:
            if step not in self._phases or self._phases[step][0] != name:
                self._end_phase(step)
                title = name if step is None else f"{name} {step}"
                self._phases[step] = (name, self._begin(title, done, total))
            self._advance(self._phases[step][1], done, total)

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Print the line of a finished step.

        Args:
            step: steps done, 1..total.
            metrics: of this step, by the names of metrics.jsonl; what is absent shows as `-`.
        """
        with self._lock:
            self._end_phase(None)
            self._end_phase(step)
            if self._run is not None:
                # Not what evaluations take: the first one would make every step seem as long.
                self._run_seconds += metrics.get("time/step_s", 0.0)
                self._advance(self._run, step, total, self._run_seconds)
        if not self._live:
            width = self._console.width
            self._print_line(step_line.plain_line(step, total, metrics, width))
            return
        columns = step_line.choose_columns(self._console.width, total)
        if self._rows % HEADER_EVERY == 0 or columns != self._columns:
            self._print_line(step_line.header(columns, total))
            self._columns, self._rows = columns, 0
        self._rows += 1
        self._print_line(step_line.row(columns, step, total, metrics))

    def note(self, text: str) -> None:
        """Print a line between those of the steps; on a terminal it is wrapped at words."""
        with self._lock:
            self._end_phase(None)
        self._print_words(Text(text, style="cyan"))

    def warn(self, text: str) -> None:
        """Print a warning between the lines of the steps."""
        self._print_words(Text(f"warning: {text}", style="yellow"))

    def _begin(self, title: str, done: int, total: int) -> TaskID:
        # Beside the bar stand title, counts, rate and time left.
        self._bar.bar_width = max(4, min(30, self._console.width - 50))
        return self._bars.add_task(title, total=total, completed=done, pace=Pace(done))

    def _advance(self, bar: TaskID, done: int, total: int, seconds: float | None = None) -> None:
        """Move a bar; `seconds` is the time that its rate counts, None = all since its start."""
        task = next(task for task in self._bars.tasks if task.id == bar)
        at = task.elapsed or 0.0
        early = at < SETTLED_S and seconds is None
        begun = done if early else task.fields["pace"].begun
        pace = Pace(begun, at if seconds is None else seconds, at)
        self._bars.update(bar, completed=done, total=total, pace=pace)

    def _end_phase(self, step: int | None) -> None:
        if step in self._phases:
            self._bars.remove_task(self._phases.pop(step)[1])

    def _print_line(self, text: Text) -> None:
        self._console.print(text, no_wrap=True, overflow="ignore", crop=self._live)

    def _print_words(self, text: Text) -> None:
        self._console.print(text, soft_wrap=not self._live)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a bar moves.

    begun: what was done when its time began to count.
    seconds: its time so far, up to the last move.
    at: seconds from the bar's start to that move.

    >>> pace = Pace(begun=2, seconds=5.0, at=5.0)
    >>> pace.rate(done=12), pace.seconds_left(done=12, total=20, elapsed=6.0)
    (2.0, 3.0)
    """

    begun: float
    seconds: float = 0.0
    at: float = 0.0

    def rate(self, done: float) -> float | None:
        """How many a second; None before that can be told."""
        moved = done - self.begun
        return moved / self.seconds if self.seconds > 0 and moved > 0 else None

    def seconds_left(self, done: float, total: float | None, elapsed: float) -> float | None:
        """Until all is done at this rate; None before that can be told."""
        rate = self.rate(done)
        if rate is None or total is None:
            return None
        return max(0.0, (total - done) / rate - (elapsed - self.at))


class _Rate(ProgressColumn):
    """`4.2/s`, or `13.0s each` where one takes longer than a second."""

    def render(self, task: Task) -> Text:
        rate = task.fields["pace"].rate(task.completed)
        if rate is None:
            return Text("-", style="dim")
        text = f"{rate:,.1f}/s" if rate >= 1.0 else f"{step_line.format_seconds(1 / rate)} each"
        return Text(text, style="dim", no_wrap=True)


class _Left(ProgressColumn):
    """`1m48s left`."""

    def render(self, task: Task) -> Text:
        pace: Pace = task.fields["pace"]
        left = pace.seconds_left(task.completed, task.total, task.elapsed or 0.0)
        text = "-" if left is None else f"{step_line.format_seconds(left)} left"
        return Text(text, style="cyan", no_wrap=True)
