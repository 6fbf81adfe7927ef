"""What a calibration says of its judge, in words: one finding for each thing that spoils a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from exprl.evaluate.estimates import Rate
from exprl.study.calibrate import Calibration

CHANCE = 0.5
"""AUC of a judge that tells nothing apart."""
SAME_GRADE = 0.9
"""Share of one grade from which on most groups get equal rewards."""
REASKED = 0.5
MISSING = 0.05
"""Shares above which re-asks and missing grades are told: the limits that `[alarms]` has."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence or two about the judge.

    name: for programs: chance, reference, one_grade, reasked, missing or usable.
    good: whether it speaks for the judge.
    """

    name: str
    good: bool
    message: str


def find(results: Sequence[Calibration]) -> list[Finding]:
    """What the conditions of one calibration say; nothing without the condition `right`."""
    by_condition = {result.condition: result for result in results}
    right, wrong = by_condition.get("right"), by_condition.get("wrong")
    if right is None or not sum(right.right) + sum(right.wrong):
        return []
    bad = [*_discrimination(right, wrong), *_grades(right)]
    if bad or not right.auc.low > CHANCE:  # NaN: one kind of solution only
        return bad
    beside = f", and only {_format(wrong.auc)} with another problem's" if wrong else ""
    message = f"It tells right from wrong: AUC {_format(right.auc)} with the right reference"
    return [Finding("usable", True, f"{message}{beside}.")]


def _discrimination(right: Calibration, wrong: Calibration | None) -> Iterator[Finding]:
    auc = right.auc
    if auc.low <= CHANCE:
        what = "prefers wrong solutions to right ones" if auc.high < CHANCE else "may be guessing"
        yield Finding(
            "chance",
            False,
            f"With the right reference it {what}: AUC {_format(auc)}, and 0.5 is chance."
            " A run with this judge would learn from noise: take a larger model, or calibrate on"
            " more solutions.",
        )
    elif wrong is not None and auc.low <= wrong.auc.high:
        yield Finding(
            "reference",
            False,
            f"It may not use the reference: AUC {_format(auc)} with the right one and"
            f" {_format(wrong.auc)} with another problem's, whose intervals overlap.",
        )


def _grades(right: Calibration) -> Iterator[Finding]:
    counts = [a + b for a, b in zip(right.right, right.wrong, strict=True)]
    graded, most = sum(counts), max(counts)
    grade = counts.index(most)
    # Of right and of wrong ones: a good judge of solutions that are nearly all wrong gives 1, too.
    # Other readouts take the score from probabilities, which still differ.
    if right.readout == "text" and all(
        sum(kind) and kind[grade] / sum(kind) >= SAME_GRADE for kind in (right.right, right.wrong)
    ):
        yield Finding(
            "one_grade",
            False,
            f"{most / graded:.0%} of its grades are {grade + 1}, for right solutions as for wrong"
            " ones: rollouts of one problem would get equal rewards, which teach nothing.",
        )
    reasked = right.statuses.get("repaired", 0) / graded
    if reasked > REASKED:
        yield Finding(
            "reasked",
            False,
            f"{reasked:.0%} of its grades came from a re-ask for the grade alone: its replies held"
            " none, or were cut before it. No reasoning stands behind them. Read some"
            " (`exprl judge ledger export OUT/ledger`), raise judge.max_tokens, or change the"
            " rubric or the model.",
        )
    if right.missing_rate > MISSING:
        yield Finding(
            "missing",
            False,
            f"{right.missing_rate:.0%} of the solutions have no grade"
            f" ({_list(right.statuses)}): the rates are those of the others.",
        )


def _list(statuses: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in statuses.items())


def _format(rate: Rate) -> str:
    return f"{rate.value:.2f} [{rate.low:.2f}, {rate.high:.2f}]"
