"""The workflows of a public forge: of the right form, with few rights, and pinned. All offline."""

import re
import subprocess
from pathlib import Path

import pytest

SCHEMA = ("check-jsonschema", "--builtin-schema", "vendor.github-workflows")
# Rights, injections and unpinned actions.
AUDIT = ("zizmor", "--offline", "--quiet", "--persona", "auditor", "--min-severity", "medium")


def checked(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def workflows(repo: Path) -> list[Path]:
    found = sorted((repo / ".github" / "workflows").glob("*.yml"))
    assert [path.stem for path in found] == ["checks", "release", "wheels"]
    return found


def test_the_workflows_are_what_their_schema_says(workflows: list[Path]) -> None:
    done = checked(*SCHEMA, *workflows)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflows_pass_the_audit(workflows: list[Path]) -> None:
    done = checked(*AUDIT, *workflows)
    assert done.returncode == 0, done.stdout + done.stderr


def test_versions_that_stand_in_two_files_are_equal(repo: Path) -> None:
    def found(name: str, pattern: str) -> set[str]:
        return set(re.findall(pattern, (repo / name).read_text(encoding="utf-8")))

    maturin = found("requirements/cpu.txt", r"(?m)^maturin==(.*)$")
    assert found(".github/workflows/wheels.yml", r"maturin-version: v(\S+)") == maturin
    rust = found("Cargo.toml", r'(?m)^rust-version = "(.*)"')
    assert found("Dockerfile", r"FROM rust:([\d.]+)-") == rust
    assert found("Cargo.toml", r'(?m)^version = "(.*)"') <= found(
        "pyproject.toml", r'(?m)^version = "(.*)"'
    )


@pytest.mark.parametrize(
    ("tool", "right", "wrong"),
    [
        (SCHEMA, "timeout-minutes: 90", "timeout-minute: 90"),
        (AUDIT, "permissions:\n  contents: read", "permissions: write-all"),
        (AUDIT, "@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "@v7"),
    ],
)
def test_a_mistake_in_a_workflow_is_found(
    workflows: list[Path], tmp_path: Path, tool: tuple[str, ...], right: str, wrong: str
) -> None:
    text = workflows[0].read_text(encoding="utf-8")
    assert right in text
    broken = tmp_path / "checks.yml"
    broken.write_text(text.replace(right, wrong), encoding="utf-8")
    assert checked(*tool, broken).returncode != 0
