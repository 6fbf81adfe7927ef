"""The rows, to docs/project/paper.md and its figures. Every number on the page is computed here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from paper import figures
from paper.cells import PAPER_STARTS, STARTS
from paper.rows import Row

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "project" / "paper.md"
MAIN_SEEDS = (0, 1, 2)
# What the miniature has to show, set before it was run, pass@1 after Stage I and after Stage II.
BARS: dict[str, tuple[Callable[[float], bool], Callable[[float], bool], str]] = {
    "outcome": (lambda x: x >= 0.50, lambda x: x >= 0.65, ">= .50, then >= .65"),
    "delta": (lambda x: x >= 0.50, lambda x: x >= 0.65, ">= .50, then >= .65"),
    "grpo": (lambda x: x <= 0.05, lambda x: x <= 0.05, "<= .05, both"),
    "sft": (lambda x: x <= 0.05, lambda x: x <= 0.05, "<= .05, both"),
}
TAKEN_OFF = 0.05
"""pass@1 after Stage II above which it learned something; the miniature's own bar."""
CAVEATS = """\
- **The contrast is built in.** The references are short and in another style than the policy's. The
  paper argues that real references are like that; here it is so by design. References in the
  policy's own style would make SFT the best start.
- **The base is made for this contrast.** It has the skill, but on hard problems it never uses it to
  the end. The sparse reward teaches nothing only because (its success rate) x (all rollouts of both
  stages) is far below 1.
- **The teacher of self-distillation is no better than its student** ([measured](miniature.md)). So
  this baseline fails by design too. Its rank, and the rank of Process against Outcome, are no
  evidence.
- **All problems share one latent skill.** Exploration that is specific to a problem is not tested,
  and no real mathematics is.
- **The judge is a rule that knows the only right chain.** These tables do not show what the errors
  of a language model do.
- The 16 training problems and the 32 test problems are the same for every seed. Seeds differ in
  sampling and in order.
"""


def write(rows: Sequence[Row], judge: Sequence[Row], page: Path = PAGE) -> None:
    """Write the page and draw its figures beside it."""
    larger = [row for row in rows if row["scale"] == "gpu"]
    short = [row for row in rows if row["scale"] == "short"]
    rows = [row for row in rows if row["scale"] == "cpu"]
    main = [row for row in rows if row["seed"] in MAIN_SEEDS]
    fresh = [row for row in rows if row["seed"] not in MAIN_SEEDS]
    folder = page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    figures.pass_at_k(main, folder / "pass_at_k.svg")
    figures.dynamics(main, folder / "dynamics.svg")
    figures.centering(main, folder / "centering.svg")
    figures.calibration(judge, folder / "calibration.svg")
    page.write_text(text(main, fresh, larger, short, judge), encoding="utf-8")


def text(
    main: Sequence[Row],
    fresh: Sequence[Row],
    larger: Sequence[Row],
    short: Sequence[Row],
    judge: Sequence[Row],
) -> str:
    """The page."""
    seeds = sorted({row["seed"] for row in main})
    parts = [
        "# The paper's tables in miniature\n",
        "<!-- Written by bench/paper/run.py from bench/results/paper.jsonl;"
        " edit bench/paper/report.py instead. -->\n",
        "The task is long division by one digit. The policy has 0.28 M parameters, and a rule is"
        " the judge ([the miniature](miniature.md)). Stage I is 16 steps of the method that the row"
        " names. Stage II is 16 steps of sparse GRPO from where Stage I ended. pass@1 is measured"
        " on 32 problems outside the training set, with 64 samples each. Brackets hold the 95 %"
        " bootstrap interval over problems.\n",
        "The tables show that all parts of the trainer work together. They also show that dense"
        " rewards from hidden references can teach a task on which the sparse reward never gets its"
        " first success. They do not show more than that:\n",
        CAVEATS,
        "## Table 1: pass@1 after Stage I\n",
        table(main, "stage1", seeds),
        "## Table 2: pass@1 after Stage II\n",
        "The row *none (base)* is sparse GRPO at Stage II's learning rate from the base policy. The"
        " base without any RL is the row of that name in Table 1.\n",
        table(main, "stage2", seeds),
        headroom(main),
        bars(main),
        shorter(short),
        "## Fresh seeds\n" if fresh else "",
        "These seeds were not used while base policy and settings were chosen.\n" if fresh else "",
        table(fresh, "stage1", sorted({row["seed"] for row in fresh}), "Stage I"),
        table(fresh, "stage2", sorted({row["seed"] for row in fresh}), "Stage II"),
        bars(fresh),
        "## pass@k (figures 2 and 10 of the paper)\n",
        "![pass@k after both stages](paper/pass_at_k.svg)\n",
        pass_table(main),
        "## Dynamics (figure 3)\n",
        "A line is the mean over the seeds, and its band goes from the lowest to the highest. Stage"
        " II begins at the broken line, where the count of unsolved problems begins anew. Where"
        " lines coincide, as those of the starts that solve nothing, each is drawn wider than the"
        " next one upon it. SFT samples nothing in Stage I, so its entropy there"
        " is that of the references' tokens. The start *none* has no Stage I.\n",
        "![unsolved problems, right rollouts, entropy and length by step](paper/dynamics.svg)\n",
        "## Centering (figure 8)\n",
        "The same process scores are centered in three ways: by the last score of the rollout"
        " (`delta`, `end`), by the group's mean (`group`), or not at all. *Not centered* is `group`"
        " with `advantage.compat = published`: its baseline is divided by the padded width once too"
        " often, and 1/96 of it is left.\n",
        "![right rollouts by step of Stage I](paper/centering.svg)\n",
        "## Calibration (table 5 and figure 11)\n",
        "All finished rollouts of ExpRL-Process (delta), seed 0, Stage I, were graded as whole"
        ' solutions. A grade of 4 or 5 means "judged right". Misplacement is the mean of the false'
        " positive and the false negative rate. In the paper a 4B judge misplaces 17.8 % with the"
        " right reference, 39.2 % with none and 50.4 % with a wrong one. Without a reference the"
        " rule gives everything a 3. With the right one it differs from the verifier in two cases:"
        " it gives 4 to a right chain with a wrong box, and less than 4 to a right box after a"
        " wrong chain.\n",
        judge_table(judge),
        "![grades by truth](paper/calibration.svg)\n",
        "## Larger\n",
        "`python bench/paper/run.py --scale gpu` trains a base policy of 25 M parameters that"
        " divides numbers of 2 to 6 digits. It then runs the same table on numbers of 8 to 12"
        " digits, with 40 steps a stage, on one GPU.\n",
        table(larger, "stage1", sorted({row["seed"] for row in larger}), "Stage I")
        or "It has not been run yet: no GPU was at hand. CI runs its code at a tiny size.\n",
        table(larger, "stage2", sorted({row["seed"] for row in larger}), "Stage II"),
        "## How it was run\n",
        how(main, fresh),
    ]
    return "\n".join(part for part in parts if part)


def table(rows: Sequence[Row], stage: str, seeds: Sequence[int], title: str = "start") -> str:
    """pass@1 by start and seed."""
    if not rows:
        return ""
    head = [title, *(f"seed {seed}" for seed in seeds), "mean", "pass@64, mean"]
    lines = [head, ["---"] * len(head)]
    for start in STARTS:
        mine = {row["seed"]: row for row in rows if row["start"] == start}
        if not mine:
            continue
        cells = [_number(mine.get(seed), stage, "1") for seed in seeds]
        means = [_mean(list(mine.values()), stage, k) for k in ("1", "64")]
        lines.append([STARTS[start].title, *cells, *means])
    return _markdown(lines)


def headroom(rows: Sequence[Row]) -> str:
    """What Stage II still had to learn on its training problems where Stage I had worked."""
    mine = [row for row in rows if row["start"] in ("outcome", "delta")]
    if not mine:
        return ""
    first = mean(row["stage2"]["dynamics"]["right"][0] for row in mine)
    gains = [_at(row, "stage2", "1") - _at(row, "stage1", "1") for row in mine]
    return (
        f"After ExpRL-Outcome and ExpRL-Process {first:.0%} of the rollouts of Stage II's first"
        f" step are right, so most groups of the 16 training problems teach nothing any more: on"
        f" the test problems Stage II changes pass@1 by {mean(gains):+.3f} in the mean"
        f" ({min(gains):+.3f} to {max(gains):+.3f}).\n"
    )


def shorter(rows: Sequence[Row]) -> str:
    """Both stages where Stage I ends after four steps, and what Stage II adds."""
    if not rows:
        return ""
    head = ["start", "seeds", "Stage I", "right at Stage II's first step", "Stage II", "change"]
    lines = [head, ["---"] * len(head)]
    for start in STARTS:
        mine = [row for row in rows if row["start"] == start]
        if mine:
            first, second = (
                [_at(row, stage, "1") for row in mine] for stage in ("stage1", "stage2")
            )
            right = mean(row["stage2"]["dynamics"]["right"][0] for row in mine)
            gain = mean(second) - mean(first)
            cells = [_spread(first), f"{right:.3f}", _spread(second), f"{gain:+.3f}"]
            lines.append([STARTS[start].title, ", ".join(str(r["seed"]) for r in mine), *cells])
    return (
        "## Table 3: a Stage I that leaves Stage II something to learn\n\n"
        "The same table with a Stage I of four steps instead of 16; Stage II has 16 steps as"
        " before. Four steps were chosen from the curves of Table 1's runs, before this was run: by"
        " then about a third of the training rollouts are right under Process, and a few under"
        " Outcome. Numbers are pass@1: the mean over seeds, with the lowest and the highest. The"
        " rollouts are sampled by transformers instead of vLLM (`python bench/paper/run.py --scale"
        f" short`). What is not finished has no row.\n\n{_markdown(lines)}\n{_takes_off(rows)}"
    )


def _takes_off(rows: Sequence[Row]) -> str:
    """From which starts the sparse reward of Stage II learns, in words."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for start in STARTS:
        mine = [row for row in rows if row["start"] == start]
        if mine:
            title = STARTS[start].title
            found[all(_at(row, "stage2", "1") > TAKEN_OFF for row in mine)].append(title)
    learns = f"The sparse reward learns after {', '.join(found[True]) or 'none of the starts'}"
    return learns + (f"; not after {', '.join(found[False])}.\n" if found[False] else ".\n")


def bars(rows: Sequence[Row]) -> str:
    """Whether every seed clears the bars, in words."""
    found = []
    for start, (first, second, wanted) in BARS.items():
        mine = [row for row in rows if row["start"] == start]
        missed = [
            f"seed {row['seed']} after Stage {'I' if stage == 'stage1' else 'II'}:"
            f" {_at(row, stage, '1'):.3f}"
            for row in mine
            for stage, holds in (("stage1", first), ("stage2", second))
            if not holds(_at(row, stage, "1"))
        ]
        if mine:
            verdict = "missed by " + ", ".join(missed) if missed else "met on every seed"
            found.append(f"- {STARTS[start].title}: {wanted}: {verdict}.")
    if not found:
        return ""
    return "The bars set for the miniature before it was run:\n\n" + "\n".join(found) + "\n"


def pass_table(rows: Sequence[Row]) -> str:
    """Mean pass@k over the seeds after both stages."""
    ks = ("1", "4", "16", "64")
    head = ["start", *(f"I, k = {k}" for k in ks), *(f"II, k = {k}" for k in ks)]
    lines = [head, ["---"] * len(head)]
    for start in STARTS:
        mine = [row for row in rows if row["start"] == start]
        if mine:
            both = [_mean(mine, stage, k) for stage in ("stage1", "stage2") for k in ks]
            lines.append([STARTS[start].title, *both])
    return _markdown(lines)


def judge_table(judge: Sequence[Row]) -> str:
    """Misplacement, false rates and AUC of each judge under each condition."""
    head = ["judge", "reference", "misplaced", "false positive", "false negative", "AUC"]
    lines = [head, ["---"] * len(head)]
    for row in judge:
        rates = [
            _percent(row[name]) for name in ("misplacement", "false_positive", "false_negative")
        ]
        auc = row["auc"]["value"]
        lines.append([row["judge"], row["condition"], *rates, "-" if auc is None else f"{auc:.3f}"])
    right = sum(judge[0]["right"]) + judge[0]["right_missing"] if judge else 0
    total = judge[0]["solutions"] if judge else 0
    counted = f"{total} solutions, {right} of them right; intervals over problems.\n"
    return counted + "\n" + _markdown(lines) if judge else ""


def how(main: Sequence[Row], fresh: Sequence[Row]) -> str:
    """Machine, time and cost."""
    rows = [*main, *fresh]
    if not rows:
        return ""
    one = rows[0]
    stages = [row[stage] for row in rows for stage in ("stage1", "stage2") if row[stage]["steps"]]
    wall, cpu = (sum(stage[name] for stage in stages) for name in ("wall_s", "cpu_s"))
    versions = ", ".join(f"{name} {v}" for name, v in one["versions"].items() if v)
    return (
        f"`python bench/paper/run.py` on {one['cores']} cores of {one['cpu']}, two processes of one"
        f" thread each; {versions}. {len(stages)} runs of {stages[0]['steps']} steps with their"
        f" evaluations took {cpu / 60:.0f} CPU minutes and, summed over the two processes,"
        f" {wall / 60:.0f} minutes of wall clock: the machine was shared with many other"
        f" jobs (a killed process's own part is not in these sums)."
        f" {_minutes(main, PAPER_STARTS)}\n"
    )


def _minutes(rows: Sequence[Row], starts: Sequence[str]) -> str:
    """From the first beginning to the last end of the paper's own rows."""
    stages = [
        row[stage]
        for row in rows
        if row["start"] in starts
        for stage in ("stage1", "stage2")
        if row[stage]["steps"]
    ]
    minutes = (max(s["ended"] for s in stages) - min(s["began"] for s in stages)) / 60
    seeds = len({row["seed"] for row in rows})
    return f"The paper's {len(starts)} starts with {seeds} seeds took {minutes:.0f} minutes."


def _at(row: Row, stage: str, k: str) -> float:
    value: float = row[stage]["pass_at"][k][0]
    return value


def _number(row: Row | None, stage: str, k: str) -> str:
    if row is None:
        return "-"
    value, low, high = row[stage]["pass_at"][k]
    return f"{value:.3f} ({low:.2f}-{high:.2f})" if high > 0 else f"{value:.3f}"


def _spread(values: Sequence[float]) -> str:
    """The mean, with the range where there are several."""
    several = f" ({min(values):.3f}-{max(values):.3f})" if len(values) > 1 else ""
    return f"{mean(values):.3f}{several}"


def _mean(rows: Sequence[Row], stage: str, k: str) -> str:
    return f"{mean(_at(row, stage, k) for row in rows):.3f}"


def _percent(rate: dict[str, Any]) -> str:
    value, low, high = rate["value"], rate["low"], rate["high"]
    if value is None or not np.isfinite(value):
        return "-"
    return f"{value:.1%} ({low:.1%}-{high:.1%})"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
