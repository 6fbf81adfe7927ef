"""Pictures of what was measured. Each function draws onto axes, or writes one PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exprl.evaluate.estimates import Rate
from exprl.evaluate.pass_at_k import Curve, Evaluation
from exprl.monitor.curve import THIN, choose_widths
from exprl.study.calibrate import Calibration
from exprl.study.continuations import Continued

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def say_nothing(axes: Axes, why: str) -> None:
    """Write in the middle of empty axes why they are empty."""
    axes.text(0.5, 0.5, f"nothing was measured:\n{why}", ha="center", transform=axes.transAxes)


def require_package() -> None:
    """Find out before the work that its picture cannot be drawn.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")


def make_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(made)
    return made


def draw_curve(axes: Axes, label: str, curve: Curve, width: float = THIN) -> None:
    """A rate over k with its interval as a band; k where no problem has k samples is left out."""
    known = np.flatnonzero(curve.problems)
    ks = known + 1
    [line] = axes.plot(
        ks,
        curve.values[known],
        label=label,
        linewidth=width,
        marker="o" if len(ks) < 20 else None,
        ms=width + 1.5,
    )
    axes.fill_between(
        ks, curve.low[known], curve.high[known], color=line.get_color(), alpha=0.15, linewidth=0
    )


def draw_rates(axes: Axes, curves: Mapping[str, Curve], ylabel: str) -> None:
    """Several curves on one pair of axes, k on a logarithmic scale."""
    from matplotlib.ticker import StrMethodFormatter

    widths = choose_widths([curve.values for curve in curves.values()])
    for (label, curve), width in zip(curves.items(), widths, strict=True):
        draw_curve(axes, label, curve, width)
    if any(curve.problems.any() for curve in curves.values()):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        say_nothing(axes, "no problem has a sample that counts")
    axes.set(xlabel="k", ylabel=ylabel, ylim=(-0.02, 1.02))
    axes.grid(alpha=0.3)
    if curves:
        axes.legend(frameon=False, fontsize="small")


def plot_pass_at_k(evaluations: Sequence[tuple[str, Evaluation]], path: Path) -> None:
    """Write pass@k, and majority vote where answers were compared, of several models as a PNG."""
    passed = {name: Curve.of(e.pass_values()) for name, e in evaluations}
    voted = {name: e.majority_values() for name, e in evaluations}
    majority = {name: Curve.of(values) for name, values in voted.items() if values is not None}
    picture = make_figure(9.0 if majority else 5.0, 3.8)
    panels = picture.subplots(1, 2 if majority else 1, squeeze=False)[0]
    counts = {f"{len(e.outcomes):,} problems, n = {e.samples}" for _, e in evaluations}
    picture.suptitle("; ".join(sorted(counts)), fontsize="small")
    draw_rates(panels[0], passed, "pass@k")
    if majority:
        draw_rates(panels[1], majority, "maj@k (majority vote)")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path)


def plot_calibration(
    calibrations: Sequence[Calibration], continued: Continued | None, path: Path
) -> None:
    """Write grades by truth under each condition, and success of beginnings by grade, as a PNG."""
    columns = len(calibrations) + (1 if continued else 0)
    picture = make_figure(3.2 * columns, 3.2)
    panels = picture.subplots(1, columns, squeeze=False)[0]
    for axes, one in zip(panels, calibrations, strict=False):
        draw_grades(axes, one)
    if continued:
        draw_success(panels[-1], continued)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path)


def draw_grades(axes: Axes, calibration: Calibration) -> None:
    """Share of right and of wrong solutions at each grade; `-` is a missing grade."""
    places = np.arange(6)
    for offset, counts, missing, label, colour in (
        (-0.2, calibration.right, calibration.right_missing, "right", "tab:green"),
        (0.2, calibration.wrong, calibration.wrong_missing, "wrong", "tab:red"),
    ):
        heights = np.array([missing, *counts], dtype=np.float64)
        total = max(1.0, heights.sum())
        axes.bar(
            places + offset, heights / total, 0.4, label=f"{label} ({total:.0f})", color=colour
        )
    axes.set_xticks(places, ["-", "1", "2", "3", "4", "5"])
    rate = calibration.misplacement
    axes.set(
        xlabel="grade",
        ylabel="share of solutions",
        ylim=(0.0, 1.0),
        title=f"reference: {calibration.condition}\nmisplaced {_format_percent(rate.value)}",
    )
    axes.title.set_fontsize("small")
    axes.legend(frameon=False, fontsize="small")


def draw_success(axes: Axes, continued: Continued) -> None:
    """Success rate of the continuations by the grade of their beginning: points and means."""
    known = [b for b in continued.beginnings if b.grade is not None and b.n]
    spread = np.random.Generator(np.random.Philox(key=0)).uniform(-0.25, 0.25, len(known))
    grades = np.array([float(b.grade or 0) for b in known])
    axes.plot(grades + spread, [b.right / b.n for b in known], ".", ms=3, alpha=0.4)
    if not known:
        say_nothing(axes, "no beginning has a grade\nand a continuation")
    axes.plot(range(1, 6), continued.success_by_grade, "o-", color="tab:orange", label="mean")
    axes.set(
        xlabel="grade of the beginning",
        ylabel=f"success of {continued.continuations} continuations",
        xlim=(0.5, 5.5),
        ylim=(-0.02, 1.02),
        title=f"rank correlation {_format_number(continued.spearman.value)}",
    )
    axes.title.set_fontsize("small")
    axes.legend(frameon=False, fontsize="small")


def plot_behaviors(labels: Sequence[str], shares: Sequence[Mapping[str, Rate]], path: Path) -> None:
    """Write the shares of archetypes and behaviours of one or more models as a PNG."""
    names = list(shares[0])
    picture = make_figure(6.0, 0.28 * len(names) + 1.0)
    axes = picture.subplots()
    places = np.arange(len(names))
    height = 0.8 / len(shares)
    for i, (label, rates) in enumerate(zip(labels, shares, strict=True)):
        values = np.array([rates[name].value for name in names])
        ends = np.array([(rates[name].low, rates[name].high) for name in names])
        errors = np.abs(ends.T - values)
        named = f"{label}: nothing was annotated" if np.isnan(values).all() else label
        axes.barh(places + i * height, values, height, xerr=errors, label=named, ecolor="0.5")
    axes.set_yticks(places + height * (len(shares) - 1) / 2, names)
    axes.invert_yaxis()
    axes.set(xlabel="share of a problem's solutions", xlim=(0.0, 1.0))
    if all(np.isnan(rate.value) for rates in shares for rate in rates.values()):
        say_nothing(axes, "no solution was annotated")
    axes.legend(frameon=False, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path)


def _format_number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"


def _format_percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.1%}"
