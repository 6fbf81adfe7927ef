"""Rows of metrics, to what a user should know now rather than after the run.

Each alarm is a pure function of the rows so far, so a resumed run raises what an uninterrupted one
would. Its flag is written with its step (`alarm/NAME`, 1 or 0); its words are told once an episode.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from exprl import config
from exprl.config import FunctionName
from exprl.reward.missing import Reason
from exprl.steps import StepRule
from exprl.types import Float64Array

RULES_TO_TRY: tuple[StepRule, ...] = ("heading", "paragraph", "line", "delimiter")
"""From coarse to fine; `delimiter` last, since it cuts where the prompt must ask for it."""

WORTH_TRYING = 0.25
"""Share of the rollouts of one step that a rule must cut to be named."""

STALL_STEPS = 2
"""Steps in the means that `stalling` compares: it speaks after four steps of a run."""

Row = Mapping[str, float | None]
"""Of metrics.jsonl; None and NaN are numbers that do not exist."""

NAMES = (
    "score_without_accuracy",
    "stalling",
    "single_step",
    "delimiters",
    "reference_overlap",
    "injection",
    "missing",
    "missing_length",
    "over_context",
    "repaired",
    "disagreement",
    "logp_gap",
)


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that spoils a run if it goes on.

    message: what was seen, with the value and its limit (`alarms.*` of the config).
    remedy: what to look at or change.
    """

    name: str
    value: float
    limit: float
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.name}: {self.message}. {self.remedy}"


class Watch:
    """The rows of a run, and which alarms have been told."""

    def __init__(
        self,
        settings: config.Alarms,
        advantage: config.Advantage,
        earlier: Sequence[Row],
        steps: StepRule | FunctionName = "delimiter",
    ) -> None:
        """Go on after `earlier`, the rows of a resumed run before its first step.

        Args:
            steps: the rule by which rollouts are cut into steps.
        """
        self._settings = settings
        self._advantage = advantage
        self._steps = steps
        self._rows = list(earlier)

    def add(
        self, row: Mapping[str, float], reason: Reason | None = None
    ) -> tuple[dict[str, float], list[Alarm]]:
        """Take the row of a step.

        Args:
            reason: why grades of the step are missing, for the words of the alarm.

        Returns:
            The flags to write with it, and the alarms whose episode begins here: none of the last
            `alarms.repeat_after` steps had them.
        """
        rows = [*self._rows, row]
        now = list(find_alarms(rows, self._settings, self._advantage, reason, self._steps))
        flags = {f"alarm/{name}": float(any(a.name == name for a in now)) for name in NAMES}
        recent = self._rows[-self._settings.repeat_after :]
        fresh = [a for a in now if not any(r.get(f"alarm/{a.name}") for r in recent)]
        self._rows.append({**row, **flags})
        return flags, fresh


def find_alarms(
    rows: Sequence[Row],
    settings: config.Alarms,
    advantage: config.Advantage,
    reason: Reason | None = None,
    steps: StepRule | FunctionName = "delimiter",
) -> Iterator[Alarm]:
    """The alarms of the last row, in the light of those before it.

    Args:
        reason: why grades of the last row's step are missing.
        steps: the rule by which rollouts are cut into steps.
    """
    yield from _score_without_accuracy(rows, settings)
    yield from _stalling(rows, settings)
    yield from _single_step(rows[-1], settings, advantage, steps)
    yield from _delimiters(rows, settings)
    yield from _missing_length(rows, settings)
    yield from _disagreement(rows[-1], settings)
    for name, metric, limit, message, remedy in (
        (
            "reference_overlap",
            "text/reference_overlap",
            settings.reference_overlap,
            "rollouts hold {value:.0%} of the hidden references' 8-word runs (limit {limit:.0%})",
            "Look for references in the prompts (data.columns, data.template), for problems that"
            " the model has seen, and at the rollouts themselves",
        ),
        (
            "injection",
            "text/injection_rate",
            settings.injection_rate,
            "{value:.1%} of the rollouts speak to the judge: grades, instructions, tags or chat"
            " roles (limit {limit:.1%}; kinds in text/injection_*)",
            "Read them (RUN/rollouts), compare reward/correct_rate, and raise loss.kl_coef or"
            " change judge or rubric if the score rises with it",
        ),
        (
            "missing",
            "judge/missing_rate",
            settings.missing_rate,
            "{value:.1%} of the rollouts have no grade (limit {limit:.1%})",
            str(reason or "Look at judge/* and the judge's own log"),
        ),
        (
            "over_context",
            "judge/over_context",
            settings.over_context,
            "{value:,.0f} requests for a grade do not fit the judge's context (limit {limit:,.0f})",
            "Serve the judge with a longer context, or lower judge.max_tokens or"
            " rollout.max_response_tokens",
        ),
        (
            "repaired",
            "judge/repaired_rate",
            settings.repaired_rate,
            "{value:.0%} of the grades came from a re-ask for the grade alone: no reasoning of the"
            " judge stands behind them (limit {limit:.0%})",
            "If judge/truncated counts as many, replies are cut before their grade: raise"
            " judge.max_tokens, or let the judge think less. If not, the judge does not end its"
            " reply with the line `Score: n`: read replies (`exprl judge ledger export`), and"
            " change judge.rubric or the model",
        ),
        (
            "logp_gap",
            "sync/logp_gap",
            settings.logp_gap,
            "engine and trainer differ by {value:.3g} nats per token (limit {limit:.3g})",
            "The weights are right if sync/probe_gap is small; then sampling computes other than"
            " training (dtype, attention): loss.importance_cap bounds what that does",
        ),
    ):
        value = _value(rows[-1], metric)
        if name == "logp_gap" and _value(rows[-1], "lag/max") > 0:
            continue  # an older policy sampled: the gap is what has been learned since, too
        if limit is not None and value > limit:
            yield Alarm(name, value, limit, message.format(value=value, limit=limit), remedy)


def _score_without_accuracy(rows: Sequence[Row], settings: config.Alarms) -> Iterator[Alarm]:
    """The last window against every earlier one of the same width that does not touch it."""
    width, rise, flat = settings.window, settings.score_rise, settings.accuracy_rise
    if rise is None or len(rows) < 2 * width:
        return
    score = _window_means(rows, "reward/mean", width)
    accuracy = _window_means(rows, "reward/correct_rate", width)
    gain = score[-1] - score[:-width]  # [windows before], NaN where a window has no number
    hollow = np.where(accuracy[-1] - accuracy[:-width] < flat, gain, np.nan)
    if np.isnan(hollow).all():
        return
    at = int(np.nanargmax(hollow))
    if hollow[at] > rise:
        yield Alarm(
            "score_without_accuracy",
            float(hollow[at]),
            rise,
            f"since steps {at + 1}-{at + width} the mean score rose by {hollow[at]:.3f} and the"
            f" share of right rollouts by {accuracy[-1] - accuracy[at]:.3f} only (limits {rise} and"
            f" {flat})",
            "The judge may be played: read rollouts with high scores and wrong answers, and run"
            " `exprl calibrate`",
        )


def _stalling(rows: Sequence[Row], settings: config.Alarms) -> Iterator[Alarm]:
    """The last two steps against every two earlier ones within the window."""
    rise, recent = settings.stall_rise, rows[-settings.window :]
    if rise is None or len(recent) < 2 * STALL_STEPS:
        return
    score, accuracy, overlong, length = (
        _window_means(recent, name, STALL_STEPS)
        for name in (
            "reward/mean",
            "reward/correct_rate",
            "rollout/overlong_rate",
            "rollout/length_mean",
        )
    )
    past = slice(-STALL_STEPS)  # NaN, which is no number, makes each comparison false
    flat = accuracy[-1] - accuracy[past] < settings.accuracy_rise
    # A share of 98 % cannot rise any more.
    cut = (overlong[-1] >= settings.stall_overlong) & (overlong[-1] >= 0.95 * overlong[past])
    longer = length[-1] >= settings.stall_length * length[past]
    hollow = np.where(flat & (cut | longer), score[-1] - score[past], np.nan)
    if np.isnan(hollow).all():
        return
    at = int(np.nanargmax(hollow))
    if hollow[at] > rise:
        since = len(rows) - len(recent) + at + 1
        yield Alarm(
            "stalling",
            float(hollow[at]),
            rise,
            f"since steps {since}-{since + STALL_STEPS - 1} the mean score rose by"
            f" {hollow[at]:.3f} (limit {rise}) and the share of right rollouts by"
            f" {accuracy[-1] - accuracy[at]:.3f}; {overlong[-1]:.0%} of the rollouts run into the"
            f" length limit (before: {overlong[at]:.0%}), of {length[-1]:,.0f} tokens in the mean"
            f" (before: {length[at]:,.0f})",
            "The policy may be paid for standing still: read rollouts (RUN/rollouts), set"
            " reward.overlong to 'zero' or advantage.kind to 'delta', or raise"
            " rollout.max_response_tokens if good rollouts are cut",
        )


def _single_step(
    row: Row, settings: config.Alarms, advantage: config.Advantage, steps: StepRule | FunctionName
) -> Iterator[Alarm]:
    """Only where such a rollout learns nothing: `delta` gives it advantage 0."""
    value, limit = _value(row, "steps/single_rate"), settings.single_rate
    gives_zero = advantage.single_segment == "zero" and advantage.compat is None
    if advantage.kind != "delta" or not gives_zero:
        return
    if limit is not None and value > limit:
        yield Alarm(
            "single_step",
            value,
            limit,
            f"{value:.0%} of the rollouts have one step only, and learn nothing from it"
            f" (limit {limit:.0%})",
            f"{_rule_to_try(row, steps)}, or set advantage.single_segment to 'score' or 'group'",
        )


def _rule_to_try(row: Row, steps: StepRule | FunctionName) -> str:
    """What would cut the step's own rollouts of one step: the coarsest rule that does well."""
    shares: dict[str, float] = {
        rule: _value(row, f"steps/single_cut_by_{rule}") for rule in RULES_TO_TRY
    }
    if shares.get(steps, 0.0) >= 0.5:  # of a rule of the user's there is no share
        return (
            f"reward.steps = '{steps}' finds more steps in {shares[steps]:.0%} of them, which"
            " reward.min_step_tokens or reward.max_steps joins: lower the one or raise the other"
        )
    best = max((share for share in shares.values() if share >= WORTH_TRYING), default=math.nan)
    rule = next((rule for rule, share in shares.items() if share >= best / 2), None)
    if rule is None:
        return (
            f"Ask for steps in data.system or data.template as reward.steps = '{steps}' finds them"
            f" (no rule would cut {WORTH_TRYING:.0%} of these rollouts)"
        )
    return (
        f"reward.steps = '{rule}' would cut {shares[rule]:.0%} of them; or ask for steps in"
        f" data.system or data.template as reward.steps = '{steps}' finds them"
    )


def _delimiters(rows: Sequence[Row], settings: config.Alarms) -> Iterator[Alarm]:
    """Steps per token, now against the start of the run."""
    limit = settings.delimiter_factor
    width = min(settings.window, len(rows) // 2)
    if limit is None or width < 2:
        return
    rates = _window_means(rows, "steps/per_1k_tokens", width)
    factor = float(rates[-1] / rates[0]) if rates[0] > 0 else math.nan
    if factor > limit:
        yield Alarm(
            "delimiters",
            factor,
            limit,
            f"there are {rates[-1]:.1f} steps per 1,000 tokens, {factor:.1f} times as many as at"
            f" the start (limit {limit})",
            "The policy may cut its text for the reward's sake: read rollouts, and compare"
            " advantage.kind 'end' or 'group', or an outcome reward",
        )


def _missing_length(rows: Sequence[Row], settings: config.Alarms) -> Iterator[Alarm]:
    """Rollouts without a grade against those with one, over the last window.

    The lengths of a policy's rollouts spread by about their mean, so that the mean of n of them
    lies above the others' by up to 1 / sqrt(n) of it by chance.
    """
    limit = settings.missing_length
    if limit is None or not _value(rows[-1], "judge/missing") > 0.0:
        return
    recent = [
        [_value(row, f"judge/{name}") for name in ("missing", "missing_length", "graded_length")]
        for row in rows[-settings.window :]
    ]
    table = np.array([row for row in recent if not np.isnan(row).any()]).reshape(-1, 3)
    count = float(table[:, 0].sum())
    if count == 0.0:
        return
    missing = float(table[:, 0] @ table[:, 1] / count)
    graded = float(table[:, 2].mean())
    factor = missing / graded if graded > 0.0 else math.nan
    if factor > limit + count**-0.5:
        yield Alarm(
            "missing_length",
            factor,
            limit,
            f"rollouts without a grade are longer than graded ones: {missing:,.0f} against"
            f" {graded:,.0f} tokens in the mean ({factor:.1f} times, limit {limit})",
            "What is trained on is no fair sample any more. A judge whose context is too short for"
            " long rollouts does this: serve it with a longer one, or lower judge.max_tokens or"
            " rollout.max_response_tokens",
        )


def _disagreement(row: Row, settings: config.Alarms) -> Iterator[Alarm]:
    """A judge that calls everything right, or wrong; a reward without grades is no judge's."""
    limit = settings.disagreement
    if limit is None or math.isnan(_value(row, "reward/hist_5")):
        return
    final, right = _value(row, "reward/final"), _value(row, "reward/correct_rate")
    gap = abs(final - right)
    if gap > limit:
        yield Alarm(
            "disagreement",
            gap,
            limit,
            f"the judge's final score is {final:.2f} in the mean, and {right:.0%} of the rollouts"
            f" are right (a difference of {gap:.2f}, limit {limit})",
            "Run `exprl calibrate`: the judge may be too small, or its rubric or the references may"
            " not fit. If rollouts with a good score are right, look at the answers instead"
            " (`exprl verify`)",
        )


def _window_means(rows: Sequence[Row], name: str, width: int) -> Float64Array:
    """[rows - width + 1] means of `width` rows in a row; NaN where one of them has no number."""
    values = np.array([_value(row, name) for row in rows], dtype=np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(values, width)
    means: Float64Array = windows.mean(axis=1)
    return means


def _value(row: Row, name: str) -> float:
    value = row.get(name)
    return math.nan if value is None else float(value)
