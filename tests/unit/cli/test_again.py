"""How often a run is started again after it lost a trainer rank."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from exprl.cli.again import MAX_STARTS, count_starts, start_again
from exprl.errors import RankError

# A run that loses a rank at every start, and saves a checkpoint at the second one.
RUN = """
import sys
from pathlib import Path
from exprl.cli.again import start_again
from exprl.errors import RankError
folder = Path(sys.argv[1])
starts = folder / "starts"
count = int(starts.read_text()) + 1 if starts.exists() else 1
starts.write_text(str(count))
if count == 2:
    (folder / "checkpoints" / "step-00001").mkdir(parents=True)
try:
    start_again(folder, RankError("trainer rank 1 ended"))
except RankError as error:
    sys.exit(f"at last: {error}")
"""


def test_starts_without_a_new_checkpoint_are_counted() -> None:
    assert count_starts("", "step-00004") == 1
    assert count_starts("1 step-00004", "step-00004") == 2
    assert count_starts("3 step-00004", "step-00005") == 1


def test_a_run_that_comes_no_further_ends_with_the_cause(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path)],
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "EXPRL_STARTS"},
        check=False,
    )
    assert done.returncode == 1
    assert "exprl: the run starts again from its beginning (1 of 3 times" in done.stderr
    assert "exprl: the run starts again from step-00001 (3 of 3 times" in done.stderr
    assert done.stderr.rstrip().endswith("started 3 times from step-00001 and came no further")
    # The first start, one from the beginning, and three from the checkpoint of the second.
    assert (tmp_path / "starts").read_text() == str(1 + 1 + MAX_STARTS)


def test_the_last_error_is_the_first_ones_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXPRL_STARTS", f"{MAX_STARTS} its beginning")
    with pytest.raises(RankError, match="rank 1 ended"):
        start_again(tmp_path, RankError("trainer rank 1 ended"))
