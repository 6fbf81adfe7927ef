"""`exprl train`."""

from __future__ import annotations

from typing import Annotated

import typer

from exprl.cli.options import INTERRUPTED, ConfigFile, Overrides


def train(
    config_file: ConfigFile,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="check everything that can fail later, then end")
    ] = False,
) -> None:
    """Train a policy. The same command again resumes an interrupted run.

    Example: exprl train configs/division_process.toml run_dir=runs/first train.steps=8

    Ctrl-C finishes the step, saves and exits with 130; a second Ctrl-C stops at once.
    """
    from exprl import config

    cfg = config.load(config_file, overrides or ())  # before torch: a typo is told at once
    if dry_run:
        from exprl.cli.dry_run import report

        raise typer.Exit(report(cfg))

    from exprl.train import run_training

    raise typer.Exit(INTERRUPTED if run_training(cfg).interrupted else 0)
