"""Trainer ranks, led by a process in which nothing else has opened torch's process group.

vLLM opens one in the process of its engine and leaves it open, and other tests start vLLM.
"""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.xdist_group("ranks")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("cases", ["ranks_cases.py", "lost_ranks_cases.py"])
def test_ranks_hold_in_a_process_of_their_own(repo, cases):
    words = ["-q", "-n", "0", "-p", "no:cacheprovider", HERE / cases]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        check=False,
        cwd=repo,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:]
