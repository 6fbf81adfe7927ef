"""Runs in a few numbers: what stands above the charts, and the table of every metric below them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from exprl.monitor.metric_names import METRICS, line_of
from exprl.monitor.report.runs import Run
from exprl.types import Float64Array

SPARK = (100.0, 24.0)
"""Width and height of a sparkline."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A measure of a run at a glance.

    before: its first value; empty for what is counted over the whole run.
    spark: points of the lines of a sparkline, one string for each stretch without gaps.
    """

    title: str
    now: str
    before: str = ""
    extra: str = ""
    spark: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """A metric over a run: `lowest` and `highest` with the steps that had them first."""

    metric: str
    meaning: str
    first: str
    last: str
    lowest: str
    highest: str


def find_tiles(run: Run) -> list[Tile]:
    """What a reader wants to know first; measures that the run lacks are left out."""
    curves = (
        ("Reward", "reward/mean", number),
        ("Right answers", "reward/correct_rate", percent),
        ("Unsolved problems", "reward/unsolved", percent),
        ("Length, tokens", "rollout/length_mean", count),
        ("Entropy, nats", "policy/entropy", number),
        ("KL, nats", "policy/kl", number),
        ("Missing grades", "judge/missing_rate", percent),
        ("Loss", "policy/loss", number),
    )
    tiles = [_curve_tile(title, run.values(name), show) for title, name, show in curves]
    if tiles[0]:  # what is learned from references has a loss alone
        tiles.pop()
    tokens = run.total("judge/prompt_tokens") + run.total("judge/completion_tokens")
    totals = (
        ("Requests to the judge", count(run.total("judge/requests")), _cached(run)),
        ("Tokens of the judge", count(tokens), ""),
        ("Sampled tokens", count(run.total("rollout/tokens")), ""),
        ("Time of the steps", duration(run.total("time/step_s")), ""),
    )
    counted = [Tile(title, now, extra=extra) for title, now, extra in totals if now != "-"]
    return [tile for tile in (*tiles[:2], _pass_tile(run), *tiles[2:], *counted) if tile]


def find_spans(run: Run) -> Iterator[Span]:
    """Every metric of a run, in the order of the reference."""
    for name in sorted(run.metrics, key=_place):
        values = run.values(name)
        known = np.flatnonzero(np.isfinite(values))
        if len(known) == 0:
            continue
        low, high = (known[int(find(values[known]))] for find in (np.argmin, np.argmax))
        yield Span(
            name,
            METRICS.get(line_of(name) or "", ""),
            number(values[known[0]]),
            number(values[known[-1]]),
            f"{number(values[low])} (step {run.steps[low]})",
            f"{number(values[high])} (step {run.steps[high]})",
        )


def draw_spark(values: Float64Array) -> tuple[str, ...]:
    """The points of an SVG polyline for each stretch of numbers; none for a single number."""
    known = np.isfinite(values)
    if known.sum() < 2:
        return ()
    low, high = float(values[known].min()), float(values[known].max())
    width, height = SPARK
    x = np.linspace(0.0, width, len(values))
    share = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
    y = 2.0 + (height - 4.0) * (1.0 - share)
    gaps = np.flatnonzero(~known)
    stretches = np.split(np.arange(len(values)), gaps)
    lines = [[i for i in stretch.tolist() if known[i]] for stretch in stretches]
    return tuple(" ".join(f"{x[i]:.1f},{y[i]:.1f}" for i in line) for line in lines if line)


def number(value: float) -> str:
    """Four digits.

    >>> number(0.123456), number(1234567.0), number(3.0), number(0.00001234)
    ('0.1235', '1,234,567', '3', '1.234e-05')
    """
    if not math.isfinite(value):
        return "-"
    if value == int(value) or abs(value) >= 1000.0:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def signed(value: float | None) -> str:
    """An advantage.

    >>> signed(0.5), signed(-0.25), signed(0.0), signed(None)
    ('+0.50', '-0.25', '0', '-')
    """
    return "-" if value is None else f"{value:+.2f}" if value else "0"


def percent(value: float) -> str:
    """A share.

    >>> percent(0.1234)
    '12.3%'
    """
    return f"{value:.1%}" if math.isfinite(value) else "-"


def count(value: float) -> str:
    """A count, shortened where it is long.

    >>> count(1234.0), count(2.5e6), count(3.21e9), count(65.25)
    ('1,234', '2.50 M', '3.21 G', '65.2')
    """
    if not math.isfinite(value):
        return "-"
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:,.0f}" if value == int(value) or value >= 1000.0 else f"{value:.1f}"


def duration(seconds: float) -> str:
    """Seconds for readers.

    >>> duration(5.25), duration(125.0), duration(7384.0)
    ('5.2 s', '2 min 5 s', '2 h 3 min')
    """
    if not math.isfinite(seconds):
        return "-"
    if seconds < 60.0:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _curve_tile(title: str, values: Float64Array, show: Any) -> Tile | None:
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return None
    before = show(known[0]) if len(known) > 1 else ""
    return Tile(title, show(known[-1]), before, spark=draw_spark(values))


def _pass_tile(run: Run) -> Tile | None:
    """pass@1 of the last evaluation."""
    points = [e["pass_at"].get("1") for e in run.evaluations]
    points = [point for point in points if point]
    if not points:
        return None
    last, before = points[-1], percent(points[0]["value"]) if len(points) > 1 else ""
    interval = f"95 %: {percent(last['low'])} to {percent(last['high'])}"
    spark = draw_spark(np.array([point["value"] for point in points]))
    return Tile("Held-out pass@1", percent(last["value"]), before, interval, spark)


def _cached(run: Run) -> str:
    cached = run.total("judge/cached")
    return f"and {count(cached)} grades from the ledger" if cached > 0 else ""


def _place(metric: str) -> tuple[int, str]:
    names = list(METRICS)
    line = line_of(metric)
    return (names.index(line) if line else len(names), metric)


def evaluation_rows(runs: Sequence[Run]) -> list[Mapping[str, Any]]:
    """The evaluations of all runs, as rows of a table with one column for each k."""
    return [
        {
            "run": i,
            "step": evaluation["step"],
            "problems": evaluation.get("problems", len(evaluation.get("outcomes", ()))),
            "samples": evaluation["samples"],
            "pass_at": evaluation["pass_at"],
            "maj_at": evaluation.get("maj_at") or {},
            "overlong": evaluation.get("overlong_rate"),
            "failed": evaluation.get("failed"),
        }
        for i, run in enumerate(runs)
        for evaluation in run.evaluations
    ]
