"""The order of the rooms (pyproject.toml, [tool.importlinter]) is checked, not only written."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> Path:
    """A copy of the packages and of the contracts, to break them."""
    copy = tmp_path_factory.mktemp("house")
    shutil.copy(repo / "pyproject.toml", copy)
    sources = shutil.ignore_patterns("*.so", "__pycache__")
    for package in ("exprl", "exprl_kernels"):
        shutil.copytree(repo / "python" / package, copy / "python" / package, ignore=sources)
    return copy


def lint(house: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of a copy."""
    return subprocess.run(
        ["lint-imports", "--no-cache", "--no-logo"],
        cwd=house,
        env={**os.environ, "PYTHONPATH": str(house / "python")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_import_goes_down(house: Path) -> None:
    checked = lint(house)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    ("module", "wrong"),
    [
        ("exprl/types.py", "from exprl.run import checkpoint"),
        ("exprl/learn/loss.py", "from exprl.reward import scorer"),
        ("exprl/judge/client.py", "from exprl import config"),
        ("exprl/config/data.py", "def late():\n    from exprl.rollout import engine"),
        ("exprl_kernels/terms.py", "from exprl import config"),
    ],
)
def test_an_import_that_runs_back_is_refused_by_name(house: Path, module: str, wrong: str) -> None:
    file = house / "python" / module
    text = file.read_text(encoding="utf-8")
    file.write_text(f"{text}\n\n{wrong}\n", encoding="utf-8")
    try:
        checked = lint(house)
    finally:
        file.write_text(text, encoding="utf-8")
    assert checked.returncode == 1, checked.stdout
    assert "is not allowed to import" in checked.stdout
    assert module.removesuffix(".py").replace("/", ".") in checked.stdout


def test_a_room_without_a_place_in_the_order_is_refused(house: Path) -> None:
    room = house / "python" / "exprl" / "attic.py"
    room.write_text('"""Nobody said where it stands."""\n', encoding="utf-8")
    try:
        checked = lint(house)
    finally:
        room.unlink()
    assert checked.returncode == 1, checked.stdout
    assert "attic" in checked.stdout
