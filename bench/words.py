"""Does a language model learn word problems from hidden references, and from what else does it?

    python examples/words/make_model.py examples/words/model
    python bench/words.py                                 # all arms and seeds: hours
    python bench/words.py --arms process sparse --seeds 0
    python bench/words.py --report-only                   # rows and table of what is done

The arms are the configs of examples/words. A finished run is not repeated, and one that was killed
goes on at its last checkpoint. Rows go to bench/results/words.jsonl; the table has pass@1 and
pass@8 of both test sets with 95 % intervals (bootstrap over problems), what a run cost, and how it
went. Then follows what Process gains over its controls. `base` is the model that nobody trained.
The curves are in docs/project/words/curves.svg.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "examples" / "words"))

import _arms
import numpy as np
from paper.figures import save
from progress import score
from pyarrow import parquet

from exprl import files
from exprl.evaluate.during_training import evaluate_now, read_evaluations
from exprl.evaluate.pass_at_k import Evaluation
from exprl.monitor.metrics_log import read_metrics
from exprl.monitor.progress import Progress
from exprl.run.open import open_run
from exprl.steps import split_text
from exprl.study.plots import make_figure
from exprl.study.prove.effect import estimate_effect

CONFIGS = _arms.REPOSITORY / "configs"
KS = (1, 8)
COLUMNS = {
    "reward": "reward/mean",
    "right": "reward/correct_rate",
    "per_rollout": "steps/per_rollout",
    "length": "rollout/length_mean",
    "overlong": "rollout/overlong_rate",
    "entropy": "policy/entropy",
    "step_s": "time/step_s",
}
CURVES = ("first", "whole", "right", "overlong", "length", "entropy")
PANELS = {
    "first": "rollouts whose first line is right",
    "whole": "rollouts with every line right",
}
DRAWN = ("process", "outcome", "wrong reference", "sparse")
PICTURE = _arms.REPOSITORY / "docs" / "project" / "words" / "curves.svg"
TRAIN = _arms.REPOSITORY / "examples" / "words" / "train.jsonl"
CONTROLS = ("sparse", "wrong reference")
WINDOW = 5
"""Training steps that a number of a printed curve is the mean of."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A config with settings of its own.

    seeds: how many it is run with.
    start: the arm whose run of the same seed it goes on from.
    """

    config: str
    settings: tuple[str, ...] = ()
    seeds: int = 1
    start: str | None = None


ARMS = {
    "base": Arm("process"),
    "process": Arm("process", seeds=3),
    "sparse": Arm("sparse", seeds=3),
    "sft": Arm("sft"),
    "wrong reference": Arm("process", ("judge.condition=wrong",), seeds=3),
    "outcome": Arm("outcome"),
    "stage2 from base": Arm("stage2", ("init_from=none",)),
    "stage2 from process": Arm("stage2", start="process"),
}
"""In the order in which they are run; the first seed of all goes before the next. `base` is the
model that nobody trained."""


def plan(names: list[str], seeds: list[int], common: tuple[str, ...], out: Path) -> list[_arms.Run]:
    """The runs of these arms and seeds, as far as the arms have the seeds."""
    runs = []
    for seed in seeds:
        for name in (name for name in names if seed < ARMS[name].seeds):
            arm = ARMS[name]
            start = f"init_from={json.dumps(str(folder(out, arm.start, seed)))}"
            settings = (*common, *arm.settings, *((start,) if arm.start else ()))
            config = CONFIGS / f"words_{arm.config}.toml"
            runs.append(_arms.Run(name, seed, settings, folder(out, name, seed), True, config))
    return runs


def folder(out: Path, arm: str | None, seed: int) -> Path:
    """Where the run of an arm lies."""
    return out / f"{arm}-seed{seed}".replace(" ", "-")


def work(runs: list[_arms.Run]) -> None:
    """Train whatever is not done, in order; of the base, only measure it."""
    left = [(run, run.settings()) for run in runs if not is_done(run)]
    if not left:
        return
    engine = _arms.open_shared_engine([cfg for _, cfg in left])
    for run, cfg in left:
        print(f"== {run.arm}, seed {run.seed}", flush=True)
        if run.arm == "base":
            with Progress() as progress, open_run(cfg, engine) as (parts, _):
                evaluate_now(cfg, parts, 0, progress)
        else:
            _arms.run_arm(run, cfg, engine)


def is_done(run: _arms.Run) -> bool:
    """Whether the run is trained and evaluated; the base is never trained."""
    return bool(read_evaluations(run.folder)) if run.arm == "base" else _arms.is_done(run)


def rows(runs: list[_arms.Run]) -> list[dict[str, Any]]:
    """A row for each run that is done."""
    found = []
    for run in (run for run in runs if is_done(run)):
        if run.arm == "base":
            about = {**_arms.about("words"), "arm": "base", "seed": 0}
            found.append(about | passed(read_evaluations(run.folder)[0]))
            continue
        row = _arms.about("words") | _arms.row(run, COLUMNS) | cost(run.folder)
        row |= measure_lines(run.folder)
        row["settings"] = [one for one in row["settings"] if not one.startswith('init_from="')]
        last = max(one.step for one in read_evaluations(run.folder))
        found.append(row | passed(read_evaluations(run.folder)[-1]) | examples(run.folder, last))
    return found


def passed(evaluation: Evaluation) -> dict[str, Any]:
    """pass@k of each test set, each with its 95 % interval: [value, low, high].

    `solved` has the share of right samples of each problem of both sets, in the order of their ids.
    """
    solved = {one.problem_id: one.c / one.n for one in evaluation.outcomes}
    return {
        "samples": evaluation.samples,
        "solved": [round(solved[problem], 4) for problem in sorted(solved)],
        "pass_at": {
            name: {
                str(k): [round(x, 4) for x in (own.at(k), *own.interval(k))]
                for k in KS
                if k <= own.samples
            }
            for name, own in evaluation.by_domain().items()
        },
        "problems": {n: len(own.outcomes) for n, own in evaluation.by_domain().items()},
    }


def cost(run: Path) -> dict[str, Any]:
    """Rollouts, sampled tokens and judge requests of all steps."""
    steps = read_metrics(run)
    totals = {
        "rollouts": "rollout/count",
        "tokens": "rollout/tokens",
        "judge_requests": "judge/requests",
    }
    return {name: round(sum(one.get(key) or 0 for one in steps)) for name, key in totals.items()}


def measure_lines(run: Path) -> dict[str, list[float]]:
    """By training step: the shares of rollouts whose first line, and whose every line, is right.

    All arms are measured by the rule that Process learns from, whatever their own reward is. Empty
    for a run that samples nothing.
    """
    references = {one["id"]: one["reference"] for one in files.read_jsonl(TRAIN)}
    shares: dict[str, list[float]] = {name: [] for name in PANELS}
    for file in sorted((run / "rollouts").glob("step-*.parquet")):
        rows = parquet.read_table(file, columns=["problem_id", "segments"]).to_pylist()
        scores = [
            score(split_text("".join(row["segments"]), "line"), references[row["problem_id"]])
            for row in rows
        ]
        shares["first"].append(round(mean(bool(one) and one[0] == 1.0 for one in scores), 4))
        shares["whole"].append(round(mean(bool(one) and min(one) == 1.0 for one in scores), 4))
    return shares


def examples(run: Path, last: int) -> dict[str, Any]:
    """The first rollout of the first and of the last step, whatever they are."""
    shown = {}
    for name, step in (("first", 1), ("last", last)):
        file = run / "rollouts" / f"step-{step:05d}.parquet"
        if file.exists():
            columns = ["question", "segments", "grades", "correct"]
            (one,) = parquet.read_table(file, columns=columns).slice(0, 1).to_pylist()
            shown[name] = one
    return {"examples": shown} if shown else {}


def table(found: list[dict[str, Any]]) -> None:
    """One line a run: pass@k of both test sets, and its cost."""
    order = list(ARMS)
    print(f"{'':22}{'new numbers':>46}{'new stories':>46}")
    for one in sorted(found, key=lambda one: (order.index(one["arm"]), one["seed"])):
        cells = [
            f"@{k} {rate[0]:.3f} [{rate[1]:.3f}, {rate[2]:.3f}]"
            for name in ("numbers", "stories")
            for k, rate in one["pass_at"][name].items()
        ]
        spent = f"{one['wall_s'] / 60:.0f} min, {one['tokens']:,} tokens" if "wall_s" in one else ""
        print(f"{one['arm']:20}{one['seed']:>2}" + "".join(f"{c:>23}" for c in cells), spent)


def gains(found: list[dict[str, Any]]) -> None:
    """Process minus each control: pass@1 over both test sets, with a 95 % interval.

    The interval draws seeds and problems, as that of `exprl prove` does.
    """
    by_seed = sorted(found, key=lambda one: one["seed"])
    for control in CONTROLS:
        ours, theirs = (
            np.array([one["solved"] for one in by_seed if one["arm"] == arm])
            for arm in ("process", control)
        )
        if len(ours) == len(theirs) > 1:
            gain = estimate_effect(control, ours, theirs, 0.95)
            values = f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
            print(f"process - {control}: {values}, {gain.seeds} seeds, {gain.problems} problems")


def curves(found: list[dict[str, Any]]) -> None:
    """How each run went: means of five steps, and its first and last rollout."""
    for one in (one for one in found if one["arm"] != "base"):
        print(f"\n{one['arm']}, seed {one['seed']}: means of {WINDOW} steps")
        for name in CURVES:
            values = [one[name][i : i + WINDOW] for i in range(0, len(one[name]), WINDOW)]
            known = [[x for x in part if x is not None] for part in values]
            print(f"  {name:12}", "".join(f"{mean(p):8.2f}" if p else "       -" for p in known))
        for when, shown in one.get("examples", {}).items():
            print(f"  {when} step: {shown['question']}\n    {'|'.join(shown['segments'])!r}")


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """The curves of PANELS: means over seeds, and the range of the seeds."""
    picture = make_figure(9.0, 3.6)
    for axes, (name, title) in zip(picture.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for colour, arm in enumerate(DRAWN):
            runs = [one[name] for one in found if one["arm"] == arm and one.get(name)]
            steps = range(1, min(map(len, runs), default=0) + 1)
            if steps:
                seeds = np.array([run[: len(steps)] for run in runs])
                label = f"{arm}, {len(runs)} seed{'s' * (len(runs) > 1)}"
                axes.plot(steps, seeds.mean(axis=0), color=f"C{colour}", label=label)
                low, high = seeds.min(axis=0), seeds.max(axis=0)
                axes.fill_between(steps, low, high, color=f"C{colour}", alpha=0.15, linewidth=0)
        axes.set(title=title, xlabel="step", ylim=(-0.02, 1.02))
        axes.locator_params(axis="x", integer=True)
        axes.grid(alpha=0.3)
    picture.axes[0].legend(frameon=False, fontsize="small")
    path.parent.mkdir(exist_ok=True)
    save(picture, path)


def parsed() -> argparse.Namespace:
    parser = _arms.make_parser(__doc__, "words", ARMS)
    parser.add_argument("--model", type=Path, help="the model's folder, if it lies elsewhere")
    parser.add_argument("--threads", type=int, help="of torch; default: what the configs say")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    out = options.out.resolve()
    common = (f"model.path={json.dumps(str(options.model.resolve()))}",) if options.model else ()
    if options.threads:
        common = (*common, f"train.torch_threads={options.threads}")
    os.chdir(_arms.REPOSITORY)
    runs = plan(options.arms, options.seeds, common, out)
    if not options.report_only:
        work(runs)
    found = _arms.save("words", rows(runs))
    table(found)
    gains(found)
    curves(found)
    draw(found, PICTURE)


if __name__ == "__main__":
    main()
