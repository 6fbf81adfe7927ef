"""`exprl train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exprl.cli.options import INTERRUPTED, ConfigFile, Overrides, read_overrides

if TYPE_CHECKING:
    from exprl.config import Config


def train(
    config_file: ConfigFile,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="check everything that can fail later, then end")
    ] = False,
    sample: Annotated[
        int,
        typer.Option(
            min=0,
            help="with --dry-run: start the engine, sample so many rollouts of the model, and show"
            " into how many steps each rule of reward.steps cuts them",
        ),
    ] = 0,
) -> None:
    """Train a policy. The same command again resumes an interrupted run.

    Example: exprl train configs/division_process.toml run_dir=runs/first train.steps=8

    Ctrl-C finishes the step, saves and exits with 130; a second Ctrl-C stops at once.
    """
    from exprl import config

    cfg = config.load(config_file, read_overrides(overrides))  # before torch: told at once
    if dry_run:
        from exprl.cli.dry_run import report

        raise typer.Exit(report(cfg, sample))
    if sample:
        raise typer.BadParameter("goes with --dry-run", param_hint="--sample")

    raise typer.Exit(_train(cfg))


def _train(cfg: Config) -> int:
    """Train, and say where the run goes on if Ctrl-C ended it; returns the exit code."""
    from exprl.errors import RankError

    try:
        from exprl.train import run_training

        result = run_training(cfg)
    except RankError as error:
        from exprl.cli.again import start_again

        start_again(Path(cfg.run_dir), error)
    except KeyboardInterrupt:  # before the first step, or for the second time
        from exprl.run import checkpoint

        whole = checkpoint.latest(Path(cfg.run_dir))
        goes_on = f"goes on from {whole.name}" if whole else "starts anew"
        typer.echo(f"exprl: stopped at once; the same command {goes_on}", err=True)
        return INTERRUPTED
    if result.interrupted:
        typer.echo(
            f"exprl: stopped after step {result.steps}, which is saved; the same command goes on",
            err=True,
        )
        return INTERRUPTED
    return 0
