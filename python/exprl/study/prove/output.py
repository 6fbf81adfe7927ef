"""The forecast and the result of a pilot, in a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from exprl import config
from exprl.monitor.report.summary import count, duration
from exprl.study.prove.arms import ARMS, SAYS, Arm
from exprl.study.prove.cost import Cost, Forecasts
from exprl.study.prove.effect import estimate_effect
from exprl.study.prove.plan import Plan
from exprl.study.prove.result import Result

UNKNOWN = "?"


def show_forecast(plan: Plan, base: config.Config, found: Forecasts) -> None:
    """Print the plan and what it would cost."""
    console = Console(highlight=False)
    show_plan(console, plan)
    step = f"{base.rollout.problems_per_step} problems x {base.rollout.group_size} rollouts"
    runs = len(ARMS) * len(plan.seeds)
    console.print(
        f"A run: {plan.steps} steps of {step}. {len(ARMS)} arms x {len(plan.seeds)} seeds ="
        f" {runs} runs, {runs * plan.steps:,} steps in all."
    )
    console.print("Forecast, if the pilot does not stop early:")
    show_costs(console, dict(found.arms), found.total)
    console.print(
        "Tokens, requests and time are those of one step that was trained just now, on this"
        " machine; without starting."
        if found.tried
        else "Requests and the judge's tokens are estimates: the references stand for rollouts."
        " Without --no-try one step is trained, which tells tokens and time."
    )
    console.print("Nothing was written.")


def show_plan(console: Console, plan: Plan) -> None:
    """Print what is planned, in sentences."""
    held_out = len(plan.held_out)
    console.print(
        f"{plan.data}: {plan.rows} rows; {plan.train} train, {held_out} problems are held out"
        f" ({plan.samples} samples each).",
        markup=False,
    )
    for reason, rows in plan.left_out.items():
        console.print(f"{rows} rows are left out: they {reason}.")
    for arm, says in SAYS.items():
        console.print(f"  {arm:9} {says}")
    console.print(f"Measure: {plan.primary}\nStopping: {plan.stopping}\nRule: {plan.rule}")
    for line in warn_of_few(plan):
        console.print(f"[yellow]warning[/] {line}")


def warn_of_few(plan: Plan) -> Iterator[str]:
    """That a `no` is out of reach, because even runs without any difference leave more open."""
    nothing = np.zeros((len(plan.seeds), len(plan.held_out)))
    best = estimate_effect("before", nothing, nothing, plan.level).high
    if best >= plan.least_effect:
        # The two imaginary problems count, too.
        needed = math.ceil((len(plan.held_out) + 2) * best / plan.least_effect / 10.0) * 10
        yield (
            f"{len(plan.held_out)} held-out problems cannot show that an effect is below"
            f" {plan.least_effect:g}: if no problem differs at all, the interval still goes to"
            f" {best:.3f}. For a `no`, hold out about {needed} (--held-out) or more"
        )


def show_result(result: Result, page: Path) -> None:
    """Print the verdict with what stands behind it."""
    console = Console(highlight=False)
    title = Text(f"Will it help on {result.plan.data}? {result.verdict.answer}", "bold")
    console.print(title, soft_wrap=True)  # a long path must not break the verdict in two
    for reason in result.verdict.reasons:
        console.print(f"  {reason}.", markup=False)
    effects = Table(
        *("right minus", "pass@1", f"{result.plan.level:.2%} interval", "problems", "seeds"),
        box=box.SIMPLE,
    )
    for one in result.verdict.effects:
        interval = f"{one.low:+.3f} .. {one.high:+.3f}"
        cells = f"{one.value:+.3f}", interval, str(one.problems), str(one.seeds)
        effects.add_row(one.control, *cells)
    console.print(effects)
    arms = Table("arm", "before", "after, by seed", "alarms", box=box.SIMPLE)
    for arm in result.arms:
        after = "  ".join(f"{value:.3f}" for value in arm.after)
        arms.add_row(arm.arm, f"{mean(arm.before):.3f}", after, ", ".join(arm.alarms) or "-")
    console.print(arms)
    show_costs(console, {arm.arm: arm.cost for arm in result.arms}, result.cost)
    console.print(f"plan SHA-256 {result.digest}, written {result.planned}\npage: {page}")


COST_HEADINGS = ("rollouts", "samples", "tokens", "requests", "judge tokens", "time", "price")


def show_costs(console: Console, costs: Mapping[Arm, Cost], total: Cost) -> None:
    """Print a line for each arm, and their sum."""
    table = Table("arm", box=None, padding=(0, 1, 0, 0))
    for heading in COST_HEADINGS:
        table.add_column(heading, justify="right")
    for arm, cost in costs.items():
        table.add_row(arm, *describe_cost(cost))
    table.add_row("all", *describe_cost(total))
    console.print(table)


def describe_cost(cost: Cost) -> list[str]:
    """The cells of a cost, in the order of COST_HEADINGS."""
    judged = None
    if cost.prompt_tokens is not None and cost.reply_tokens is not None:
        judged = cost.prompt_tokens + cost.reply_tokens
    numbers = (cost.rollouts, cost.samples, cost.tokens, cost.requests, judged)
    cells = [UNKNOWN if value is None else count(round(value)) for value in numbers]
    cells.append(UNKNOWN if cost.seconds is None else duration(cost.seconds))
    return [*cells, "-" if cost.money is None else f"{cost.money:,.2f}"]


def mean(values: Iterable[float]) -> float:
    """The mean; NaN of nothing."""
    known = list(values)
    return math.fsum(known) / len(known) if known else math.nan
