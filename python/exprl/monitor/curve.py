"""A picture of a run: reward and right answers over the training steps."""

from __future__ import annotations

from pathlib import Path

from exprl.errors import DataError
from exprl.monitor.metrics_log import FILE_NAME, read_metrics
from exprl.run.starts import read_first_step

_CURVES = (
    ("reward/mean", "mean reward", "tab:blue"),
    ("reward/correct_rate", "pass@1 of the step's rollouts", "tab:green"),
    ("reward/unsolved", "problems never solved so far", "tab:red"),
)


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
    for name, label, colour in _CURVES:
        known = [row for row in rows if row.get(name) is not None]
        points = [(row["step"] - first + 1, row[name]) for row in known]
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
