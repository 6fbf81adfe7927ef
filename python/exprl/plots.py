"""Pictures of what was measured. Each function draws onto axes, or writes one PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exprl.evaluate import Curve, Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(made)
    return made


def draw_curve(axes: Axes, label: str, curve: Curve) -> None:
    """A rate over k with its interval as a band; k where no problem has k samples is left out."""
    known = np.flatnonzero(curve.problems)
    ks = known + 1
    [line] = axes.plot(
        ks, curve.values[known], label=label, marker="o" if len(ks) < 20 else None, ms=3
    )
    axes.fill_between(
        ks, curve.low[known], curve.high[known], color=line.get_color(), alpha=0.15, linewidth=0
    )


def draw_rates(axes: Axes, curves: Mapping[str, Curve], ylabel: str) -> None:
    """Several curves on one pair of axes, k on a logarithmic scale."""
    from matplotlib.ticker import ScalarFormatter

    for label, curve in curves.items():
        draw_curve(axes, label, curve)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set(xlabel="k", ylabel=ylabel, ylim=(-0.02, 1.02))
    axes.grid(alpha=0.3)
    if curves:
        axes.legend(frameon=False, fontsize="small")


def pass_at_k(evaluations: Sequence[tuple[str, Evaluation]], path: Path) -> None:
    """Write pass@k, and majority vote where answers were compared, of several models as a PNG."""
    passed = {name: Curve.of(e.pass_values()) for name, e in evaluations}
    voted = {name: e.majority_values() for name, e in evaluations}
    majority = {name: Curve.of(values) for name, values in voted.items() if values is not None}
    picture = figure(9.0 if majority else 5.0, 3.8)
    panels = picture.subplots(1, 2 if majority else 1, squeeze=False)[0]
    draw_rates(panels[0], passed, "pass@k")
    if majority:
        draw_rates(panels[1], majority, "maj@k (majority vote)")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path)
