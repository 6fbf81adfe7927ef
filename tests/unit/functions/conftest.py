"""Functions of a user's, in a module of the working directory."""

import textwrap

import pytest

from exprl import config
from exprl.config import FunctionName
from exprl.functions.pool import Functions

MODULE = "rewards_of_a_user"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Opens a function: `own("def check(text): ...", "check", "verifier", timeout_s=1)`."""
    monkeypatch.chdir(tmp_path)
    opened = []

    def open_function(source, name, role="verifier", **limits):
        (tmp_path / f"{MODULE}.py").write_text(textwrap.dedent(source))
        functions = Functions(config.Functions(**limits))
        opened.append(functions)
        return functions.open(FunctionName(f"{MODULE}:{name}"), role)

    yield open_function
    for functions in opened:
        functions.close()
