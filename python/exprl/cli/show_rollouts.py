"""What `exprl show` prints: the problems of a step, or rollouts in full."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from exprl.cli.printable import make_printable
from exprl.cli.rollout_text import Marks, rollout_text
from exprl.errors import ConfigError, DataError, ExprlError
from exprl.monitor.judge_words import Said, Words
from exprl.monitor.picks import PICKS, Picked, mean_scores, pick
from exprl.monitor.rollout_reader import RecordedRollout, Rollouts
from exprl.run.recorded import recorded_config

WAIT_S = 0.1


@dataclass(frozen=True, slots=True)
class Request:
    """What to show of a run; see the options of `exprl show`."""

    run: Path
    steps: str | None
    problem: str | None
    index: int | None
    picks: tuple[str, ...]
    limit: int
    words: bool
    full: bool
    as_json: bool


def command(request: Request) -> None:
    """Print what is asked for.

    Raises:
        ConfigError: two selections, or --rollout without --problem.
        DataError: the run has no such step, problem or rollout, or no rollouts at all.
    """
    if len(request.picks) > 1:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in request.picks)
        raise ConfigError(f"{names}: give one of them")
    if request.index is not None and request.problem is None:
        raise ConfigError("--rollout counts within the group of a problem: give --problem, too")
    console = Console(highlight=False, soft_wrap=True)
    rollouts = Rollouts(request.run)
    steps = rollouts.choose_steps(request.steps)
    if not request.picks and request.problem is None and not request.as_json:
        _print_problems(console, request, rollouts, steps[-1])
        return
    chosen = _choose(request, rollouts, steps)
    shown = chosen[: request.limit]
    if not request.as_json:
        _print_heading(console, request, len(chosen), len(shown))
    for place, one in enumerate(_read(request, rollouts, shown)):
        rollout, said = one
        if request.as_json:
            sys.stdout.write(json.dumps(_as_json(rollout, said)) + "\n")
            continue
        if place:
            console.print()
        wide = console.width if console.is_terminal else None
        console.print(rollout_text(rollout, said, Marks(wide, request.full)))


def _choose(request: Request, rollouts: Rollouts, steps: list[int]) -> list[Picked]:
    """The rollouts that are asked for, the first ones first."""
    if request.picks:
        found = pick(rollouts, request.picks[0], steps)
    else:
        found = [Picked(s, row, 0.0) for s in steps for row in range(_count(rollouts, s))]
    if request.problem is None:
        return found
    kept, seen = [], set[str]()
    columns = {s: rollouts.table(s, ["problem_id", "index"]).to_pydict() for s in steps}
    for one in found:
        ids, indices = columns[one.step]["problem_id"], columns[one.step]["index"]
        seen.add(ids[one.row])
        if ids[one.row] == request.problem and request.index in (None, indices[one.row]):
            kept.append(one)
    everywhere = {name for column in columns.values() for name in column["problem_id"]}
    if request.problem not in everywhere:
        raise DataError(_no_problem(request, steps, sorted(everywhere)))
    if not kept and request.index is not None:
        raise DataError(
            f"--rollout {request.index}: no such rollout of the problem {request.problem!r} here;"
            " leave it out to see which there are"
        )
    return kept


def _count(rollouts: Rollouts, step: int) -> int:
    return len(rollouts.table(step, ["index"]))


def _no_problem(request: Request, steps: list[int], ids: list[str]) -> str:
    where = f"step {steps[0]}" if len(steps) == 1 else f"the steps {steps[0]} to {steps[-1]}"
    more = ", ..." if len(ids) > 8 else ""
    return (
        f"--problem {request.problem}: {where} of {request.run} did not draw it; for example"
        f" {', '.join(ids[:8])}{more} are there"
    )


def _read(
    request: Request, rollouts: Rollouts, shown: list[Picked]
) -> Iterator[tuple[RecordedRollout, list[Said]]]:
    """The rollouts with what the judge said of each step."""
    cfg = None
    if request.words:
        try:
            cfg = recorded_config(request.run)
        except ExprlError as error:  # its words are told to be missing; the rollouts are there
            Console(stderr=True, soft_wrap=True).print(f"exprl: {error}", markup=False)
    with closing(Words(request.run, cfg)) as words:
        for one in shown:
            rollout = rollouts.read(one.step, one.row)
            said = [_find(words, rollout, i) for i in range(len(rollout.steps))]
            yield rollout, said if request.words else []


def _find(words: Words, rollout: RecordedRollout, step: int) -> Said:
    while (said := words.find(rollout.domain, rollout.steps[step])).waits:
        time.sleep(WAIT_S)  # the ledger is being indexed for the first time
    return said


def _print_heading(console: Console, request: Request, found: int, shown: int) -> None:
    name = request.picks[0] if request.picks else ""
    if name:
        console.print(PICKS[name].meaning, style="dim", markup=False)
    first = "The first one follows" if shown == 1 else f"The first {shown} follow"
    more = f" {first}; --limit {found} shows all." if found > shown else ""
    console.print(f"{found:,} rollout{'' if found == 1 else 's'}.{more}\n", style="dim")


def _print_problems(console: Console, request: Request, rollouts: Rollouts, step: int) -> None:
    """A line for each problem of a step, and what to type next."""
    table = rollouts.table(step)
    rewards = mean_scores(table)
    groups: dict[str, list[int]] = {}
    for row, name in enumerate(table["problem_id"].to_pylist()):
        groups.setdefault(name, []).append(row)
    correct, missing = table["correct"].to_pylist(), table["missing"].to_pylist()
    shown = Table("problem", "rollouts", "reward", "right", "missing", title=f"Step {step}")
    for name, rows in groups.items():
        known = [correct[row] for row in rows if correct[row] is not None]
        scored = rewards[rows][~np.isnan(rewards[rows])]
        shown.add_row(
            Text(make_printable(name)),
            str(len(rows)),
            f"{scored.mean():.3f}" if len(scored) else "-",
            f"{sum(known)}/{len(known)}" if known else "-",
            str(sum(missing[row] for row in rows)),
        )
    console.print(shown)
    first = make_printable(next(iter(groups), "ID"))
    console.print("Next, for example:", style="dim")
    for options in (f"--step {step} --problem {first}", "--worst", "--disagree"):
        console.print(f"  exprl show {request.run} {options}", style="dim", markup=False)


def _as_json(rollout: RecordedRollout, said: list[Said]) -> dict[str, Any]:
    """Everything but the tokens; the judge's words of each step where they are asked for."""
    steps: list[dict[str, Any]] = [
        {
            "text": step.text,
            "tokens": [step.start, step.end],
            "grade": step.grade,
            "score": step.score,
            "advantage": step.advantage,
            "status": step.status,
            "ledger_key": step.ledger_key,
        }
        for step in rollout.steps
    ]
    for step, one in zip(steps, said, strict=False):
        step["reply"] = one.reply.text if one.reply else None
    names = (
        "step row problem_id domain index question answer reference finish_reason correct missing"
        " masked overlong blank injection length trained_version"
    )
    return {name: getattr(rollout, name) for name in names.split()} | {
        "reasons": list(rollout.reasons),
        "steps": steps,
    }
