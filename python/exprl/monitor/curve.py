"""A picture of a run: reward and right answers over the training steps; lines that coincide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from exprl.errors import DataError
from exprl.monitor.metrics_log import FILE_NAME, read_metrics
from exprl.run.starts import read_first_step
from exprl.types import Float64Array

THIN = 1.5
"""Points."""
_CURVES = (
    ("reward/mean", "mean reward", "tab:blue"),
    ("reward/correct_rate", "pass@1 of the step's rollouts", "tab:green"),
    ("reward/unsolved", "problems never solved so far", "tab:red"),
)


def choose_widths(curves: Sequence[Float64Array], span: float = 1.0) -> list[float]:
    """Line widths by which curves that lie on one line can be told apart.

    A curve is drawn wider for each later one that covers it at most of its points, so that it shows
    on both sides.

    Args:
        curves: in the order in which they are drawn; [points], NaN where there is none.
        span: of the axis; curves nearer than a hundredth of it lie on one line.

    >>> flat, rising = np.zeros(4), np.arange(4.0)
    >>> choose_widths([flat, flat, rising, flat])
    [7.5, 4.5, 1.5, 1.5]
    """
    return [
        THIN + 3.0 * sum(_covers(later, curve, span) for later in curves[i + 1 :])
        for i, curve in enumerate(curves)
    ]


def _covers(later: Float64Array, curve: Float64Array, span: float) -> bool:
    if len(later) != len(curve):
        return False
    near = np.abs(later - curve) < span / 100.0  # not so where one has no value
    known = int(np.isfinite(curve).sum())
    return known > 0 and 2 * int(near.sum()) >= known


def draw_curve(run_dir: Path, out_png: Path) -> None:
    """Draw reward, pass@1 of the batch and the share of unsolved problems over the steps.

    Raises:
        DataError: the run has no metrics yet.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows, first = read_metrics(run_dir), read_first_step(run_dir)
    figure = Figure(figsize=(7.0, 3.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    steps = [row["step"] - first + 1 for row in rows]
    drawn = [curve for curve in _CURVES if any(row.get(curve[0]) is not None for row in rows)]
    values = [[row.get(name) for row in rows] for name, _, _ in drawn]
    curves = [np.array(column, dtype=np.float64) for column in values]
    widths = choose_widths(curves)
    for (_, label, colour), curve, width in zip(drawn, curves, widths, strict=True):
        marker = "o" if len(rows) < 50 else None
        axes.plot(
            steps, curve, color=colour, label=label, linewidth=width, marker=marker, ms=width + 1.5
        )
    if not axes.lines:
        raise DataError(f"{run_dir / FILE_NAME}: holds nothing to draw")
    axes.set(xlabel="training step", ylabel="share", ylim=(-0.02, 1.02))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(out_png)
