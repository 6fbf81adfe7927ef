"""The cells of the paper's table: one start with one seed, through Stage I and Stage II.

A cell is two ordinary runs of `exprl train`, so a killed cell goes on at its last checkpoint and a
finished one is never run again. All cells of a process share one engine.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from exprl import config, files, train
from exprl.data.tokenizer import load_tokenizer
from exprl.evaluate.during_training import append_evaluation, evaluate_now, read_evaluations
from exprl.evaluate.pass_at_k import Evaluation
from exprl.monitor.progress import Progress
from exprl.rollout.engine import Engine, open_engine
from exprl.run import checkpoint
from exprl.run.open import open_run
from exprl.run.policy import set_threads

CONFIGS = Path(__file__).parents[2] / "configs"
SPENT = "spent.jsonl"  # what each run cost, kept in its folder


Common = Mapping[int, Sequence[str]]
"""Overrides that the scale gives all cells, by stage."""


@dataclass(frozen=True, slots=True)
class Start:
    """How Stage I trains.

    config: a file of configs/; None = no Stage I.
    """

    title: str
    config: str | None
    overrides: tuple[str, ...] = ()


STARTS = {
    "base": Start("none (base)", None),
    "sft": Start("SFT on the references", "division_sft.toml"),
    "grpo": Start("sparse GRPO", "division_sparse.toml"),
    "distill": Start("self-distillation", "division_distill.toml"),
    "outcome": Start("ExpRL-Outcome", "division_outcome.toml"),
    "delta": Start("ExpRL-Process, delta", "division_process.toml"),
    "group": Start("ExpRL-Process, group", "division_process.toml", ("advantage.kind=group",)),
    "end": Start("ExpRL-Process, end", "division_process.toml", ("advantage.kind=end",)),
    # The published code's group baseline is divided by the padded width (96 here): next to none.
    "uncentered": Start(
        "process, not centered",
        "division_process.toml",
        ("advantage.kind=group", "advantage.compat=published"),
    ),
}
PAPER_STARTS = ("delta", "outcome", "grpo", "distill", "sft", "base")
ABLATION_STARTS = ("group", "end", "uncentered")


@dataclass(frozen=True, slots=True)
class Cell:
    """A start with a seed."""

    start: str
    seed: int

    @property
    def name(self) -> str:
        """In folders and rows."""
        return f"{self.start}-seed{self.seed}"


def settings(cell: Cell, stage: int, out: Path, common: Common) -> config.Config:
    """The config of a cell's Stage I or II."""
    start = STARTS[cell.start]
    own = [f"seed={cell.seed}", f"run_dir={json.dumps(str(run_dir(cell, stage, out)))}"]
    if stage == 1:
        file = start.config or "division_sparse.toml"
        return config.load(CONFIGS / file, [*common[1], *start.overrides, *own])
    if start.config is not None:
        own.append(f"init_from={json.dumps(str(run_dir(cell, 1, out)))}")
    else:
        own.append("init_from=none")
    return config.load(CONFIGS / "division_stage2.toml", [*common[2], *own])


def run_dir(cell: Cell, stage: int, out: Path) -> Path:
    """Where a stage of a cell lives."""
    return out / "runs" / f"{cell.name}-stage{stage}"


def run(cell: Cell, out: Path, common: Common, engine: Engine) -> None:
    """Both stages; what is done already is left alone."""
    before = base_evaluation(cell.seed, out, common, engine)
    if STARTS[cell.start].config is not None:
        before = run_stage(settings(cell, 1, out, common), before, engine)
    run_stage(settings(cell, 2, out, common), before, engine)


def run_stage(cfg: config.Config, before: Evaluation, engine: Engine) -> Evaluation:
    """Train, and evaluate at the end.

    Args:
        before: the evaluation of the weights that the stage starts from. The run would repeat it
            with the same seeds, so it is given to it.
    """
    folder = Path(cfg.run_dir)
    if not is_done(cfg):
        folder.mkdir(parents=True, exist_ok=True)
        if not read_evaluations(folder):
            append_evaluation(folder, replace(before, step=0))
        wall, cpu = time.perf_counter(), time.process_time()
        with Progress() as progress, open_run(cfg, engine) as (parts, state):
            result = train.train(cfg, parts, state, progress)
        if result.interrupted:
            raise SystemExit(130)
        spent = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        files.append_jsonl(folder / SPENT, spent)
    return read_evaluations(folder)[-1]


def is_done(cfg: config.Config) -> bool:
    """Whether the run has its last step and the evaluation after it."""
    folder = checkpoint.latest(Path(cfg.run_dir))
    evaluations = read_evaluations(Path(cfg.run_dir))
    last = cfg.train.steps
    return (
        folder is not None
        and checkpoint.load_state(folder).step == last
        and any(e.step == last for e in evaluations)
    )


def base_evaluation(seed: int, out: Path, common: Common, engine: Engine) -> Evaluation:
    """The base policy on the held-out problems, sampled once for each seed."""
    cell = Cell("base", seed)
    cfg = settings(cell, 1, out, common)
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"base-seed{seed}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = read_evaluations(Path(cfg.run_dir))
        if not found:
            with Progress() as progress, open_run(cfg, engine) as (parts, _):
                evaluate_now(cfg, parts, 0, progress)
            found = read_evaluations(Path(cfg.run_dir))
    return found[0]


@contextmanager
def claimed(cell: Cell, out: Path) -> Iterator[IO[str] | None]:
    """Hold a cell, so that no other process takes it; None if one has it. A kill lets it go."""
    folder = out / "claims"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / cell.name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield file


def work(cells: Sequence[Cell], out: Path, common: Common) -> None:
    """Run whatever of `cells` is neither done nor taken, in order."""
    cfg = settings(cells[0], 1, out, common)
    set_threads(cfg.train.torch_threads)
    engine: Engine | None = None
    for cell in cells:
        with claimed(cell, out) as claim:
            if claim is None or is_done(settings(cell, 2, out, common)):
                continue
            engine = engine or open_engine(
                cfg.model, cfg.rollout, tokenizer=load_tokenizer(cfg.model), weights=cfg.model.path
            )
            print(f"== {cell.name}", flush=True)
            run(cell, out, common, engine)
