"""The packages under test, built once: source archive -> wheel -> base install."""

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

# Compiled dependencies of the release build; copied so that a wheel test compiles our crates only.
COMPILED = ("release/deps", "release/build", "release/.fingerprint")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the builds, which run inside the first test that needs them, time to compile."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(1200))


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """Run to the end and return stdout; a failure shows everything that was printed."""
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command} exited {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def tools() -> None:
    """Skip where the packages cannot be built."""
    for tool in ("cargo", "maturin", "uv"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not on PATH (make setup installs maturin and uv)")


def only_file(folder: Path) -> Path:
    """The archive that a build has left in a folder."""
    (built,) = (path for path in folder.iterdir() if path.suffix in {".gz", ".whl"})
    return built


@pytest.fixture(scope="session")
def sdist(repo: Path, tools: None, made_once: Callable[..., Path]) -> Path:
    """The source archive of the working tree."""
    return only_file(
        made_once("sdist", lambda out: run("maturin", "sdist", "--out", out, cwd=repo))
    )


@pytest.fixture(scope="session")
def sdist_names(sdist: Path) -> set[str]:
    """Files in the source archive, relative to its root folder."""
    with tarfile.open(sdist) as archive:
        return {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}


@pytest.fixture(scope="session")
def wheel(sdist: Path, repo: Path, made_once: Callable[..., Path]) -> Path:
    """The wheel that `pip install` makes of the source archive, away from the tree.

    Our own crates are not optimized in it, which takes longest; in `tree_wheel` they are.
    """
    crates = [path.parent.name for path in (repo / "rust").glob("*/Cargo.toml")]
    plain = (f"--config profile.release.package.{crate}.opt-level=0" for crate in crates)

    def build(out: Path) -> None:
        target = out / "target"
        for folder in COMPILED:
            if (repo / "target" / folder).is_dir():
                shutil.copytree(repo / "target" / folder, target / folder)
        pins = repo / "requirements" / "cpu.txt"
        run(
            *("uv", "build", "--wheel", sdist, "--out-dir", out, "--build-constraints", pins),
            *("--python", sys.executable),
            cwd=out,
            CARGO_TARGET_DIR=str(target),
            MATURIN_PEP517_ARGS=" ".join(plain),
        )
        shutil.rmtree(target)

    return only_file(made_once("wheel", build))


@pytest.fixture(scope="session")
def tree_wheel(repo: Path, tools: None, made_once: Callable[..., Path]) -> Path:
    """The wheel that maturin makes straight from the working tree."""
    return only_file(
        made_once(
            "tree-wheel", lambda out: run("maturin", "build", "--release", "--out", out, cwd=repo)
        )
    )


@pytest.fixture(scope="session")
def installed(
    wheel: Path, repo: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., str]:
    """Runs a program of a fresh environment with the wheel, its base dependencies, no extra."""
    home = tmp_path_factory.mktemp("installed")
    run("uv", "venv", "--python", sys.executable, home / "venv", cwd=home)
    run(
        *("uv", "pip", "install", "--python", home / "venv" / "bin" / "python"),
        *("--constraints", repo / "requirements" / "cpu.txt", wheel),
        cwd=home,
    )

    return caller(home)


@pytest.fixture(scope="session")
def with_engine(
    wheel: Path, installed: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., str]:
    """Runs a program of a fresh environment with the wheel and its pins, installed as documented.

    The packages come from uv's cache, never from the network: the engine and torch are 6 GB.
    """
    home = tmp_path_factory.mktemp("with-engine")
    run("uv", "venv", "--python", sys.executable, home / "venv", cwd=home)
    done = subprocess.run(
        [
            *("uv", "pip", "install", "--python", home / "venv" / "bin" / "python"),
            *("--offline", "--no-deps", "-r", "-", wheel),
        ],
        input=installed("exprl", "pins"),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"uv's cache does not hold the pins (make setup fills it): {done.stderr}")
    return caller(home)


def caller(home: Path) -> Callable[..., str]:
    """Runs the programs of home/venv in the empty folder home/here, away from the checkout."""
    here = home / "here"
    here.mkdir()

    def call(program: str, *arguments: str) -> str:
        # Not by the path to the checkout which tests may have got.
        return run(home / "venv" / "bin" / program, *arguments, cwd=here, PYTHONPATH="")

    return call
