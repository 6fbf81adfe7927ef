"""What all tests share: real data, and settings that must stand before torch is imported.

Markers: `engine` starts the real vLLM engine; `gpu` needs a CUDA device and is skipped without one.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # the packages are tested without it
    from exprl.verify.sandbox.sandbox import Sandbox

REPO = Path(__file__).resolve().parents[1]
SHARED_DATA = Path(os.environ.get("EXPRL_SHARED_DATA", REPO.parent / "shared" / "data"))
# Looked up as a file: asking torch would import it into the light tests. A container may see only
# /dev/nvidia3.
HAS_GPU = any(Path("/dev").glob("nvidia[0-9]*"))

# A shell that starts the tests in the background ignores SIGINT for them and their children, and
# the tests of Ctrl-C would wait for ever. A handler is not inherited over exec; "ignored" is.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Models this small are several times faster on one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["VLLM_NO_USAGE_STATS"] = "1"
if not HAS_GPU:
    # Triton reads it once, when it is imported.
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip `gpu` tests, saying why, on a machine without a GPU; those of a group come first.

    pytest-xdist gives each worker one stretch of the tests and takes from its end what another
    does, so that a group which stands first stays on one worker, and starts its server once.
    """
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)
    if HAS_GPU:
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device: no /dev/nvidia[0-9]*"))


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the checkout."""
    return REPO


@pytest.fixture(scope="session")
def exprl() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line to its end, in the root of the checkout."""

    def run(*words: str | Path, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "exprl", *words],
            cwd=REPO,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder that the first process of this test run makes, and the others find.

    Call it as `made_once(name, make)`: `make` is given the empty folder. Nobody may change it.
    """
    base = tmp_path_factory.getbasetemp()
    common = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def find(name: str, make: Callable[[Path], object]) -> Path:
        from filelock import FileLock

        folder = common / name
        with FileLock(f"{folder}.lock"):
            made = folder.with_suffix(".made")
            if not made.exists():  # or another process has failed half-way
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                made.touch()
        return folder

    return find


@pytest.fixture(scope="session")
def demo_run(exprl: Callable[..., Any], made_once: Callable[..., Path]) -> Path:
    """A run of 3 steps with two evaluations, some grades missing; copy it before you change it.

    It samples with transformers; a real rule judge grades, and its ledger is in the folder.
    """

    def make(folder: Path) -> None:
        settings = {
            "run_dir": folder,
            "rollout.engine": "transformers",
            "rollout.problems_per_step": 8,
            "rollout.group_size": 8,
            "train.steps": 3,
            "eval.samples": 4,
            "eval.data.limit": 8,
            "judge.fault_no_grade_rate": 0.02,
        }
        words = [f"{key}={value}" for key, value in settings.items()]
        done = exprl("train", "configs/division_process.toml", *words)
        assert done.returncode == 0, done.stderr

    return made_once("demo-run", make)


@pytest.fixture(scope="session")
def confined() -> Callable[..., Sandbox]:
    """A sandbox with these limits, in which everything holds; skips where this machine cannot."""
    from exprl import config
    from exprl.errors import ConfigError
    from exprl.verify.sandbox.sandbox import Sandbox

    def opened(**limits: Any) -> Sandbox:
        try:
            return Sandbox(config.Sandbox(**limits))
        except ConfigError as error:
            pytest.skip(f"no full confinement here: {error}")

    return opened


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Path of a file of the real data, such as `gsm8k/train.jsonl`; skips where it is absent."""

    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(
                f"no {name} in {SHARED_DATA}: real data is not part of the repository; "
                "set EXPRL_SHARED_DATA to the folder that has it"
            )
        return path

    return find
