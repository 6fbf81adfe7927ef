"""What a wheel carries beside its code: the example, the configs, and the tested versions.

The files lie where a checkout has them; the links here bring them into the package.
"""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path

from exprl import config
from exprl.errors import ConfigError

FILES = Path(str(resources.files(__name__)))


def locate_demo() -> tuple[Path, list[str]]:
    """The demo's config, and overrides by which it finds its files from any folder."""
    path = FILES / "configs" / "division_process.toml"
    tree = config.read(path)
    files = (tree["model"]["path"], tree["data"]["path"], tree["eval"]["data"]["path"])
    keys = ("model.path", "data.path", "eval.data.path")
    return path, [
        f"{key}={json.dumps(_shorten(name))}" for key, name in zip(keys, files, strict=True)
    ]


def copy_example(folder: Path) -> list[Path]:
    """Copy configs/ and examples/ into a folder; returns both.

    Raises:
        ConfigError: the folder has one of them; nothing is copied.
    """
    copies = [folder / name for name in ("configs", "examples")]
    for path in copies:
        if path.exists():
            raise ConfigError(f"{path} exists and is not replaced; choose another folder")
    for path in copies:
        shutil.copytree(FILES / path.name, path)
    return copies


def read_pins() -> str:
    """Every package with the version that exprl is tested with, as a requirements file."""
    return (FILES / "requirements" / "cpu.txt").read_text(encoding="utf-8")


def _shorten(name: str) -> str:
    """The path of a file, as short as it can be said: a checkout's own lies below the folder."""
    path = (FILES / name).resolve()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
