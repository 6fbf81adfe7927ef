"""`exprl prove` on data sets whose faults are known, and its rule on simulated pilots.

    python bench/known_faults.py              all pilots; finished ones are not repeated
    python bench/known_faults.py --set right  one of them
    python bench/known_faults.py --rule       the rule alone, on simulated outcomes: no training

Every data set is made of long divisions (examples/division), which a policy of 0.28 M parameters
learns in minutes. What is true of each is said beside it, and was decided before its pilot ran.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.append(str(Path(__file__).parents[1] / "examples" / "division"))

import numpy as np
from _row import RESULTS, machine
from division import EASY_DIGITS, HARD_DIGITS, draw_problem

from exprl import config, files
from exprl.study.prove.command import Request, command
from exprl.study.prove.effect import estimate_effect
from exprl.study.prove.verdict import CONTROLS, LEAST_SEEDS, decide, interval_level

HERE = Path(__file__).parent
BENCH = "known_faults"
BASE = HERE.parent / "examples" / "division" / "base"
ROWS, HELD_OUT = 96, 80
Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class DataSet:
    """Rows with a known fault.

    truth: verdicts that are true of it; none = another pilot says it, with another split and seeds.
    why: in words.
    """

    name: str
    rows: Callable[[], list[Row]]
    truth: tuple[str, ...]
    why: str
    overrides: tuple[str, ...] = ()
    held_out: int = HELD_OUT


def right_rows(count: int = ROWS, *, easy: bool = False) -> list[Row]:
    """Divisions, all different, with right references and answers."""
    rng = random.Random(20261128)
    drawn: dict[Any, None] = {}
    while len(drawn) < count:
        drawn[draw_problem(rng, rng.choice(EASY_DIGITS) if easy else HARD_DIGITS)] = None
    return [{"problem": p.prompt, "reference": p.reference, "answer": p.answer} for p in drawn]


def swapped_rows(share: float) -> list[Row]:
    """The same, with the references of so many rows moved on among these rows."""
    rows = right_rows()
    chosen = random.Random(1).sample(range(len(rows)), round(share * len(rows)))
    moved = [rows[i]["reference"] for i in chosen[1:] + chosen[:1]]
    for i, reference in zip(chosen, moved, strict=True):
        rows[i]["reference"] = reference
    return rows


def empty_rows() -> list[Row]:
    """References that say nothing about the solution."""
    rows = right_rows()
    return [row | {"reference": f"See page {i} of the book."} for i, row in enumerate(rows, 10)]


SETS = (
    DataSet("right", right_rows, ("yes",), "references are right"),
    DataSet("all swapped", lambda: swapped_rows(1.0), ("no",), "no reference fits its problem"),
    DataSet("30 % swapped", lambda: swapped_rows(0.3), (), "what is true has to be measured"),
    DataSet(
        "too few",
        lambda: right_rows(10),
        ("cannot tell",),
        "four problems to measure on show nothing",
        held_out=4,
    ),
    DataSet(
        "judge at random",
        right_rows,
        ("no",),
        "the judge reads neither solution nor reference",
        ("judge.fault_random_rate=1.0",),
    ),
    DataSet(
        "judge knows it all",
        right_rows,
        ("no",),
        "the judge solves the problem itself: right references teach as much as wrong ones",
        ("reward.source=known_faults_judge:grade",),
    ),
    DataSet("empty references", empty_rows, ("no",), "the references do not hold the solution"),
    DataSet(
        "easy problems",
        lambda: right_rows(easy=True),
        ("no", "cannot tell"),
        "the base solves 85 %, and the verifier alone teaches the rest",
    ),
)


def settings(one: DataSet, path: Path, seed: int) -> config.Config:
    """A small and quick run of the miniature."""
    tree = {
        "method": "exprl-process",
        "seed": seed,
        "model": {"path": str(BASE), "dtype": "float32"},
        "data": {"path": str(path), "domain": "division"},
        "domains": {"division": {"verifier": "exact"}},
        "rollout": {
            "engine": "transformers",
            "problems_per_step": 8,
            "group_size": 8,
            "max_prompt_tokens": 32,
            "max_response_tokens": 96,
        },
        "judge": {"kind": "rules", "rules": "division"},
        "loss": {"clip_high": 0.28},
        "optim": {"lr": 5e-4, "mini_batches": 4, "micro_batch_tokens": 16384},
        "train": {"steps": 8, "torch_threads": 1},
        "eval": {"samples": 4},
    }
    return config.build(config.override(tree, one.overrides), one.name)


def run_pilot(one: DataSet, out: Path, seed: int = 0) -> dict[str, Any]:
    """Run the pilot of a data set, or find it finished; returns its row."""
    folder = out / (one.name.replace(" ", "-").replace("%", "percent") + f"-seed{seed}")
    data = folder / "data.jsonl"
    files.write_jsonl(data, one.rows())
    request = Request(settings(one, data, seed), folder / "pilot", held_out=one.held_out)
    result = command(request, print)
    if result is None:
        raise SystemExit(130)
    return {
        "set": one.name,
        "why": one.why,
        "seed": seed,
        "verdict": result.verdict.answer,
        "reasons": list(result.verdict.reasons),
        "effects": [asdict(effect) for effect in result.verdict.effects],
        "after": {arm.arm: [round(value, 4) for value in arm.after] for arm in result.arms},
        "before": round(float(np.mean(result.arms[0].before)), 4),
        "seeds": len(result.seeds),
        "rollouts": result.cost.rollouts,
        "step_s": round(result.cost.seconds or 0.0, 1),
    }


def work(sets: list[DataSet], out: Path) -> Iterator[dict[str, Any]]:
    """A row for each data set, with the truth that was known or is measured."""
    for one in sets:
        row, truth = run_pilot(one, out), list(one.truth)
        if not truth:
            truth = [run_pilot(one, out, seed=100)["verdict"]]
        yield row | {"truth": truth, "true": row["verdict"] in truth}


def save(row: dict[str, Any]) -> None:
    """Append the row in place of an older one of the same data set."""
    path = RESULTS / f"{BENCH}.jsonl"
    old = files.read_jsonl(path) if path.exists() else []
    kept = [one for one in old if one.get("set") != row.get("set")]
    files.write_jsonl(path, [*kept, machine(("torch", "transformers")) | {"bench": BENCH} | row])


def show() -> int:
    """Print the table of all rows; returns how many verdicts are false."""
    path = RESULTS / f"{BENCH}.jsonl"
    rows = [row for row in files.read_jsonl(path) if row["set"] != "rule"] if path.exists() else []
    print(f"\n{'data set':20} {'verdict':12} {'true is':18} {'right - wrong':>26} {'seeds':>5}")
    for row in rows:
        effect = next(e for e in row["effects"] if e["control"] == "wrong")
        shown = f"{effect['value']:+.3f} ({effect['low']:+.3f} to {effect['high']:+.3f})"
        truth = " or ".join(row["truth"])
        mark = "" if row["true"] else "  FALSE"
        print(f"{row['set']:20} {row['verdict']:12} {truth:18} {shown:>26} {row['seeds']:>5}{mark}")
    false = sum(not row["true"] for row in rows)
    print(f"{len(rows) - false} of {len(rows)} verdicts are true")
    return false


def simulate(effect: float, problems: int, pilots: int, least: float, seeds: int) -> Counter[str]:
    """Verdicts over simulated pilots in which `right` gains `effect` over every control.

    Problems differ (standard deviation .2), runs differ (.03), and each problem has 8 samples.
    """
    found: Counter[str] = Counter()
    level = interval_level(seeds)
    for number in range(pilots):
        rng = np.random.default_rng([number, problems, round(1000 * effect)])
        hard = rng.normal(0.0, 0.2, problems)

        def draw(
            mean: float, rng: np.random.Generator = rng, hard: np.ndarray = hard
        ) -> np.ndarray:
            chance = np.clip(mean + hard + rng.normal(0.0, 0.03, (seeds, 1)), 0.0, 1.0)
            return rng.binomial(8, chance) / 8

        ours, controls = draw(0.3 + effect), [draw(0.3) for _ in CONTROLS]
        for look in range(LEAST_SEEDS, seeds + 1):
            pairs = zip(CONTROLS, controls, strict=True)
            effects = [estimate_effect(n, ours[:look], c[:look], level) for n, c in pairs]
            answer = decide(effects, least).answer
            if answer != "cannot tell":
                break
        found[answer] += 1
    return found


def check_rule(pilots: int) -> None:
    """How often the rule says what, where the truth is known; saves a row."""
    least, seeds = 0.05, 3
    table = []
    print(f"{pilots} simulated pilots each, least effect {least}, {seeds} seeds at most")
    print(f"{'true effect':>11} {'problems':>8} {'yes':>6} {'no':>6} {'cannot tell':>11}")
    for effect in (0.0, 0.05, 0.1, 0.3):
        for problems in (16, 64, 128):
            found = simulate(effect, problems, pilots, least, seeds)
            shares = {answer: found[answer] / pilots for answer in ("yes", "no", "cannot tell")}
            table.append({"effect": effect, "problems": problems, **shares})
            cells = f"{shares['yes']:6.1%} {shares['no']:6.1%} {shares['cannot tell']:11.1%}"
            print(f"{effect:11.2f} {problems:8} {cells}", flush=True)
    save({"set": "rule", "pilots": pilots, "least": least, "seeds": seeds, "table": table})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/known-faults"))
    parser.add_argument("--set", action="append", choices=[one.name for one in SETS])
    parser.add_argument("--rule", action="store_true", help="simulate pilots instead")
    parser.add_argument("--pilots", type=int, default=200, help="of --rule, in each cell")
    parser.add_argument("--show", action="store_true", help="print the rows that there are")
    args = parser.parse_args()
    if args.rule:
        check_rule(args.pilots)
        return
    # A reward of a data set above is a function in this folder, which other processes import.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    chosen = [one for one in SETS if not args.set or one.name in args.set]
    for row in () if args.show else work(chosen, args.out):
        save(row)
        print(json.dumps({key: row[key] for key in ("set", "verdict", "truth", "after")}))
    sys.exit(1 if show() else 0)


if __name__ == "__main__":
    main()
