"""The arms of a pilot: one config each, which differ in what the reward knows and nothing else."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal, get_args

from exprl import config
from exprl.config.section import lay_over
from exprl.errors import ConfigError
from exprl.study.prove.split import ROW

Arm = Literal["right", "wrong", "shuffled", "sparse"]
ARMS: tuple[Arm, ...] = get_args(Arm)

SAYS: dict[Arm, str] = {
    "right": "the judge sees each problem's own reference",
    "wrong": "the judge sees the reference of another problem",
    "shuffled": "grades are dealt at random among a problem's rollouts",
    "sparse": "0 or 1 by the verifier, without judge and reference",
}
_BY_REWARD = ("source", "verifier_weight", "view", "rubric", "advantage")
"""Keys of a domain that say where its reward comes from."""


def check_provable(cfg: config.Config) -> None:
    """Refuse a config whose reward looks at no reference, or cannot be given wrong ones.

    Raises:
        ConfigError: names the setting.
    """
    if len(cfg.data.parts) > 1:
        raise ConfigError(
            "data.sources: a pilot is about one data set; name its file, and leave"
            " data.sources out of the config"
        )
    if not (cfg.asks_judge or cfg.own_rewards) or cfg.loss.objective != "policy_gradient":
        raise ConfigError(
            f"method = {cfg.method!r}, reward.source = {cfg.reward.source!r}: this reward looks at"
            " no reference, so that there is nothing to prove; set method to exprl-process or"
            " exprl-outcome"
        )
    if cfg.judge.condition != "right":
        raise ConfigError(
            f"judge.condition = {cfg.judge.condition!r}: the pilot sets it itself; leave it out"
        )
    if cfg.judge.rubrics:
        raise ConfigError(
            f"judge.rubrics = {cfg.judge.rubrics!r}: rubrics that were written from the right"
            " references cannot be given wrong ones; leave judge.rubrics out"
        )


def prepare_base(cfg: config.Config, data: Path, steps: int, train_rows: int) -> config.Config:
    """The config of the pilot's runs, before seed, arm and folder.

    Args:
        data: folder of train.jsonl and held_out.jsonl.
        steps: of each run.
        train_rows: a step takes no more problems than there are.
    """
    source = cfg.data.parts[0]
    columns = source.columns
    if columns.id is None:
        columns = columns.model_copy(update={"id": ROW})
    own: dict[str, Any] = {
        "columns": columns.model_dump(mode="json"),
        "split": "train",
        "subset": None,
        "limit": None,
        "sources": [],
    }
    shown = cfg.data.model_dump(mode="json") | own
    change = {
        "data": shown | {"path": str(data / "train.jsonl")},
        "eval": {"data": shown | {"path": str(data / "held_out.jsonl")}, "every": None},
        "rollout": {"problems_per_step": min(cfg.rollout.problems_per_step, train_rows)},
        "train": {"steps": steps, "checkpoint_every": steps},
        "logging": {"report": False},
    }
    return _change(cfg, change)


def arm_config(base: config.Config, arm: Arm, seed: int, run_dir: Path) -> config.Config:
    """The config of one run."""
    own: dict[str, Any] = {"seed": seed, "run_dir": str(run_dir)}
    match arm:
        case "right":
            pass
        case "wrong":
            own["judge"] = {"condition": "wrong"}
        case "shuffled":
            own["reward"] = {"shuffle": True}
        case "sparse":
            cleared = dict.fromkeys(_BY_REWARD, "none")
            own |= {
                "method": "sparse-grpo",
                "reward": {"source": "verifier"},
                "advantage": {"kind": "grpo", "last": "judge"},
                "domains": dict.fromkeys(base.domains, cleared),
            }
    return _change(base, own)


def _change(cfg: config.Config, change: dict[str, Any]) -> config.Config:
    """The same config with other settings, checked anew."""
    return config.build(lay_over(tomllib.loads(config.to_toml(cfg)), _spell(change)), "exprl prove")


def _spell(tree: dict[str, Any]) -> dict[str, Any]:
    """TOML has no null: what is unset is spelt "none"."""
    return {
        key: _spell(value) if isinstance(value, dict) else "none" if value is None else value
        for key, value in tree.items()
    }
