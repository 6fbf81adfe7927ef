"""RUN/config.toml: what a run was started with, and what may differ when it goes on."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from exprl import config, files
from exprl.errors import ConfigError
from exprl.run import checkpoint

# What may differ when a run goes on: where it lies, how long it is, how it is watched and how its
# judge is reached, not what it computes.
MAY_CHANGE = (
    "run_dir",
    *(f"judge.{field.name}" for field in fields(config.Judge) if field.metadata["may_change"]),
    "rollout.gpu_memory_utilization",
    "rollout.sync_gap_limit",
    "engine.",
    "ranks.",
    "cluster.",
    "train.steps",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.max_bad_steps",
    "train.ignore_memory",
    "alarms",
    "logging",
    "eval",
)


def resolve_init_from(cfg: config.Config) -> config.Config:
    """The config with model.path at the weights that init_from names, as RUN/config.toml has it.

    A run that exists keeps the checkpoint that it once started from, also where the run that
    init_from names has gone on since.

    Raises:
        ConfigError: init_from holds no model.
    """
    if cfg.init_from is None:
        return cfg
    recorded = recorded_config(Path(cfg.run_dir))
    if recorded is not None and recorded.init_from == cfg.init_from:
        path = recorded.model.path
    else:
        path = str(checkpoint.latest(Path(cfg.init_from)) or cfg.init_from)
    if not (Path(path) / "config.json").exists():
        raise ConfigError(
            f"init_from = {cfg.init_from!r}: {path} holds no model; name a run folder with a whole"
            " checkpoint, or a checkpoint"
        )
    return cfg.model_copy(update={"model": cfg.model.model_copy(update={"path": path})})


def recorded_config(run_dir: Path) -> config.Config | None:
    """The resolved config of a run; None where the folder holds none."""
    path = run_dir / "config.toml"
    return config.load(path) if path.exists() else None


def check_same_run(cfg: config.Config) -> None:
    """Refuse to go on with an earlier run under other settings.

    Raises:
        ConfigError: cfg.run_dir holds a checkpoint of one; names the settings.
    """
    run_dir = Path(cfg.run_dir)
    recorded = recorded_config(run_dir)
    if recorded is not None and checkpoint.latest(run_dir):
        differ = [
            f"\n  {key}: {then!r} then, {now!r} now{_why_fixed(cfg, key)}"
            for key, (then, now) in config.differences(recorded, cfg).items()
            if not key.startswith(MAY_CHANGE) or _why_fixed(cfg, key)
        ]
        if differ:
            raise ConfigError(
                f"{run_dir} holds a run with other settings; choose another run_dir or delete it."
                f" To train its model on under the new settings, fork it: run_dir=NEW"
                f" init_from={run_dir} (weights only: the optimizer and the steps begin anew)"
                + "".join(differ)
            )


def _why_fixed(cfg: config.Config, key: str) -> str:
    """Why a setting of MAY_CHANGE may not change in this run; empty where it may."""
    if key == "train.steps" and cfg.optim.schedule != "constant":
        return f" (the {cfg.optim.schedule} schedule of the learning rate ends with the run)"
    return ""


def record_config(cfg: config.Config) -> None:
    """Write RUN/config.toml."""
    files.write_text(Path(cfg.run_dir) / "config.toml", config.to_toml(cfg))
