"""What the wheel and the source archive hold, and what the base install can do."""

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

HEAVY = ("torch", "vllm", "transformers", "datasets", "pyarrow", "matplotlib")
PRINT_HEAVY = f"import sys, json; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"


@pytest.fixture(params=["wheel", "tree_wheel"])
def names(request: pytest.FixtureRequest) -> list[str]:
    """Files of the wheel built from the source archive, then of the one built from the tree."""
    return zipfile.ZipFile(request.getfixturevalue(request.param)).namelist()


def test_the_wheel_holds_every_module_of_both_packages(names: list[str], repo: Path) -> None:
    for package, source in (("exprl", "python/exprl"), ("exprl_kernels", "kernels/exprl_kernels")):
        modules = {
            f"{package}/{path.relative_to(repo / source)}"
            for path in (repo / source).rglob("*.py*")
            if path.suffix in {".py", ".pyi"}
        }
        assert f"{package}/__init__.py" in modules
        assert modules <= set(names)


def test_the_wheel_is_typed_and_licensed(names: list[str]) -> None:
    assert {"exprl/py.typed", "exprl/_core.pyi"} <= set(names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_wheel_has_one_extension_and_it_is_abi3(names: list[str]) -> None:
    assert [name for name in names if name.endswith(".so")] == ["exprl/_core.abi3.so"]


def test_the_wheel_holds_the_two_packages_and_nothing_else(names: list[str]) -> None:
    assert len(names) == len(set(names))
    tops = {name.split("/", 1)[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"exprl", "exprl_kernels"}
    unwanted = re.compile(r"(^|/)(tests?/|test_\w+\.py|conftest|__pycache__)")
    assert not [name for name in names if unwanted.search(name)]


@pytest.mark.parametrize(
    "name",
    [
        "configs",
        "examples/division/base",
        "examples/division/train.jsonl",
        "examples/own_parts",
        "examples/words/train.jsonl",
    ],
)
def test_the_wheel_holds_the_example_as_the_checkout_has_it(
    request: pytest.FixtureRequest, name: str, repo: Path
) -> None:
    source = repo / name
    inside = (path for path in source.rglob("*") if path.is_file())
    files = sorted(inside) if source.is_dir() else [source]
    for built in ("wheel", "tree_wheel"):
        archive = zipfile.ZipFile(request.getfixturevalue(built))
        for path in files:
            packed = archive.read(f"exprl/cli/shipped/{path.relative_to(repo)}")
            assert packed == path.read_bytes()


def test_one_wheel_serves_every_python_from_3_11(wheel: Path, tree_wheel: Path) -> None:
    for built in (wheel, tree_wheel):
        assert built.name.split("-")[2:4] == ["cp311", "abi3"]


def test_the_source_archive_holds_what_a_build_needs(sdist_names: set[str], repo: Path) -> None:
    assert {"Cargo.lock", "Cargo.toml", "pyproject.toml", "LICENSE", "README.md"} <= sdist_names
    crates = {path.parent.name for path in (repo / "rust").glob("*/Cargo.toml")}
    assert "exprl-python" in crates
    for crate in crates:
        sources = {
            str(path.relative_to(repo)) for path in (repo / "rust" / crate / "src").rglob("*.rs")
        }
        assert sources
        assert sources <= sdist_names
    assert not [name for name in sdist_names if name.split("/")[0] in {"target", "runs", ".venv"}]


@pytest.mark.parametrize("module", ["exprl", "exprl.judge"])
def test_the_base_install_imports_without_torch(installed: Callable[..., str], module: str) -> None:
    assert json.loads(installed("python", "-c", f"import {module}; {PRINT_HEAVY}")) == []


def test_the_base_install_really_has_no_torch(installed: Callable[..., str]) -> None:
    found = "import importlib.util as u; print(u.find_spec('torch') or u.find_spec('vllm'))"
    assert installed("python", "-c", found).strip() == "None"


def test_the_base_install_has_the_command(installed: Callable[..., str]) -> None:
    assert "train" in installed("exprl", "--help")


def test_the_base_install_prints_the_pins_and_copies_the_example(
    installed: Callable[..., str], repo: Path
) -> None:
    assert installed("exprl", "pins") == (repo / "requirements" / "cpu.txt").read_text()
    assert installed("exprl", "examples", "copy").split() == [
        *("wrote", "copy/configs", "wrote", "copy/examples")
    ]
    shown = installed("exprl", "config", "show", "copy/configs/division_process.toml")
    assert 'path = "examples/division/train.jsonl"' in shown


def test_a_command_that_needs_the_trainer_says_what_to_install(installed: Callable[..., str]):
    with pytest.raises(AssertionError, match=r"exprl: torch is not installed.*extra `cpu`"):
        installed("exprl", "demo")


def test_the_demo_runs_in_any_folder(with_engine: Callable[..., str]) -> None:
    # By the engine that starts sooner; tests/integration starts the other one.
    small = ("rollout.engine=transformers", "train.steps=1", "rollout.problems_per_step=2")
    printed = with_engine("exprl", "demo", *small, "eval.data.limit=2")
    assert "What it learned" in printed
    assert "exprl examples" in printed


def test_the_extension_and_the_package_are_of_one_version(
    installed: Callable[..., str], wheel: Path
) -> None:
    printed = installed("python", "-c", "from exprl import _core; print(_core.__version__)")
    assert printed.strip() == wheel.name.split("-")[1]


@pytest.mark.parametrize("module", ["exprl", "exprl.judge", "exprl.config", "exprl.cli"])
def test_light_modules_stay_light_where_everything_is_installed(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}; {PRINT_HEAVY}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == []
