"""The line of a finished step: which numbers it shows, as many as the terminal is wide."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rich.text import Text

Metrics = Mapping[str, float]
Cell = tuple[str, str]
"""Text and rich style."""


class Column(NamedTuple):
    """A number of the line.

    width: on a terminal, with the space before it.
    rank: 1 is shown on the narrowest terminal, the highest on the widest only.
    """

    title: str
    width: int
    rank: int
    show: Callable[[Metrics], Cell]


def plain_line(step: int, total: int, metrics: Metrics, width: int) -> Text:
    """A step with the names of its numbers, for a file: as many as `width` characters hold."""
    line = Text(f"step {step}/{total}")
    words = {c.title: f"  {c.title} {text}" for c in COLUMNS if (text := c.show(metrics)[0]) != "-"}
    # Short values get the room of longer ones, so that the lines of a run have the same names.
    widths = {title: max(len(word), len(title) + 7) for title, word in words.items()}
    for title in _choose(widths, width - len(line)):
        line.append(words[title])
    return line


def choose_columns(width: int, total: int) -> list[Column]:
    """The columns that a terminal of `width` characters holds, beside that of the step."""
    widths = {c.title: c.width for c in COLUMNS}
    chosen = _choose(widths, width - _step_width(total))
    return [c for c in COLUMNS if c.title in chosen]


def header(columns: Sequence[Column], total: int) -> Text:
    """The titles of the columns."""
    titles = "".join(f"{c.title:>{c.width}}" for c in columns)
    return Text(f"{'step':>{_step_width(total)}}{titles}", style="bold")


def row(columns: Sequence[Column], step: int, total: int, metrics: Metrics) -> Text:
    """A step under the titles of `header`; what is absent shows as `-`."""
    line = Text(f"{f'{step}/{total}':>{_step_width(total)}}")
    for column in columns:
        text, style = column.show(metrics)
        line.append(f"{text:>{column.width}}", style=style)
    return line


def format_seconds(seconds: float) -> str:
    """A duration in at most seven characters, up to 99 hours.

    >>> format_seconds(3.84), format_seconds(125), format_seconds(7300)
    ('3.8s', '2m05s', '2h01m')
    """
    if seconds < 99.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"


def _choose(widths: Mapping[str, int], room: int) -> list[str]:
    """The titles that fit, in the order of the line: by rank, up to the first that does not."""
    chosen = []
    for column in sorted(COLUMNS, key=lambda c: c.rank):
        if column.title not in widths:
            continue
        room -= widths[column.title]
        if room < 0:
            break
        chosen.append(column.title)
    return [c.title for c in COLUMNS if c.title in chosen]


def _step_width(total: int) -> int:
    return max(len("step"), len(f"{total}/{total}"))


def _number(name: str, form: str, style: str = "") -> Callable[[Metrics], Cell]:
    def show(metrics: Metrics) -> Cell:
        value = metrics.get(name, math.nan)
        return (format(value, form), style) if math.isfinite(value) else ("-", "dim")

    return show


def _seconds(phase: str) -> Callable[[Metrics], Cell]:
    def show(metrics: Metrics) -> Cell:
        value = metrics.get(f"time/{phase}_s", math.nan)
        return format_seconds(value) if math.isfinite(value) else "-", "dim"

    return show


def _missing(metrics: Metrics) -> Cell:
    text, style = _number("judge/missing_rate", ".1%")(metrics)
    return text, "bold red" if metrics.get("judge/missing_rate", 0.0) > 0.0 else style


def _tokens_per_s(metrics: Metrics) -> Cell:
    seconds = metrics.get("time/rollout_s", 0.0)
    speed = metrics.get("rollout/tokens", math.nan) / seconds if seconds > 0.0 else math.nan
    return _number("speed", ",.0f")({"speed": speed})


# docs/guides/reading-a-run.md explains each of them.
COLUMNS: tuple[Column, ...] = (
    Column("reward", 7, 1, _number("reward/mean", ".3f", "bold cyan")),
    Column("solved", 8, 2, _number("reward/correct_rate", ".1%", "green")),
    Column("unsolved", 9, 8, _number("reward/unsolved", ".1%")),
    Column("requests", 9, 10, _number("judge/requests", ",.0f")),
    Column("missing", 8, 3, _missing),
    Column("equal", 6, 9, _number("reward/zero_variance_groups", ",.0f")),
    Column("length", 7, 5, _number("rollout/length_mean", ",.0f")),
    Column("KL", 8, 6, _number("policy/kl", ".4f")),
    Column("entropy", 8, 7, _number("policy/entropy", ".3f")),
    Column("tokens/s", 9, 11, _tokens_per_s),
    Column("sample", 8, 12, _seconds("rollout")),
    Column("judge", 8, 13, _seconds("judge")),
    Column("train", 8, 14, _seconds("train")),
    Column("sync", 7, 15, _seconds("sync")),
    Column("time", 8, 4, _seconds("step")),
)
