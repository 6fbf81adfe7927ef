"""Two evaluations of the same problems, to what differs: settings, rates, single problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from exprl import config, files
from exprl.errors import ConfigError
from exprl.evaluate.during_training import choose_ks, read_evaluations
from exprl.evaluate.estimates import LEVEL, difference_interval, percentiles, resampled_means
from exprl.evaluate.pass_at_k import Evaluation, Outcome
from exprl.monitor.metrics_log import EVALUATIONS_FILE
from exprl.study import targets

Change = Literal["gained", "lost", "even"]

# Where a run lies and how it is watched does not make it another run.
NO_DIFFERENCE = ("run_dir", "logging.")


@dataclass(frozen=True, slots=True)
class Difference:
    """pass@k of B minus pass@k of A: mean over the problems, and its paired bootstrap interval."""

    k: int
    a: float
    b: float
    difference: float
    low: float
    high: float
    problems: int


@dataclass(frozen=True, slots=True)
class ProblemChange:
    """One problem in both: right samples of counted ones, and the interval of the difference.

    change: "gained" or "lost" where the interval (Newcombe's, 95 % each) leaves out 0.
    """

    problem_id: str
    right_a: int
    n_a: int
    right_b: int
    n_b: int
    low: float
    high: float

    @property
    def change(self) -> Change:
        """Which way the problem went, beyond what sampling explains."""
        return "gained" if self.low > 0 else "lost" if self.high < 0 else "even"


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against A on the same problems.

    settings: dotted keys on which the two configs differ, with both values.
    verify: how answers were found in the samples of A and of B.
    newly_solved, no_longer_solved: problems with a right sample in B only, in A only.
    """

    a: str
    b: str
    settings: Mapping[str, tuple[Any, Any]]
    differences: tuple[Difference, ...]
    problems: tuple[ProblemChange, ...]
    verify: tuple[str, str] = ("strict", "strict")

    @property
    def newly_solved(self) -> list[str]:
        """Ids of the problems with a right sample in B and none in A."""
        return [p.problem_id for p in self.problems if p.right_b and not p.right_a and p.n_a]

    @property
    def no_longer_solved(self) -> list[str]:
        """Ids of the problems with a right sample in A and none in B."""
        return [p.problem_id for p in self.problems if p.right_a and not p.right_b and p.n_b]

    def changed(self, change: Change) -> list[ProblemChange]:
        """The problems that went one way, the largest difference first."""
        found = [p for p in self.problems if p.change == change]
        return sorted(found, key=lambda p: -abs(p.right_b / p.n_b - p.right_a / p.n_a))

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "a": self.a,
            "b": self.b,
            "verify": {"a": self.verify[0], "b": self.verify[1]},
            "settings": {key: {"a": x, "b": y} for key, (x, y) in self.settings.items()},
            "differences": [asdict(d) for d in self.differences],
            "newly_solved": self.newly_solved,
            "no_longer_solved": self.no_longer_solved,
            "problems": [asdict(p) | {"change": p.change} for p in self.problems],
        }


def compare(
    a: Evaluation,
    b: Evaluation,
    ks: Sequence[int],
    *,
    names: tuple[str, str] = ("A", "B"),
    settings: Mapping[str, tuple[Any, Any]] | None = None,
) -> Comparison:
    """Compare two evaluations problem by problem.

    Args:
        ks: k of the differences; those above the samples of either are left out.
        settings: of `compare_configs`.

    Raises:
        ConfigError: they are not about the same problems, or not one problem has counted samples.
    """
    outcomes_a, outcomes_b = _index(a), _index(b)
    if outcomes_a.keys() != outcomes_b.keys():
        only = (
            len(outcomes_a.keys() - outcomes_b.keys()),
            len(outcomes_b.keys() - outcomes_a.keys()),
        )
        raise ConfigError(
            f"{names[0]} and {names[1]} were evaluated on different problems ({only[0]} only in the"
            f" first, {only[1]} only in the second): evaluate both on the same --data"
        )
    if not any(outcomes_a[i].n and outcomes_b[i].n for i in outcomes_a):
        raise ConfigError(f"{names[0]} and {names[1]}: no problem has counted samples in both")
    most = min(a.samples, b.samples)
    order = [list(outcomes_b).index(key) for key in outcomes_a]
    values_a = a.pass_values()[:, :most]
    values_b = b.pass_values()[order, :most]
    gap = values_b - values_a  # [P, K], NaN where either has fewer than k samples
    low, high = percentiles(resampled_means(gap), LEVEL)
    both = ~np.isnan(gap)
    differences = [
        Difference(
            k=k,
            a=float(values_a[both[:, k - 1], k - 1].mean()),
            b=float(values_b[both[:, k - 1], k - 1].mean()),
            difference=float(gap[both[:, k - 1], k - 1].mean()),
            low=float(low[k - 1]),
            high=float(high[k - 1]),
            problems=int(both[:, k - 1].sum()),
        )
        for k in ks
        if 1 <= k <= most and both[:, k - 1].any()
    ]
    changes = [_compare_problem(outcomes_a[key], outcomes_b[key]) for key in outcomes_a]
    return Comparison(
        *names, dict(settings or {}), tuple(differences), tuple(changes), (a.verify, b.verify)
    )


def compare_configs(a: config.Config, b: config.Config) -> dict[str, tuple[Any, Any]]:
    """Dotted keys on which two runs differ in what they compute, with the values of both."""
    found = config.differences(a, b)
    return {key: both for key, both in found.items() if not key.startswith(NO_DIFFERENCE)}


def command(names: Sequence[str], ks: Sequence[int], out: Path | None) -> Comparison:
    """`exprl compare`: two runs by the evaluations that they made while training.

    Raises:
        ConfigError: one is not a run, has no evaluation there, or has fewer than k samples.
    """
    evaluations, configs = [], []
    for name in names:
        run_dir, step = _parse_name(name)
        configs.append(targets.load_config(run_dir))
        evaluations.append(_find_evaluation(name, run_dir, step))
    a, b = evaluations
    shown = tuple(f"{n} (step {e.step})" for n, e in zip(names, evaluations, strict=True))
    most = min(a.samples, b.samples)
    if max(ks, default=1) > most:
        raise ConfigError(
            f"pass@{max(ks)}: {shown[0]} has {a.samples} samples per problem, {shown[1]} has"
            f" {b.samples}; k is at most {most}"
        )
    ks = ks or choose_ks(most)
    result = compare(
        a, b, ks, names=(shown[0], shown[1]), settings=compare_configs(configs[0], configs[1])
    )
    show(result)
    if out:
        files.write_json(out, result.to_json())
    return result


def show(result: Comparison, console: Console | None = None) -> None:
    """Print a comparison: settings, rates, and the problems that changed most."""
    console = console or Console(highlight=False)
    console.print(Text(f"A = {result.a}\nB = {result.b}", style="bold"))
    if result.settings:
        settings = Table("setting", "A", "B", title="Where the configs differ")
        for key, (x, y) in result.settings.items():
            settings.add_row(*(Text(str(cell)) for cell in (key, x, y)))
        console.print(settings)
    else:
        console.print("The configs do not differ.")
    if result.verify[0] == result.verify[1]:
        console.print(f"Answers: {result.verify[0]} in both (reward.verify).")
    else:
        console.print(
            f"Answers: {result.verify[0]} in A, {result.verify[1]} in B: the rates below are not"
            " comparable; evaluate both with one reward.verify."
        )
    rates = Table("k", "A", "B", "B - A", "95 % interval", "problems", title="pass@k")
    for d in result.differences:
        interval = f"{d.low:+.4f} .. {d.high:+.4f}"
        cells = f"{d.a:.4f}", f"{d.b:.4f}", f"{d.difference:+.4f}", interval, str(d.problems)
        rates.add_row(str(d.k), *cells)
    console.print(rates)
    console.print(
        f"Solved by B only: {len(result.newly_solved)}; by A only: {len(result.no_longer_solved)};"
        f" of {len(result.problems)} problems."
    )
    for change in ("gained", "lost"):
        found = result.changed(change)
        shown = ", ".join(
            f"{p.problem_id} ({p.right_a}/{p.n_a} to {p.right_b}/{p.n_b})" for p in found[:8]
        )
        more = f", and {len(found) - 8} more" if len(found) > 8 else ""
        console.print(
            Text(f"{change.capitalize()}: {len(found)}{': ' if shown else ''}{shown}{more}")
        )
    console.print(
        f"(Each of the {len(result.problems)} problems is tested at 95 %: about"
        f" {len(result.problems) * 0.05:.0f} would seem gained or lost by chance alone.)"
    )


def _index(evaluation: Evaluation) -> dict[str, Outcome]:
    return {outcome.problem_id: outcome for outcome in evaluation.outcomes}


def _compare_problem(a: Outcome, b: Outcome) -> ProblemChange:
    low, high = difference_interval((a.c, a.n), (b.c, b.n)) if a.n and b.n else (-1.0, 1.0)
    return ProblemChange(a.problem_id, a.c, a.n, b.c, b.n, low, high)


def _parse_name(name: str) -> tuple[Path, int | None]:
    """A run folder and a step of it; a checkpoint need not exist for an evaluation to."""
    folder, _, step = name.rpartition("@")
    if folder and targets.is_run(Path(folder)):
        digits = step.removeprefix("step-")
        if not digits.isdecimal():
            raise ConfigError(f"{name}: after @ stands a step, such as {folder}@step-10")
        return Path(folder), int(digits)
    if not targets.is_run(Path(name)):
        raise ConfigError(
            f"{name} is not the folder of a run; `exprl eval A B` measures and compares any models"
        )
    return Path(name), None


def _find_evaluation(name: str, run_dir: Path, step: int | None) -> Evaluation:
    found = read_evaluations(run_dir)
    wanted = [e for e in found if step in (None, e.step)]
    if not wanted:
        has = ", ".join(f"step {e.step}" for e in found) or "none"
        raise ConfigError(
            f"{name}: no such evaluation in {run_dir / EVALUATIONS_FILE} (it has: {has}); train"
            " with eval.data set, or measure now with `exprl eval`"
        )
    return wanted[-1]
