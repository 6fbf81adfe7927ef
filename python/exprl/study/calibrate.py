"""Graded solutions whose truth is known, to how far a judge can be believed.

    misplacement   (FPR + FNR) / 2, a grade >= 4 being "judged correct", with the right
                   reference, none, and another problem's (docs/concepts/method.md)
    AUC            chance that a right solution is graded above a wrong one, a tie counting one half
    agreement      of repeated grades of one solution: share of equal pairs, Krippendorff's alpha
    prefixes       grades of beginnings against the success rate of continuations (continuations.py)

Intervals are bootstrapped over problems, because solutions of one problem are not independent. A
grade that did not come is counted in its condition and is in no rate. Needs neither torch nor vLLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from exprl.config import Condition
from exprl.evaluate import estimates
from exprl.evaluate.estimates import Rate, percentiles, resampled_counts
from exprl.judge import JudgeSettings, Readout, Verdict
from exprl.study.grade import Spent, ask
from exprl.study.solutions import Solution
from exprl.types import Float64Array, Int64Array

GRADES = 5
# From this grade on, the judge calls a solution correct.
CORRECT_FROM = 4


@dataclass(frozen=True, slots=True)
class Calibration:
    """One condition: what the judge was shown as the reference.

    right, wrong: [5] solutions by grade 1..5, apart by the truth.
    right_missing, wrong_missing: solutions without a grade.
    statuses: judge verdicts by status, which say why grades are missing.
    readout: how its scores were read.
    spent: what the verdicts cost; None where nobody counted.
    """

    condition: Condition
    right: tuple[int, ...]
    wrong: tuple[int, ...]
    right_missing: int
    wrong_missing: int
    statuses: dict[str, int]
    misplacement: Rate
    false_positive: Rate
    false_negative: Rate
    auc: Rate
    readout: Readout = "text"
    spent: Spent | None = None

    @property
    def missing_rate(self) -> float:
        """Share of the solutions without a grade."""
        missing = self.right_missing + self.wrong_missing
        return missing / (missing + sum(self.right) + sum(self.wrong))


@dataclass(frozen=True, slots=True)
class Agreement:
    """Grades of the same solutions asked for several times.

    exact: share of equal pairs among the grades of one solution, averaged over solutions.
    chance: what `exact` would be if grades were dealt to solutions at random.
    alpha: Krippendorff's, interval metric.
    """

    solutions: int
    repeats: int
    missing: int
    exact: float
    chance: float
    alpha: float


def calibrate(
    solutions: Sequence[Solution], settings: JudgeSettings, condition: Condition, seed: int = 0
) -> tuple[Calibration, Float64Array]:
    """Grade the solutions under one condition, and compare with the truth.

    Args:
        solutions: whose `correct` is known.
        settings: view `outcome`; of `prefix` and `step` the last segment's grade counts.
        seed: draws the other problems of the condition `wrong`.

    Returns:
        The calibration, and the grades [N] in the order of the solutions, NaN = missing.

    Raises:
        DataError: the condition cannot be shown: no references, or those of one problem only.
        JudgeError: not one solution got a grade.
    """
    verdicts, spent = ask(solutions, settings, condition, seed)
    result = summarize(solutions, verdicts, condition, settings.readout)
    return replace(result, spent=spent), list_grades(verdicts)


def list_grades(verdicts: Sequence[Verdict]) -> Float64Array:
    """[N], NaN = missing."""
    return np.array([np.nan if v.grade is None else v.grade for v in verdicts], dtype=np.float64)


def summarize(
    solutions: Sequence[Solution],
    verdicts: Sequence[Verdict],
    condition: Condition,
    readout: Readout = "text",
) -> Calibration:
    """Rates and histograms from verdicts.

    Args:
        readout: whose scores these are; the AUC is over grades for "text", else over scores.
    """
    truth = np.array([bool(solution.correct) for solution in solutions])
    grades = list_grades(verdicts)
    problems = _number([solution.problem for solution in solutions])
    scores = np.array([np.nan if v.score is None else v.score for v in verdicts], np.float64)
    levels = grades if readout == "text" else scores
    by_grade = _tables(problems, truth, grades, np.arange(1, GRADES + 1, dtype=np.float64))
    by_level = _tables(
        problems, truth, levels, np.unique(levels[~np.isnan(levels)]).astype(np.float64)
    )
    statuses: dict[str, int] = {}
    for verdict in verdicts:
        statuses[verdict.status] = statuses.get(verdict.status, 0) + 1
    histograms = by_grade.sum(axis=0)
    absent = np.isnan(grades)
    return Calibration(
        condition=condition,
        right=tuple(map(int, histograms[1])),
        wrong=tuple(map(int, histograms[0])),
        right_missing=int((absent & truth).sum()),
        wrong_missing=int((absent & ~truth).sum()),
        statuses=statuses,
        misplacement=_rate(by_grade, lambda t: (_false_positive(t) + _false_negative(t)) / 2.0),
        false_positive=_rate(by_grade, _false_positive),
        false_negative=_rate(by_grade, _false_negative),
        auc=_rate(by_level, lambda t: estimates.auc(t[..., 1, :], t[..., 0, :])),
        readout=readout,
    )


def measure_agreement(
    solutions: Sequence[Solution], settings: JudgeSettings, first: Float64Array, repeats: int
) -> Agreement:
    """Ask for every grade again, with the right reference.

    Args:
        first: [N] grades of sample_index 0, NaN = missing.
        repeats: grades of each solution, the first among them; at least 2.
    """
    columns = [first]
    for index in range(1, repeats):
        again = replace(settings, sample_index=settings.sample_index + index)
        columns.append(list_grades(ask(solutions, again, "right").verdicts))
    return summarize_agreement(np.stack(columns, axis=1))


def summarize_agreement(grades: Float64Array) -> Agreement:
    """Agreement of grades [N, R], NaN = missing."""
    known = grades[~np.isnan(grades)]
    shares = np.unique(known, return_counts=True)[1] / max(1, known.size)
    return Agreement(
        solutions=len(grades),
        repeats=grades.shape[1],
        missing=int(np.isnan(grades).sum()),
        exact=estimates.pair_agreement(grades),
        chance=float((shares**2).sum()) if known.size else float("nan"),
        alpha=estimates.krippendorff_alpha(grades),
    )


def to_json(value: Any) -> Any:
    """A result as plain JSON values; NaN becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    match value:
        case dict():
            return {key: to_json(below) for key, below in value.items()}
        case list() | tuple():
            return [to_json(below) for below in value]
        case float() if np.isnan(value):
            return None
        case _:
            return value


def _tables(
    problems: Int64Array, truth: Any, values: Float64Array, levels: Float64Array
) -> Int64Array:
    """[P, 2, V] counts by problem, truth and level; missing values are in none."""
    tables = np.zeros((problems.max() + 1, 2, len(levels)), dtype=np.int64)
    known = ~np.isnan(values)
    at = np.searchsorted(levels, values[known])
    np.add.at(tables, (problems[known], truth[known].astype(np.int64), at), 1)
    return tables


def _rate(tables: Int64Array, of: Any) -> Rate:
    """A rate of the summed tables, and its interval over resampled problems."""
    counts = resampled_counts(len(tables))
    resampled = (counts @ tables.reshape(len(tables), -1)).reshape(len(counts), *tables.shape[1:])
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(of(tables.sum(axis=0)))
        low, high = percentiles(np.asarray(of(resampled), dtype=np.float64))
    return Rate(value, float(low), float(high))


def _false_positive(tables: Int64Array) -> Any:
    return tables[..., 0, CORRECT_FROM - 1 :].sum(axis=-1) / tables[..., 0, :].sum(axis=-1)


def _false_negative(tables: Int64Array) -> Any:
    return tables[..., 1, : CORRECT_FROM - 1].sum(axis=-1) / tables[..., 1, :].sum(axis=-1)


def _number(names: Sequence[str]) -> Int64Array:
    """[N] the number of each distinct name."""
    return np.unique(np.array(names, dtype=object), return_inverse=True)[1]
