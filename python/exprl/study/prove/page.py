"""The page of a pilot: one HTML file that needs no network and runs no script."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from markupsafe import Markup

from exprl import files
from exprl.monitor.report import page as report
from exprl.monitor.report.summary import SPARK, percent
from exprl.monitor.report.templates import open_templates
from exprl.study.prove.output import COST_HEADINGS, describe_cost, mean
from exprl.study.prove.result import Result
from exprl.study.prove.verdict import MEANS

PAGE = "prove.html"
HERE = Path(__file__).parent
WIDTH, ROW = 640.0, 40.0
"""Of the drawing of the effects, in its own units."""
LABELS = 130.0
"""Left of the effects' axis."""

HEADLINE = {
    "yes": "Training against these references helps, on this data and within this budget.",
    "no": "Training against these references does not help, on this data and within this budget.",
    "cannot tell": "This pilot is too small for a yes or a no.",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """An effect in the drawing: its centre line, and the ends of its interval."""

    control: str
    y: float
    low: float
    high: float
    value: float
    text: str


def write_page(result: Result, out: Path) -> None:
    """Write the page, whole or not at all."""
    files.write_text(out, render(result))


def render(result: Result) -> str:
    """The page. Everything that does not come from this folder is escaped by Jinja."""
    environment = open_templates(HERE)
    environment.filters |= {
        "percent": percent,
        "when": report.show_time,
        "cost": describe_cost,
        "mean": mean,
        "level": lambda share: f"{share:.2%}",
        "spark": partial(
            draw_curve, top=np.nanmax([0.0, *(v for arm in result.arms for v in arm.solved)])
        ),
        "last": lambda values: values[-1] if values else float("nan"),
    }
    look = (Path(report.__file__).parent / "look.css").read_text(encoding="utf-8")
    bars, ticks = draw_effects(result)
    return environment.get_template("prove.html").render(
        result=result,
        headline=HEADLINE[result.verdict.answer],
        means=MEANS,
        policy=report.security_policy([]),
        look=Markup(look),
        now=time.time(),
        bars=bars,
        ticks=ticks,
        height=ROW * len(bars) + ROW,
        width=WIDTH,
        labels=LABELS,
        spark=SPARK,
        headings=COST_HEADINGS,
        settings=json.dumps(result.plan.to_json()["settings"], indent=2, ensure_ascii=False),
    )


def draw_curve(values: Sequence[float], top: float) -> str:
    """The points of a polyline from 0 to `top`, which all arms share; empty without numbers."""
    width, height = SPARK
    known = [(i, value) for i, value in enumerate(values) if np.isfinite(value)]
    across = width / max(1, len(values) - 1)
    return " ".join(
        f"{i * across:.1f},{height - 2.0 - (height - 4.0) * value / (top or 1.0):.1f}"
        for i, value in known
    )


def draw_effects(result: Result) -> tuple[list[Bar], list[tuple[float, str, str]]]:
    """The effects as bars, and the lines across them: place, label and class."""
    effects, least = result.verdict.effects, result.plan.least_effect
    ends = [0.0, least, *(one.low for one in effects), *(one.high for one in effects)]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0

    def place(value: float) -> float:
        return LABELS + 10.0 + (WIDTH - LABELS - 30.0) * (value - low) / span

    bars = [
        Bar(
            one.control,
            ROW * (i + 0.7),
            place(one.low),
            place(one.high),
            place(one.value),
            f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})",
        )
        for i, one in enumerate(effects)
    ]
    ticks = [(place(value), f"{value:+.2f}", "tick") for value in _ticks(low, high)]
    return bars, [*ticks, (place(0.0), "", "zero"), (place(least), "", "least")]


def _ticks(low: float, high: float) -> Sequence[float]:
    """Some round values between two."""
    wide = high - low
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if wide / s <= 6 or s == 1.0)
    first = int(np.ceil(low / step))
    return [i * step for i in range(first, int(np.floor(high / step)) + 1)]
