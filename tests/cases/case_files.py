"""The case files: small inputs after public bug reports, with what should happen.

They are not part of the repository. The tests of this folder read every line where the files lie,
and skip where they do not. What they prove is proved on cases of our own in `tests/unit`, too.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPO = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("EXPRL_SHARED_CASES", REPO.parent / "shared" / "cases"))

Case = dict[str, Any]

# Lines that fail today: file, kind, numbers of the lines. Whoever makes one pass has to take its
# number out, because a case that passes against its mark fails the test.
OPEN: dict[tuple[str, str], set[int]] = {}

# Lines that ask for something else than we want: file, number of the line, and why.
WRONG: dict[tuple[str, int], str] = {}


def read_cases(name: str) -> list[Case]:
    """The lines of a file, such as `steps.jsonl`; none where the files are not."""
    path = FOLDER / name
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def every_line(name: str) -> pytest.MarkDecorator:
    """Give a test `number` and `case` for each line of a file; lines count from 1."""
    lines = [_line(name, i, case) for i, case in enumerate(read_cases(name), start=1)]
    if not lines:
        reason = (
            f"no {name} in {FOLDER}: the case files are not part of the repository;"
            " set EXPRL_SHARED_CASES to the folder that has them"
        )
        lines = [pytest.param(0, {}, id="none", marks=pytest.mark.skip(reason=reason))]
    return pytest.mark.parametrize(("number", "case"), lines)


def _line(name: str, number: int, case: Case) -> Any:
    marks: list[pytest.MarkDecorator] = []
    kind = case["kind"]
    if number in OPEN.get((name, kind), ()):
        marks.append(pytest.mark.xfail(strict=True, reason="not mended yet"))
    if (name, number) in WRONG:
        marks.append(pytest.mark.xfail(strict=True, reason=WRONG[name, number]))
    return pytest.param(number, case, id=f"{kind}-{number}", marks=marks)


def load_script(path: Path) -> ModuleType:
    """A Python file that lies beside the cases, as a module."""
    import importlib.util

    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_refused(error: Exception | None, case: Case) -> None:
    """An error of ours, or of the config, that says the words that the case asks for."""
    from pydantic import ValidationError

    from exprl.errors import ExprlError

    assert isinstance(error, ExprlError | ValidationError), repr(error)
    for word in case.get("names", ()):
        assert word in str(error)
