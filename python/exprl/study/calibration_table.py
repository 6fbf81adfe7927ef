"""What `exprl calibrate` shows: a table for each readout, and the readouts side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from exprl.evaluate.estimates import Rate
from exprl.judge import Readout
from exprl.study.calibrate import Agreement, Calibration
from exprl.study.continuations import Continued
from exprl.study.findings import find


@dataclass(frozen=True, slots=True)
class Counts:
    """The solutions that were graded, and those of the source that were left out."""

    solutions: int
    right: int
    problems: int
    unknown_truth: int
    overlong: int
    judge_temperature: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What the command shows and writes; None for what was not asked for.

    readouts: the conditions under each readout that gave grades, in the order asked for.
    failed: readouts that gave none, and why.
    """

    counts: Counts
    readouts: Mapping[Readout, Sequence[Calibration]]
    failed: Mapping[Readout, str]
    agreement: Agreement | None
    continued: Continued | None

    @property
    def conditions(self) -> Sequence[Calibration]:
        """Those of the first readout."""
        return next(iter(self.readouts.values()))


def show(measured: Measured, console: Console | None = None) -> None:
    """Print the table of conditions, and a line for each further measure."""
    console = console or Console(highlight=False)
    counts = measured.counts
    console.print(
        f"{counts.solutions} solutions ({counts.right} right) of {counts.problems}"
        f" problems; left out: {counts.overlong} cut by length, {counts.unknown_truth} of"
        " unknown truth"
    )
    for results in measured.readouts.values():
        console.print(_tabulate(results))
        for finding in find(results):
            color = "green" if finding.good else "yellow"
            console.print(f"[{color}]judge[/]  {escape(finding.message)}", soft_wrap=True)
    if len(measured.readouts) > 1 or measured.failed:
        console.print(_compare(measured.readouts))
    for readout, why in measured.failed.items():
        console.print(f"readout {readout!r} gave no grade: {why}")
    if again := measured.agreement:
        console.print(
            f"{again.repeats} grades of each solution: {_format(again.exact, '.1%')} of pairs equal"
            f" ({_format(again.chance, '.1%')} by chance), Krippendorff's alpha"
            f" {_format(again.alpha, '.3f')}, {again.missing} missing"
        )
        if counts.judge_temperature == 0.0:
            console.print(
                "(At temperature 0 this shows only what the servers do not repeat; set"
                " --temperature to see the judge's own spread.)"
            )
    if continued := measured.continued:
        means = " ".join(_format(x, ".2f") for x in continued.success_by_grade)
        console.print(
            f"{len(continued.beginnings)} beginnings, {continued.continuations} continuations each,"
            f" {continued.missing} without grade or continuation: rank correlation of score and"
            f" success {_format_rate(continued.spearman, '.3f')}, Pearson"
            f" {_format_rate(continued.pearson, '.3f')}; success by grade 1..5: {means}"
        )


def _tabulate(results: Sequence[Calibration]) -> Table:
    """The conditions of one readout, one column each."""
    title = f'The judge, readout "{results[0].readout}", 95 % intervals'
    table = Table("reference", *(r.condition for r in results), title=title)
    for name, rates, form in (
        ("misplacement", [r.misplacement for r in results], ".1%"),
        ("  wrong, but >= 4", [r.false_positive for r in results], ".1%"),
        ("  right, but < 4", [r.false_negative for r in results], ".1%"),
        ("AUC", [r.auc for r in results], ".3f"),
    ):
        table.add_row(name, *(_format_rate(rate, form, "\n") for rate in rates))
    table.add_row("right, by grade", *(" ".join(map(str, r.right)) for r in results))
    table.add_row("wrong, by grade", *(" ".join(map(str, r.wrong)) for r in results))
    table.add_row("right, no grade", *(str(r.right_missing) for r in results))
    table.add_row("wrong, no grade", *(str(r.wrong_missing) for r in results))
    table.add_row("by a re-ask only", *(str(r.statuses.get("repaired", 0)) for r in results))
    return table


def _compare(readouts: Mapping[Readout, Sequence[Calibration]]) -> Table:
    """Each readout under each condition, with what it cost."""
    table = Table("reference", "readout", title="Readouts side by side", box=SIMPLE)
    for name in ("misplaced", "AUC", "no grade", "prompt", "cached", "reply", "s"):
        table.add_column(name, justify="right")
    for same in zip(*readouts.values(), strict=True):
        for result in same:
            table.add_row(
                result.condition,
                result.readout,
                _format(result.misplacement.value, ".1%"),
                _format(result.auc.value, ".3f"),
                f"{result.missing_rate:.1%}",
                *_format_spent(result),
            )
        table.add_section()
    table.caption = "tokens of all requests: prompt, of it in a prefix cache, reply"
    return table


def _format_spent(result: Calibration) -> Sequence[str]:
    if (spent := result.spent) is None:
        return ("-",) * 4
    seconds = "(ledger)" if spent.seconds is None else f"{spent.seconds:.1f}"
    tokens = (spent.prompt_tokens, spent.cached_tokens, spent.completion_tokens)
    return (*(f"{count:,}" for count in tokens), seconds)


def _format_rate(rate: Rate, form: str, between: str = " ") -> str:
    if math.isnan(rate.value):
        return "-"
    return f"{rate.value:{form}}{between}[{rate.low:{form}}, {rate.high:{form}}]"


def _format(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)
