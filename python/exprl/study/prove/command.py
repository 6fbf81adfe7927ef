"""`exprl prove`: plan, forecast or runs, and the verdict."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import exprl
from exprl import config, files
from exprl.errors import EngineError, JudgeError
from exprl.study.prove import cost, output
from exprl.study.prove.arms import check_provable, prepare_base
from exprl.study.prove.page import PAGE, write_page
from exprl.study.prove.pilot import RUNS, run_pilot
from exprl.study.prove.plan import FILE_NAME, Plan, keep_plan, make_plan
from exprl.study.prove.result import Result, read_result
from exprl.study.prove.split import Split, split_rows

RESULT = "prove.json"
STEPS = 40
"""Steps of each run, where neither the command nor a shorter config says it."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a pilot is asked for.

    cfg: as for training, with the data file to prove.
    steps: of each run; None takes the config's, STEPS at most.
    held_out: problems to measure on; None takes a quarter of them.
    """

    cfg: config.Config
    out: Path
    steps: int | None = None
    seeds: int = 3
    held_out: int | None = None
    least_effect: float = 0.05


def command(request: Request, tell: Callable[[str], object]) -> Result | None:
    """Write the plan, run the pilot, write the page; the same again goes on where it ended.

    Returns:
        The result; None where Ctrl-C ended it before its end.

    Raises:
        ConfigError: the config or the data do not fit a pilot, or another plan is in the folder.
        DataError: a row cannot be read.
    """
    split = split_of(request)
    base, plan = prepare(request, split, request.out / "data")
    digest = keep_plan(request.out, plan)
    tell(f"plan: {request.out / FILE_NAME}, SHA-256 {digest}")
    for line in output.warn_of_few(plan):
        tell(f"warning: {line}")
    split.write(request.out / "data")
    if not run_pilot(plan, base, request.out / RUNS, tell):
        return None
    result = read_result(plan, base, request.out)
    if result is not None:
        files.write_json(request.out / RESULT, result.to_json())
        write_page(result, request.out / PAGE)
    return result


def forecast(request: Request, *, tries: bool, tell: Callable[[str], object]) -> None:
    """Print the plan and what it would cost; nothing stays on the disk.

    Args:
        tries: train one step, which tells what tokens and time it takes.
    """
    split = split_of(request)
    with tempfile.TemporaryDirectory(prefix="exprl-prove-") as folder:
        split.write(Path(folder))
        base, plan = prepare(request, split, Path(folder))
        tried = None
        if tries:
            try:
                tried = cost.try_step(base)
            except (EngineError, JudgeError) as error:
                tell(f"no step could be tried, so that tokens and time are not known: {error}")
        found = cost.forecast_pilot(base, len(plan.seeds), len(plan.held_out), tried)
        output.show_forecast(plan, base, found)


def split_of(request: Request) -> Split:
    """The split of the data file."""
    check_provable(request.cfg)
    cfg = request.cfg
    return split_rows(cfg.data.parts[0], cfg.treatment, request.held_out, cfg.seed)


def prepare(request: Request, split: Split, data: Path) -> tuple[config.Config, Plan]:
    """The config of the runs, and the plan.

    Args:
        data: folder of the split's files.
    """
    steps = request.steps or min(STEPS, request.cfg.train.steps)
    base = prepare_base(request.cfg, data, steps, len(split.train))
    path = request.cfg.data.parts[0].path
    plan = make_plan(exprl.__version__, path, split, base, request.seeds, request.least_effect)
    return base, plan
