"""The policy of a run, in one process or in several, as the config and a checkpoint make it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from exprl import config
from exprl.errors import ConfigError
from exprl.learn.control import Team
from exprl.learn.policy import Policy
from exprl.learn.ranks import Leader
from exprl.run import checkpoint
from exprl.run.checkpoint import RunState


def load_policy(
    cfg: config.Config, state: RunState, folder: Path | None, team: Team | None = None
) -> Policy:
    """The policy of the checkpoint in `folder`, or of the model that the run starts from.

    Args:
        team: the trainer's other processes; None where there is one process.

    Raises:
        ConfigError: the model cannot be used, or is not the one that the checkpoint knew.
        RankError: a process of the team was lost.
    """
    weights = str(folder) if folder else None
    given = policy_arguments(cfg)
    policy = Leader(team, **given, weights=weights) if team else Policy(**given, weights=weights)
    if folder:
        check_base(state, policy, folder, cfg.model.path)
        policy.load_optimizer(folder / checkpoint.TRAINER, state.policy_version)
    return policy


def policy_arguments(cfg: config.Config) -> dict[str, Any]:
    """What `Policy` is made of, on every rank alike."""
    return {
        "model": cfg.model,
        "optim": cfg.optim,
        "lora": cfg.lora,
        "temperature": cfg.rollout.temperature,
        "needs_initial": cfg.needs_initial_policy,
        "updates": cfg.train.steps * cfg.optim.mini_batches,
        "seed": cfg.seed,
    }


def check_base(state: RunState, policy: Policy, folder: Path, path: str) -> None:
    """Let an adapter go on upon the weights that it was trained on, or not at all.

    Raises:
        ConfigError: the model of `path` is not the one that the checkpoint in `folder` knew.
    """
    if policy.base() != state.base:
        raise ConfigError(
            f"{folder}: its adapter was trained on other weights than those of model.path ="
            f" {path!r}; bring those back, or train on from the merged model with another run_dir"
            f" and init_from={folder}"
        )


def set_threads(count: int | None) -> None:
    """Set torch's CPU threads before any work; None leaves torch's own choice."""
    if count is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(count))
        torch.set_num_threads(count)
