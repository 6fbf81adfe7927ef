"""`exprl behaviors`: solutions of one or two models, annotated, to tables, a picture and files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from exprl import files
from exprl.errors import ConfigError, DataError, JudgeError
from exprl.judge import JudgeSettings
from exprl.study import behaviors, calibrate, compare, plots, solutions, targets
from exprl.study.behaviors import Annotated, Change
from exprl.study.solutions import Solution

LEDGER = "ledger"
PICTURE = "behaviors.png"
RESULT = "behaviors.json"
RUBRIC = "annotator.toml"


@dataclass(frozen=True, slots=True)
class Request:
    """What to annotate.

    sources: one run folder or file of solutions, or two: the second is held against the first.
    judge: who annotates: endpoints, model, key.
    problems, per_problem: at most so many problems, and solutions of each, drawn at random.
    guided: send the JSON schema with each request.
    """

    sources: Sequence[Path]
    out: Path
    judge: JudgeSettings
    problems: int = 100
    per_problem: int = 4
    steps: str | None = None
    seed: int = 0
    tries: int = 2
    guided: bool = True


def command(request: Request) -> dict[str, Any]:
    """Annotate, print and write OUT/annotations-N.jsonl, behaviors.json, behaviors.png.

    The ledger in OUT answers what was asked before, so the same command goes on where it stopped.

    Raises:
        ConfigError: no annotator is named, or more than two sources.
        DataError: a source cannot be used, or two have no problem in common.
        JudgeError: not one solution was annotated.
    """
    plots.require_package()
    if not request.judge.endpoints or not request.judge.model:
        raise ConfigError("name the annotator: --endpoint URL and --model NAME")
    if len(request.sources) not in (1, 2):
        raise ConfigError(f"{len(request.sources)} sources: give one, or two to compare")
    read = [
        solutions.read(source, steps=_choose_steps(request, source)) for source in request.sources
    ]
    chosen = draw_solutions(read, request.problems, request.per_problem, request.seed)
    rubric = request.out / RUBRIC
    files.write_text(rubric, behaviors.render_rubric())
    settings = behaviors.make_settings(
        replace(request.judge, ledger=str(request.out / LEDGER)),
        rubric_file=str(rubric),
        guided=request.guided,
    )
    annotated = [behaviors.annotate(s, settings, tries=request.tries) for s in chosen]
    for number, found in enumerate(annotated):
        files.write_jsonl(request.out / f"annotations-{number}.jsonl", map(behaviors.to_row, found))
    changed = behaviors.measure_changes(*annotated) if len(annotated) == 2 else []
    tree = _make_result(request, annotated, changed)
    files.write_json(request.out / RESULT, tree)
    plots.plot_behaviors(
        [str(s) for s in request.sources],
        [behaviors.measure_shares(found) for found in annotated],
        request.out / PICTURE,
    )
    show(request.sources, annotated, changed)
    Console(stderr=True).print(f"written: {request.out}", highlight=False)
    if all(one.annotation is None for found in annotated for one in found):
        raise JudgeError("not one solution was annotated; the reasons stand above")
    return tree


def draw_solutions(
    sources: Sequence[Sequence[Solution]], problems: int, per_problem: int, seed: int
) -> list[list[Solution]]:
    """The same problems of every source, and some solutions of each, at random by the seed.

    Raises:
        DataError: no problem is in all of them.
    """
    common = set.intersection(*({s.problem_id for s in source} for source in sources))
    order = [p for p in dict.fromkeys(s.problem_id for s in sources[0]) if p in common]
    if not order:
        raise DataError(
            "the two sources have no problem in common (by problem_id): annotate rollouts of the"
            " same problems, such as those of `exprl eval A B --rollouts DIR`"
        )
    generator = np.random.Generator(np.random.Philox(key=seed))
    kept = {order[i] for i in generator.permutation(len(order))[:problems]}
    result = []
    for source in sources:
        shuffled = [source[i] for i in generator.permutation(len(source))]
        taken: Counter[str] = Counter()
        chosen = []
        for solution in shuffled:
            if solution.problem_id in kept and taken[solution.problem_id] < per_problem:
                taken[solution.problem_id] += 1
                chosen.append(solution)
        result.append(chosen)
    return result


def show(
    sources: Sequence[Path],
    annotated: Sequence[Sequence[Annotated]],
    changed: Sequence[Change],
    console: Console | None = None,
) -> None:
    """Print shares of archetypes and behaviours, changes, and what is missing."""
    console = console or Console(highlight=False)
    for source, found in zip(sources, annotated, strict=True):
        counts = behaviors.count_missing(found)
        console.print(
            Text(
                f"{source}: {len(found)} solutions of"
                f" {len({a.solution.problem_id for a in found})} problems,"
                f" {sum(counts.values())} without annotation,"
                f" {behaviors.count_archetypes(found):.2f} archetypes per problem"
            )
        )
        for reason, count in sorted(counts.items(), key=lambda pair: -pair[1])[:5]:
            console.print(Text(f"  missing {count}: {reason}"))
        if behaviors.are_all_alike(found):
            console.print(
                Text(
                    "  all annotations are the same: the annotator may not read the solutions;"
                    " read some in annotations-N.jsonl, or take a larger model"
                )
            )
    if changed:
        table = Table(
            "", "A", "B", "B - A", "gained", "lost", title="Share of a problem's solutions"
        )
        for c in changed:
            if c.name == next(iter(behaviors.BEHAVIORS)):
                table.add_section()
            d = c.difference
            difference = f"{d.value:+.1%} [{d.low:+.1%}, {d.high:+.1%}]"
            counts_row = (str(len(c.gained)), str(len(c.lost)))
            table.add_row(c.name, f"{c.a:.1%}", f"{c.b:.1%}", difference, *counts_row)
    else:
        table = Table("", "share", "95 % interval", title="Share of a problem's solutions")
        for name, rate in behaviors.measure_shares(annotated[0]).items():
            if name == next(iter(behaviors.BEHAVIORS)):
                table.add_section()
            known = not math.isnan(rate.value)
            interval = f"{rate.low:.1%} .. {rate.high:.1%}" if known else "-"
            table.add_row(name, f"{rate.value:.1%}" if known else "-", interval)
    console.print(table)


def _choose_steps(request: Request, source: Path) -> str | None:
    return request.steps if targets.is_run(source) else None


def _make_result(
    request: Request, annotated: Sequence[Sequence[Annotated]], changed: Sequence[Change]
) -> dict[str, Any]:
    """What behaviors.json holds."""
    runs = [targets.load_config(s) for s in request.sources if targets.is_run(s)]
    settings = compare.compare_configs(runs[0], runs[1]) if len(runs) == 2 else {}
    tree = {
        "annotator": request.judge.model,
        "seed": request.seed,
        "sources": [
            {
                "source": str(source),
                "solutions": len(found),
                "missing": dict(behaviors.count_missing(found)),
                "archetypes_per_problem": behaviors.count_archetypes(found),
                "shares": behaviors.measure_shares(found),
            }
            for source, found in zip(request.sources, annotated, strict=True)
        ],
        "changes": list(changed),
        "settings": {key: {"a": x, "b": y} for key, (x, y) in settings.items()},
    }
    return dict(calibrate.to_json(tree))
