"""The charts of a report: which metrics they draw, what they say, and their data for report.js."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from exprl.monitor.curve import choose_widths
from exprl.monitor.report.runs import Episode, Run
from exprl.types import Float64Array

Form = Literal["number", "share", "count", "seconds"]
"""How an axis writes its values."""

CURVES = 8
"""Colours of look.css for curves; then they begin anew, with another dash."""
DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric of a chart.

    low, high: metrics of the band around it.
    level: of look.css's scale, for curves that are stacked shares of grades.
    """

    metric: str
    label: str
    low: str | None = None
    high: str | None = None
    level: int | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of one or several runs.

    says: what it shows, and how to read it.
    alarms: those that are about its metrics; the steps that raised them are marked in it.
    stacked: curves are parts of a whole; each run has a chart of its own.
    """

    title: str
    says: str
    curves: tuple[Curve, ...]
    form: Form = "number"
    alarms: tuple[str, ...] = ()
    stacked: bool = False
    log: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """Charts under one heading."""

    title: str
    charts: tuple[Chart, ...]


PASS_AT_K = Chart(
    "Held-out problems: pass@k",
    "How likely one of k samples of a problem is right, in the evaluations of the run; the bands"
    " are 95 % bootstrap intervals over the problems.",
    (),
    "share",
)

SECTIONS = (
    Section(
        "What it learns",
        (
            Chart(
                "Reward",
                "Mean score of a step's rollouts, from 0 to 1, and the mean score of their last"
                " steps.",
                (Curve("reward/mean", "mean"), Curve("reward/final", "last step")),
                alarms=("score_without_accuracy", "stalling", "disagreement"),
            ),
            Chart(
                "Right answers",
                "Share of a step's rollouts that the verifier calls right. It should follow the"
                " reward.",
                (Curve("reward/correct_rate", "right"),),
                "share",
                ("score_without_accuracy", "stalling", "disagreement"),
            ),
            PASS_AT_K,
            Chart(
                "Unsolved problems",
                "Share of the training problems that no rollout has solved so far.",
                (Curve("reward/unsolved", "unsolved"),),
                "share",
            ),
            Chart(
                "Grades",
                "What share of the judge's grades is 1, 2, 3, 4 or 5.",
                tuple(Curve(f"reward/hist_{i}", f"grade {i}", level=i) for i in range(1, 6)),
                "share",
                stacked=True,
            ),
            Chart(
                "Groups that teach nothing",
                "Problems of a step whose rollouts all have advantage 0, and those sampled in"
                " their place.",
                (
                    Curve("reward/zero_variance_groups", "equal"),
                    Curve("rollout/redrawn", "redrawn"),
                ),
                "count",
            ),
        ),
    ),
    Section(
        "What it writes",
        (
            Chart(
                "Length",
                "Tokens of a rollout: mean, with the band from the 10th to the 90th percentile.",
                (Curve("rollout/length_mean", "mean", "rollout/length_p10", "rollout/length_p90"),),
                "count",
                ("stalling", "missing_length"),
            ),
            Chart(
                "Cut and blank rollouts",
                "Share that ran into the length limit, and share that is empty or never stops"
                " thinking.",
                (
                    Curve("rollout/overlong_rate", "overlong"),
                    Curve("rollout/blank_rate", "blank"),
                    Curve("rollout/failed_rate", "failed in the engine"),
                ),
                "share",
                ("stalling",),
            ),
            Chart(
                "Steps",
                "Steps of a rollout, mean.",
                (Curve("steps/per_rollout", "steps"),),
                alarms=("delimiters",),
            ),
            Chart(
                "Rollouts of one step",
                "Their share. An advantage of kind delta teaches them nothing.",
                (Curve("steps/single_rate", "one step"),),
                "share",
                ("single_step",),
            ),
            Chart(
                "Grade by place",
                "Mean grade of the first, the middle and the last step of a rollout.",
                (
                    Curve("steps/grade_first", "first"),
                    Curve("steps/grade_middle", "middle"),
                    Curve("steps/grade_last", "last"),
                ),
            ),
            Chart(
                "Signs of a played judge",
                "How much of the reference's wording stands in rollouts, and what share of them"
                " speaks to the judge.",
                (
                    Curve("text/reference_overlap", "overlap with the reference"),
                    Curve("text/injection_rate", "speak to the judge"),
                ),
                "share",
                ("reference_overlap", "injection"),
            ),
        ),
    ),
    Section(
        "The policy",
        (
            Chart(
                "Entropy",
                "Uncertainty of the policy, in nats per token. Near 0 all attempts are alike.",
                (Curve("policy/entropy", "entropy"),),
            ),
            Chart(
                "KL",
                "Distance from the initial policy, in nats per token.",
                (Curve("policy/kl", "KL"),),
            ),
            Chart(
                "Gradient",
                "Norm of the gradient before it is clipped, mean over the optimizer steps.",
                (Curve("policy/grad_norm", "norm"),),
            ),
            Chart(
                "Clipped tokens",
                "Share of the tokens that the clip, or the cap of the importance weight, held"
                " back.",
                (
                    Curve("policy/clip_fraction", "clip"),
                    Curve("policy/capped", "importance cap"),
                ),
                "share",
            ),
            Chart(
                "What a teacher tells the policy",
                "How far the log-prob of a token changes when its prompt shows the hidden solution,"
                " in nats, mean over the tokens. Near 0, the teacher tells tokens apart no better"
                " than the policy.",
                (Curve("policy/teacher_gap", "gap"),),
            ),
            Chart("Loss", "Mean loss of the optimizer steps.", (Curve("policy/loss", "loss"),)),
            Chart(
                "Learning rate",
                "Of the last optimizer step.",
                (Curve("policy/lr", "learning rate"),),
            ),
            Chart(
                "Engine against trainer",
                "Mean difference of their log-probs: of the rollouts' tokens, and of one fixed row"
                " of tokens after each weight update.",
                (
                    Curve("sync/logp_gap", "rollouts"),
                    Curve("sync/probe_gap", "fixed row"),
                ),
                alarms=("logp_gap",),
                log=True,
            ),
            Chart(
                "Lag",
                "Optimizer steps by which the policy is ahead of the tokens that it trains on.",
                (Curve("lag/mean", "mean"), Curve("lag/max", "largest")),
            ),
        ),
    ),
    Section(
        "The judge",
        (
            Chart(
                "Missing and repaired grades",
                "Share of the rollouts without a grade, and share of the grades that only a"
                " second request, for the grade alone, gave.",
                (
                    Curve("judge/missing_rate", "missing"),
                    Curve("judge/repaired_rate", "repaired"),
                ),
                "share",
                ("missing", "missing_length", "over_context", "repaired"),
            ),
            Chart(
                "Requests",
                "Requests sent, grades that came from the ledger instead, and repeats.",
                (
                    Curve("judge/requests", "requests"),
                    Curve("judge/cached", "from the ledger"),
                    Curve("judge/retries", "retries"),
                    Curve("judge/reasks", "asked for the grade alone"),
                ),
                "count",
            ),
            Chart(
                "Tokens of the judge",
                "As its servers count them.",
                (
                    Curve("judge/prompt_tokens", "prompt"),
                    Curve("judge/completion_tokens", "reply"),
                ),
                "count",
            ),
            Chart(
                "Latency of the judge",
                "Seconds until a request is answered: median, and 95th percentile.",
                (
                    Curve("judge/latency_p50_s", "median"),
                    Curve("judge/latency_p95_s", "95th percentile"),
                ),
                "seconds",
            ),
        ),
    ),
    Section(
        "Time",
        (
            Chart(
                "Time by phase",
                "Seconds of a step. With rollout.ahead the phases overlap.",
                (
                    Curve("time/step_s", "whole step"),
                    Curve("time/rollout_s", "sampling"),
                    Curve("time/judge_s", "judging after it"),
                    Curve("time/train_s", "training"),
                    Curve("time/sync_s", "weight update"),
                ),
                "seconds",
            ),
            Chart(
                "Waiting",
                "Seconds in which the trainer waited for rollouts, and in which nothing was"
                " sampled.",
                (
                    Curve("time/trainer_wait_s", "trainer waits"),
                    Curve("time/engine_idle_s", "engine is idle"),
                ),
                "seconds",
            ),
            Chart(
                "Share of a step without work",
                "Of trainer and engines, mean over them. About one half without rollout.ahead.",
                (Curve("bubble", "bubble"),),
                "share",
            ),
            Chart(
                "Sampled tokens",
                "Tokens of a step's rollouts.",
                (Curve("rollout/tokens", "tokens"),),
                "count",
            ),
        ),
    ),
)


def choose_sections(runs: Sequence[Run]) -> list[Section]:
    """The sections with the charts that a run has numbers for; with several domains theirs, too."""
    sections = [*SECTIONS, Section("Domains", tuple(_domain_charts(runs)))]
    found = [replace(s, charts=tuple(c for c in s.charts if _has_data(c, runs))) for s in sections]
    return [section for section in found if section.charts]


def undrawn(runs: Sequence[Run]) -> list[str]:
    """The titles of the charts that no run has numbers for."""
    charts = [chart for section in SECTIONS for chart in section.charts]
    return [chart.title for chart in charts if not _has_data(chart, runs)]


def spread(charts: Sequence[Chart], runs: Sequence[Run]) -> Iterator[tuple[Chart, int | None]]:
    """Each chart; a stacked one for each run that has its numbers, with the run's place."""
    for chart in charts:
        if chart.stacked:
            yield from ((chart, i) for i, run in enumerate(runs) if _has_data(chart, [run]))
        else:
            yield chart, None


def draw_chart(
    chart: Chart,
    runs: Sequence[Run],
    episodes: Sequence[Sequence[Episode]],
    only: int | None = None,
) -> dict[str, Any]:
    """The data of a chart for report.js: curves with their colours, and steps with alarms.

    The curves of one run have colours of their own; with several runs each run has a colour, and
    each curve its dashes.

    Args:
        only: draw this run alone.
    """
    chosen = range(len(runs)) if only is None else (only,)
    find = _pass_curves if chart is PASS_AT_K else _metric_curves
    alarms = [
        {"run": i, "first": episode.first, "last": episode.last, "name": episode.name}
        for i in chosen
        for episode in episodes[i]
        if episode.name in chart.alarms
    ]
    curves = [
        _paint(curve, place, len(runs))
        for run in chosen
        for place, curve in enumerate(find(chart, run, runs[run], len(runs)))
    ]
    return {
        "form": chart.form,
        "log": chart.log,
        "stacked": chart.stacked,
        "curves": _widen(curves),
        "alarms": alarms,
    }


def draw_axes(run: Run) -> dict[str, list[float | None]]:
    """What can stand below the curves of a run: for each row its step, hours and sampled tokens.

    Hours count the steps alone, not evaluations and pauses.
    """
    hours = np.nancumsum(run.values("time/step_s")) / 3600.0
    return {
        "step": _plain(np.array(run.steps, dtype=np.float64)),
        "hours": _plain(hours),
        "tokens": _plain(np.nancumsum(run.values("rollout/tokens"))),
    }


def _metric_curves(chart: Chart, run: int, one: Run, runs: int) -> Iterator[dict[str, Any]]:
    for curve in chart.curves:
        values = one.values(curve.metric)
        if not np.isfinite(values).any():
            continue
        yield {
            "run": run,
            "name": curve.label,
            "y": _plain(values),
            "low": _plain(one.values(curve.low)) if curve.low else None,
            "high": _plain(one.values(curve.high)) if curve.high else None,
            "colour": f"level-{curve.level}" if curve.level else None,
        }


def _pass_curves(chart: Chart, run: int, one: Run, runs: int) -> Iterator[dict[str, Any]]:
    """One curve for each k; of several runs the smallest and the largest k only."""
    ks = sorted({int(k) for e in one.evaluations for k, point in e["pass_at"].items() if point})
    for k in ks if runs == 1 else sorted({*ks[:1], *ks[-1:]}):
        points = [(e["step"], e["pass_at"].get(str(k))) for e in one.evaluations]
        found = [(step, point) for step, point in points if point]
        yield {
            "run": run,
            "name": f"pass@{k}",
            "steps": [step for step, _ in found],
            **{
                name: _plain(np.array([point[key] for _, point in found]))
                for name, key in (("y", "value"), ("low", "low"), ("high", "high"))
            },
            "colour": None,
        }


def _paint(curve: dict[str, Any], place: int, runs: int) -> dict[str, Any]:
    """Colour and dashes: by the curve where there is one run, else by the run."""
    number, other = (place, place // CURVES) if runs == 1 else (curve["run"], place)
    colour = curve["colour"] or f"curve-{number % CURVES + 1}"
    return curve | {"colour": colour, "dash": DASHES[other % len(DASHES)]}


def _widen(curves: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give each curve a width, the larger the more later curves lie on it."""
    values = [np.array(curve["y"], dtype=np.float64) for curve in curves]
    known = [column[np.isfinite(column)] for column in values]
    highest = max((float(column.max()) for column in known if len(column)), default=0.0)
    lowest = min((float(column.min()) for column in known if len(column)), default=0.0)
    widths = choose_widths(values, (highest - min(0.0, lowest)) or 1.0)
    return [curve | {"width": width} for curve, width in zip(curves, widths, strict=True)]


def _domain_charts(runs: Sequence[Run]) -> Iterator[Chart]:
    """Curves for each domain, of the metrics that runs of several domains have."""
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    charts: tuple[tuple[str, str, str, Form], ...] = (
        ("score/", "Reward by domain", "Mean score of a domain's rollouts.", "number"),
        ("correct/", "Right answers by domain", "Share of its rollouts that are right.", "share"),
        ("missing/", "Missing grades by domain", "Share of its rollouts without one.", "share"),
        ("unsolved/", "Unsolved problems by domain", "Share of its problems.", "share"),
    )
    for start, title, says, form in charts:
        found = [name for name in names if name.startswith(start)]
        curves = tuple(Curve(name, name.removeprefix(start)) for name in found)
        yield Chart(title, says, curves, form)


def _has_data(chart: Chart, runs: Sequence[Run]) -> bool:
    if chart is PASS_AT_K:
        return any(run.evaluations for run in runs)
    return any(np.isfinite(run.values(c.metric)).any() for run in runs for c in chart.curves)


def _plain(values: Float64Array) -> list[float | None]:
    """Six digits of each; None where there is no number."""
    return [float(f"{x:.6g}") if math.isfinite(x) else None for x in values.tolist()]
