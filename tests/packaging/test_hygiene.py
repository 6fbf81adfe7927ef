"""What no tracked file may hold: registry hosts, paths of one machine, big files."""

import re
import subprocess
from pathlib import Path

import pytest

LARGEST_BYTES = 3_000_000
# Machines differ in where packages come from; naming a host would pass over their configuration.
# `crates.io-index` is the name by which Cargo.lock knows the default registry on every machine.
REGISTRY_HOST = re.compile(
    rb"pypi\.(?:org|python)|pythonhosted\.org|crates\.io(?!-index)|download\.pytorch\.org"
    rb"|registry\.npmjs|conda\.anaconda|https?://[^\s\"']+/simple(?:/|\b)"
)
MACHINE_PATH = re.compile(rb"(?<![\w.}])/(?:work|root|opt/wheels)/")


@pytest.fixture(scope="module")
def tracked(repo: Path) -> list[Path]:
    """Every file that git tracks."""
    if not (repo / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=repo, capture_output=True, text=True, check=True
    ).stdout
    return [repo / name for name in listed.split("\0") if (repo / name).is_file()]


def offences(tracked: list[Path], pattern: re.Pattern[bytes]) -> list[str]:
    """Where the pattern occurs, as `file: match`."""
    return [
        f"{path}: {found.group().decode(errors='replace')}"
        for path in tracked
        for found in pattern.finditer(path.read_bytes())
    ]


def test_no_tracked_file_names_a_package_registry_host(tracked: list[Path]) -> None:
    assert offences(tracked, REGISTRY_HOST) == []


def test_no_tracked_file_names_a_path_of_a_developers_machine(tracked: list[Path]) -> None:
    assert offences(tracked, MACHINE_PATH) == []


def test_no_lock_file_with_addresses_is_tracked(tracked: list[Path]) -> None:
    names = {path.name for path in tracked}
    assert names.isdisjoint({"uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock"})


def test_no_tracked_file_is_large(tracked: list[Path]) -> None:
    large = {str(path): path.stat().st_size for path in tracked}
    assert {path: size for path, size in large.items() if size > LARGEST_BYTES} == {}


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (REGISTRY_HOST, "index-url = https://py" + "pi.org/simple"),
        (REGISTRY_HOST, "https://static.crates" + ".io/crates/serde"),
        (MACHINE_PATH, 'path = "/wo' + 'rk/main"'),
        (MACHINE_PATH, "see /ro" + "ot/.cargo"),
    ],
)
def test_the_patterns_find_what_they_are_for(pattern: re.Pattern[bytes], text: str) -> None:
    assert pattern.search(text.encode())


def test_the_patterns_pass_what_is_the_same_everywhere() -> None:
    lock = b'source = "registry+https://github.com/rust-lang/crates.io-index"'
    assert not REGISTRY_HOST.search(lock)
    assert not MACHINE_PATH.search(b"frame/work/loop and ${HOME}/root/x and ./work/y")
