"""A run as long as real ones, and the time to read parts of it.

    python bench/view.py make RUN      # 230 steps x 576 rollouts x 10,000 tokens, 6 million replies
    python bench/view.py measure RUN   # reader of rollouts, reader of the ledger
    python bench/view_pages.py RUN     # pages of the viewer

The rollouts are written by the run's own writer. Texts are words at random, tokens and their
log-probs random numbers, which compress worse than real ones. Grades and keys stand in the ledger
too, so that every step finds its reply; `make` needs cargo for that.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _row import Row, report, seconds

from exprl import config, files
from exprl.judge import LedgerReader
from exprl.monitor.picks import PICKS, pick
from exprl.monitor.rollout_file import write_rollouts
from exprl.monitor.rollout_reader import Rollouts
from exprl.types import Message, Problem, Prompt, Rollout, Scored, Segment

ROOT = Path(__file__).parents[1]
STEPS, PROBLEMS, GROUP, TOKENS, GRADES = 230, 36, 16, 10_000, 6_000_000
VOCABULARY = 150_000
DOMAIN = "division"  # of the config whose judge the run has
SAMPLES = 25
WORDS = "so we take the sum of both sides and divide it by 2 which gives x = 17 hence 3x + 4 is odd"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("make", "measure"))
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of a rollout, mean")
    parser.add_argument("--grades", type=int, default=GRADES, help="of the run, about so many")
    args = parser.parse_args()
    if args.action == "make":
        make(args.run, args.steps, args.tokens, args.grades)
    else:
        report("view", list(measure(args.run)), ("pyarrow",))


def make(run_dir: Path, steps: int, tokens: int, grades: int) -> None:
    """Write a run's rollouts, config, metrics and ledger."""
    per_rollout = round(grades / (steps * PROBLEMS * GROUP))
    run_dir.mkdir(parents=True)
    cfg = config.load(ROOT / "configs/division_process.toml", [f"run_dir={run_dir}"])
    files.write_text(run_dir / "config.toml", config.to_toml(cfg))
    rng = np.random.default_rng(0)
    fill = ["cargo", "run", "--release", "-q", "-p", "exprl-judge", "--example", "fill_ledger"]
    folder = (run_dir / "ledger").absolute()
    start = time.perf_counter()
    with subprocess.Popen([*fill, "--", str(folder)], stdin=subprocess.PIPE, cwd=ROOT) as filler:
        assert filler.stdin is not None
        for step in range(1, steps + 1):
            keys, given = write_step(run_dir, step, tokens, per_rollout, rng)
            filler.stdin.write(np.hstack([keys, given[:, None]]).tobytes())
            row = {"step": step, "time_s": time.time(), "reward/mean": float(given.mean() - 1) / 4}
            files.append_jsonl(run_dir / "metrics.jsonl", row | {"reward/correct_rate": 0.4})
            print(f"step {step} of {steps}, {time.perf_counter() - start:.0f} s", flush=True)
    if filler.returncode:
        raise SystemExit("the ledger was not written")
    print(json.dumps({name: f"{size:,}" for name, size in sizes(run_dir).items()}))


def write_step(
    run_dir: Path, step: int, tokens: int, steps: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Write a step's rollouts; returns keys [S, 32] and grades [S], uint8, of all their steps."""
    count = PROBLEMS * GROUP
    keys = rng.integers(0, 256, (count * steps, 32), np.uint8)
    grades = rng.choice(np.arange(1, 6, dtype=np.uint8), count * steps, p=(0.3, 0.1, 0.1, 0.2, 0.3))
    pool = texts(rng, 4 * tokens // steps)
    names = [f"step-{step}-{i:02d}" for i in range(PROBLEMS)]
    scored = []
    for i in range(count):
        own = slice(i * steps, (i + 1) * steps)
        length = int(tokens * rng.uniform(0.5, 1.5))
        scored.append(
            make_rollout(names[i // GROUP], i % GROUP, length, keys[own], grades[own], pool, rng)
        )
    scores = [np.array(one.scores) for one in scored]
    problems = {
        name: Problem(name, Prompt(name, (Message("user", pool[0]),)), "42", DOMAIN)
        for name in names
    }
    write_rollouts(
        run_dir,
        step,
        scored,
        [np.diff(one, prepend=one[-1]) for one in scores],  # delta
        problems=problems,
        references=dict.fromkeys(names, "\n".join(pool[:8])),
        trained_version=step - 1,
    )
    return keys, grades


def make_rollout(
    name: str,
    index: int,
    length: int,
    keys: np.ndarray,
    grades: np.ndarray,
    pool: Sequence[str],
    rng: np.random.Generator,
) -> Scored:
    ends = np.linspace(0, length, len(grades) + 1).astype(int)[1:].tolist()
    chosen = rng.integers(0, len(pool), len(grades)).tolist()
    segments = [
        Segment(start, end, pool[i])
        for start, end, i in zip([0, *ends[:-1]], ends, chosen, strict=True)
    ]
    rollout = Rollout(
        name,
        index,
        np.zeros(1, np.int32),
        rng.integers(0, VOCABULARY, length, np.int32),
        -rng.exponential(0.5, length).astype(np.float32),
        "length" if length > 1.45 * len(grades) * (ends[0] or 1) else "stop",
        np.zeros(length, np.int32),
    )
    marks = tuple(grades.tolist())
    return Scored(
        rollout,
        tuple(segments),
        marks,
        tuple((mark - 1) / 4 for mark in marks),
        bool(rng.random() < 0.4),
        domain=DOMAIN,
        statuses=("ok",) * len(marks),
        ledger_keys=tuple(bytes(key).hex() for key in keys),
    )


def texts(rng: np.random.Generator, length: int) -> list[str]:
    """Texts of about so many characters, of words at random."""
    words = np.array(WORDS.split())
    return [
        "### " + " ".join(words[rng.integers(0, len(words), max(1, length // 5))])
        for _ in range(256)
    ]


def measure(run_dir: Path) -> Iterator[Row]:
    """A row for each way of reading, for steps and rollouts that lie far apart."""
    rollouts = Rollouts(run_dir)
    steps = rollouts.steps()
    rng = np.random.default_rng(1)
    chosen = rng.choice(steps, SAMPLES, replace=len(steps) < SAMPLES).tolist()
    size = {f"{name}_bytes": value for name, value in sizes(run_dir).items()}
    rows = len(rollouts.table(steps[0]))
    note = f"{len(steps)} steps x {rows} rollouts"
    yield Row("narrow table of a step", each(rollouts.table, chosen), note=note, extra=size)
    one = partial(rollouts.read, row=rows // 2)
    yield Row("one rollout", each(one, chosen), note=f"{one(steps[0]).length:,} tokens")
    firsts = {step: rollouts.read(step, 0).problem_id for step in chosen}
    group = [spent(partial(rollouts.group, step, firsts[step])) for step in chosen]
    yield Row("one group", group, note=f"{GROUP} rollouts")
    for name in ("wrong_but_5", "largest_advantage"):
        taken = seconds(partial(pick, rollouts, name, steps, 10), 3)
        yield Row(f"{name} over all steps", taken, note=PICKS[name].meaning)
    yield from measure_ledger(run_dir / "ledger", rollouts, chosen)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    yield Row("memory", [peak], "MB", "the largest of this process, ledger's index included")


def measure_ledger(folder: Path, rollouts: Rollouts, steps: Sequence[int]) -> Iterator[Row]:
    keys = [step.ledger_key for one in steps for step in rollouts.read(one, 1).steps]
    rest = np.random.default_rng(2).permutation([key for key in keys if key]).tolist()
    (folder / "replies.index").unlink(missing_ok=True)
    with LedgerReader(folder) as reader:
        first = spent(partial(reader.get, rest[0]))
        yield Row("first reply, which makes the ledger's index", [first])
        yield Row("a reply", each(reader.get, rest), note=f"{len(rest)} keys at random")
        lost = sum(reader.get(key) is None for key in rest)
        if lost:
            raise SystemExit(f"{lost} replies were not found")

    def open_and_get() -> None:
        with LedgerReader(folder) as again:
            again.get(rest[-1])

    yield Row("open the ledger again and get a reply", seconds(open_and_get, SAMPLES))


def each(work: Callable[[Any], object], inputs: Sequence[Any]) -> list[float]:
    """Seconds of each call."""
    return [spent(partial(work, one)) for one in inputs]


def spent(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def sizes(run_dir: Path) -> dict[str, int]:
    """Bytes on disk of rollouts, ledger and its index."""
    return {
        "rollouts": sum(p.stat().st_size for p in (run_dir / "rollouts").glob("*.parquet")),
        "ledger": (run_dir / "ledger" / "replies.ledger").stat().st_size,
    }


if __name__ == "__main__":
    main()
