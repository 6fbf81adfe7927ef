"""The figures of docs/project/paper.md, as SVG that comes out the same for the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from exprl.monitor.curve import choose_widths
from exprl.study.plots import make_figure
from exprl.types import Float64Array
from paper.cells import STARTS
from paper.rows import Row

COLOURS = dict(zip(STARTS, [f"C{i}" for i in range(10)], strict=False))
MAIN = ("base", "sft", "grpo", "distill", "outcome", "delta")
CENTERING = ("delta", "end", "group", "uncentered")
PANELS = (
    ("unsolved", "problems never solved in this stage"),
    ("right", "right rollouts"),
    ("entropy", "entropy, nats per token"),
    ("length", "tokens per rollout"),
)


def pass_at_k(rows: Sequence[Row], path: Path) -> None:
    """Mean pass@k over seeds after each stage; the band is from the lowest to the highest seed."""
    picture = make_figure(9.0, 3.8)
    for axes, stage, title in zip(
        picture.subplots(1, 2, sharey=True),
        ("stage1", "stage2"),
        ("after Stage I", "after Stage II (sparse GRPO)"),
        strict=True,
    ):
        curves = _by_start(rows, MAIN, partial(_curve, stage=stage))
        _bands(axes, [int(k) for k in rows[0][stage]["pass_at"]] if rows else [], curves)
        axes.set_xscale("log", base=2)
        axes.set(title=title, xlabel="k", ylim=(-0.02, 1.02))
        axes.grid(alpha=0.3)
    picture.axes[0].set_ylabel("pass@k")
    if picture.axes[0].lines:
        picture.axes[0].legend(frameon=False, fontsize="small")
    save(picture, path)


def dynamics(rows: Sequence[Row], path: Path) -> None:
    """What happened in training, step by step through both stages."""
    picture = make_figure(9.0, 6.0)
    for axes, (name, title) in zip(picture.subplots(2, 2).flat, PANELS, strict=True):
        curves = _by_start(rows, MAIN, partial(_steps, name=name))
        _bands(axes, None, curves)
        first = max((row["stage1"]["steps"] for row in rows), default=0)
        axes.axvline(first + 0.5, color="grey", linestyle="--", linewidth=0.8)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
    if picture.axes[1].lines:
        picture.axes[1].legend(frameon=False, fontsize="small")
    save(picture, path)


def centering(rows: Sequence[Row], path: Path) -> None:
    """Right rollouts by step of Stage I under each way of centering."""
    picture = make_figure(5.0, 3.6)
    axes = picture.subplots()
    _bands(axes, None, _by_start(rows, CENTERING, _right))
    axes.set(xlabel="step of Stage I", ylabel="right rollouts", ylim=(-0.02, 1.02))
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(frameon=False, fontsize="small")
    save(picture, path)


def calibration(judge: Sequence[Row], path: Path) -> None:
    """Grades of right and of wrong solutions, by judge and condition."""
    names = list(dict.fromkeys(row["judge"] for row in judge))
    if not names:
        return
    columns = len(judge) // len(names)
    picture = make_figure(3.0 * columns, 2.6 * len(names))
    grid = picture.subplots(len(names), columns, squeeze=False, sharey=True)
    for axes, row in zip(grid.flat, judge, strict=True):
        for offset, truth, colour in ((-0.2, "right", "tab:green"), (0.2, "wrong", "tab:red")):
            counts = np.array(row[truth], dtype=np.float64)
            shares = counts / max(1.0, counts.sum())
            axes.bar(np.arange(1, 6) + offset, shares, 0.4, label=truth, color=colour)
        axes.set_ylim(0.0, 1.02)
    for axes, row in zip(grid[0], judge, strict=False):
        axes.set_title(f"reference: {row['condition']}")
    for axes, name in zip(grid[:, 0], names, strict=True):
        axes.set_ylabel(f"{name}\nshare of solutions", fontsize="small")
    for axes in grid[-1]:
        axes.set_xlabel("grade")
    grid[0][0].legend(frameon=False, fontsize="small")
    save(picture, path)


def _by_start(rows: Sequence[Row], starts: Sequence[str], values: Any) -> dict[str, Float64Array]:
    """[seeds, points] of the starts that have rows; null is NaN."""
    curves = {}
    for start in starts:
        mine = [values(row) for row in rows if row["start"] == start]
        if mine and all(len(one) for one in mine):
            curve = np.array(mine, dtype=np.float64)
            if not np.isnan(curve).all():
                curves[start] = curve
    return curves


def _curve(row: Row, stage: str) -> list[float]:
    return [point[0] for point in row[stage]["pass_at"].values()]


def _right(row: Row) -> list[float]:
    values: list[float] = row["stage1"]["dynamics"]["right"]
    return values


def _steps(row: Row, name: str) -> list[float | None]:
    """Both stages end to end; a start without Stage I, or without rollouts in it, has a gap."""
    second = row["stage2"]["dynamics"][name]
    first = row["stage1"]["dynamics"][name] or [None] * len(second)
    return [*first, *second]


def _bands(axes: Any, x: Sequence[int] | None, curves: Mapping[str, Float64Array]) -> None:
    """The means over seeds, and the ranges of the seeds; x counts from 1 where it is None."""
    middles = [values.mean(axis=0) for values in curves.values()]
    known = np.concatenate([np.zeros(1), *middles])
    widths = choose_widths(middles, float(np.nanmax(known) - np.nanmin(known)) or 1.0)
    for (start, values), middle, width in zip(curves.items(), middles, widths, strict=True):
        colour, places = COLOURS[start], x or np.arange(1, len(middle) + 1)
        axes.plot(places, middle, color=colour, label=STARTS[start].title, linewidth=width)
        low, high = values.min(axis=0), values.max(axis=0)
        axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)


def save(picture: Any, path: Path) -> None:
    """Write an SVG that has no date and no random ids in it."""
    with matplotlib.rc_context({"svg.hashsalt": path.stem}):
        picture.savefig(path, metadata={"Date": None})
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("".join(f"{line.rstrip()}\n" for line in lines), encoding="utf-8")
