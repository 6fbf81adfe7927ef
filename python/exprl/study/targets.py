"""What a user calls a model (`runs/a`, `runs/a@step-10`, a hub id), to weights and config."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exprl import config
from exprl.errors import ConfigError
from exprl.run import checkpoint
from exprl.study.overrides import refuse_dead

READ_BY_EVAL = (
    *("eval", "model", "rollout", "reward", "domains", "sandbox"),
    *("seed", "train.torch_threads"),
)
NOT_READ_BY_EVAL = {
    "data": "the problems of an evaluation are in eval.data, e.g. --set eval.data.limit=100",
    "model.path": "name the model as an argument",
    "eval.every": "it measures each model once",
    "rollout.temperature": "use eval.temperature",
    "rollout.group_size": "use -n",
    "rollout.problems_per_step": "it takes every problem; use eval.data.limit for fewer",
}
"""Keys, and what to write instead."""


@dataclass(frozen=True, slots=True)
class Target:
    """A model to measure.

    name: as the user wrote it.
    weights: folder or hub id in Hugging Face format.
    run_dir: the run that it belongs to; None for a model that is no run's.
    step: training steps behind the weights; 0 for a model that is no run's.
    """

    name: str
    weights: str
    run_dir: Path | None
    step: int


def find(name: str) -> Target:
    """Resolve a name: a run folder (its newest checkpoint), RUN@step-N, a checkpoint or a model.

    RUN@step-0 is the model that the run started from.

    Raises:
        ConfigError: a run has no such checkpoint; says which it has.
    """
    folder, _, step = name.rpartition("@")
    if folder and is_run(Path(folder)) and not Path(name).exists():
        return _find_step(name, Path(folder), step)
    path = Path(name)
    if is_run(path):
        newest = checkpoint.latest(path)
        if newest is None:
            raise ConfigError(f"{name} is a run without a whole checkpoint yet")
        return Target(name, str(newest), path, _parse_step(newest))
    if path.parent.name == "checkpoints" and is_run(path.parent.parent):
        return Target(name, name, path.parent.parent, _parse_step(path))
    return Target(name, name, None, 0)


def is_run(folder: Path) -> bool:
    """Whether the folder is a run's."""
    return (folder / "config.toml").is_file()


def load_config(run_dir: Path) -> config.Config:
    """The resolved config of a run.

    Raises:
        ConfigError: RUN/config.toml is missing or unusable.
    """
    return config.load(run_dir / "config.toml")


def make_eval_config(
    target: Target, source: Path, data: str | None, samples: int | None, overrides: Sequence[str]
) -> config.Config:
    """The config to evaluate a target under: a file's, with the target's weights and the options.

    Args:
        source: TOML file.
        data: problems with answers, all of which are taken; None takes eval.data of the file.
        samples: n; None takes eval.samples of the file.

    Raises:
        ConfigError: nothing says which problems to evaluate on, the config is unusable, or an
            override has no effect on an evaluation.
    """
    refuse_dead(overrides, READ_BY_EVAL, NOT_READ_BY_EVAL, "exprl eval")
    tree = config.read(source)
    changes = [f"model.path={json.dumps(target.weights)}", *overrides]
    if samples is not None:
        changes.append(f"eval.samples={samples}")
    section = tree.setdefault("eval", {})
    if not isinstance(section.get("data"), dict):
        if data is None:
            raise ConfigError(f"{source} has no eval.data: name the problems with --data")
        section["data"] = dict(tree.get("data", {}))
    if data is not None:
        for key in ("sources", "limit"):  # what they say of another file
            section["data"].pop(key, None)
        changes.append(f"eval.data.path={json.dumps(data)}")
    return config.build(config.override(tree, changes), str(source))


def _find_step(name: str, run_dir: Path, step: str) -> Target:
    digits = step.removeprefix("step-")
    if not digits.isdecimal():
        raise ConfigError(f"{name}: after @ stands a step, such as {run_dir}@step-10")
    number = int(digits)
    if number == 0:
        return Target(name, load_config(run_dir).model.path, run_dir, 0)
    folder = run_dir / "checkpoints" / f"step-{number:05d}"
    if not folder.is_dir():
        kept = [_parse_step(path) for path in checkpoint.folders(run_dir)]
        has = f"it has {', '.join(f'@step-{n}' for n in [0, *kept])}"
        raise ConfigError(f"{run_dir} has no checkpoint of step {number}; {has}")
    return Target(name, str(folder), run_dir, number)


def _parse_step(folder: Path) -> int:
    digits = folder.name.removeprefix("step-")
    if not digits.isdecimal():
        raise ConfigError(f"{folder} is not a checkpoint: its name is not step-NNNNN")
    return int(digits)
