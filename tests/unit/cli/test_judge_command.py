"""`exprl judge` and `exprl rubric build`, as their own help names them."""

import subprocess
import sys

import pytest


def exprl(*words):
    return subprocess.run(
        [sys.executable, "-m", "exprl", *words], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        (["rubric", "build"], "Usage: exprl rubric build [OPTIONS]"),
        (["judge", "rubric"], "Usage: exprl judge rubric [OPTIONS]"),
        (["judge", "score"], "Usage: exprl judge score [OPTIONS]"),
    ],
)
def test_help_names_the_command_as_it_was_called_and_fits_80_columns(words, usage):
    done = exprl(*words, "--help")
    assert done.returncode == 0 and usage in done.stdout
    assert f"  exprl {' '.join(words)} --endpoint" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_wrong_option_of_rubric_build_names_it_too():
    done = exprl("rubric", "build", "--no-such-option")
    assert done.returncode == 2
    assert "exprl rubric build" in done.stderr and "exprl judge" not in done.stderr
