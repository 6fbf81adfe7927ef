"""What a run does, on the terminal: a row per step, and a bar for the phase it is in."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.text import Text


class Progress:
    """What a run does, on stderr: a row per step, and a bar for the phase it is in.

    Without a terminal (a log file) rows only, each with the names of its values.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal
        self._rows = 0
        self._phases: dict[int | None, tuple[str, TaskID]] = {}
        self._lock = threading.RLock()  # a signal handler notes, too
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
                self._phases[step] = (name, self._bar.add_task(title, total=total))
            self._bar.update(self._phases[step][1], completed=done, total=total)

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Print the row of a finished step.

        Args:
            step: steps done, 1..total.
            metrics: of this step, by the names of metrics.jsonl; what is absent shows as `-`.
        """
        with self._lock:
            self._end_phase(None)
            self._end_phase(step)
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
        with self._lock:
            self._end_phase(None)
        self._print(Text(text, style="cyan"))

    def warn(self, text: str) -> None:
        """Print a warning between the rows."""
        self._print(Text(f"warning: {text}", style="yellow"))

    def _end_phase(self, step: int | None) -> None:
        if step in self._phases:
            self._bar.remove_task(self._phases.pop(step)[1])

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


def _seconds(phase: str) -> Callable[[Mapping[str, float]], Cell]:
    def show(metrics: Mapping[str, float]) -> Cell:
        text, _ = _number(f"time/{phase}_s", ".1f")(metrics)
        return (text if text == "-" else f"{text}s"), "dim"

    return show


def _missing(metrics: Mapping[str, float]) -> Cell:
    text, style = _number("judge/missing_rate", ".1%")(metrics)
    return text, "bold red" if metrics.get("judge/missing_rate", 0.0) > 0.0 else style


def _tokens_per_s(metrics: Mapping[str, float]) -> Cell:
    seconds = metrics.get("time/rollout_s", 0.0)
    speed = metrics.get("rollout/tokens", math.nan) / seconds if seconds > 0.0 else math.nan
    return _number("speed", ",.0f")({"speed": speed})


# Title, width on a terminal, value. docs/guides/reading-a-run.md explains each of them.
_COLUMNS: tuple[tuple[str, int, Callable[[Mapping[str, float]], Cell]], ...] = (
    ("reward", 7, _number("reward/mean", ".3f", "bold cyan")),
    ("solved", 8, _number("reward/correct_rate", ".1%", "green")),
    ("unsolved", 9, _number("reward/unsolved", ".1%")),
    ("requests", 9, _number("judge/requests", ",.0f")),
    ("missing", 8, _missing),
    ("equal", 7, _number("reward/zero_variance_groups", ",.0f")),
    ("length", 8, _number("rollout/length_mean", ",.0f")),
    ("KL", 8, _number("policy/kl", ".4f")),
    ("entropy", 8, _number("policy/entropy", ".3f")),
    ("tokens/s", 9, _tokens_per_s),
    ("sample", 8, _seconds("rollout")),
    ("judge", 8, _seconds("judge")),
    ("train", 8, _seconds("train")),
    ("sync", 6, _seconds("sync")),
)
