"""After a trainer rank was lost: the same command again, in place of this process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

import typer

from exprl.errors import RankError
from exprl.run import checkpoint

MAX_STARTS = 3
"""How often a run is started again without a new checkpoint."""
VARIABLE = "EXPRL_STARTS"
"""Carries, from start to start, the checkpoint that the last one went on from, and how often."""


def start_again(run_dir: Path, error: RankError) -> NoReturn:
    """Say what happened, and become the command that the user gave.

    Raises:
        RankError: `error`, where the run was started MAX_STARTS times and came no further.
    """
    whole = checkpoint.latest(run_dir)
    place = whole.name if whole else "its beginning"
    starts = count_starts(os.environ.get(VARIABLE, ""), place)
    if starts > MAX_STARTS:
        raise RankError(
            f"{error}\nThe run was started {MAX_STARTS} times from {place} and came no further"
        ) from error
    typer.echo(
        f"exprl: {error}\nexprl: the run starts again from {place}"
        f" ({starts} of {MAX_STARTS} times without a new checkpoint)",
        err=True,
    )
    os.environ[VARIABLE] = f"{starts} {place}"
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def count_starts(before: str, place: str) -> int:
    """Which start from a place this is, the first being 1.

    Args:
        before: the value of VARIABLE.
    """
    count, _, there = before.partition(" ")
    return int(count) + 1 if there == place else 1
