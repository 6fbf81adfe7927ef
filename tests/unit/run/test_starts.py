"""RUN/run.json: how a run counts, and each of its starts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import exprl
from exprl.errors import DataError
from exprl.run import starts
from exprl.run.starts import read_first_step, record_start


def record(run_dir: Path) -> dict:
    return json.loads((run_dir / "run.json").read_text())


def test_every_start_is_kept_with_its_command_machine_and_versions(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["exprl", "train", "a.toml", "optim.lr=1e-6"])
    assert record_start(tmp_path, 0) == 1
    assert record_start(tmp_path, 7) == 1
    written = record(tmp_path)
    assert written["first_step"] == 1
    assert [start["step"] for start in written["starts"]] == [0, 7]
    last = written["starts"][-1]
    assert last["command"] == ["exprl", "train", "a.toml", "optim.lr=1e-6"]
    assert last["folder"] == str(Path.cwd())
    assert last["host"]
    assert last["versions"]["exprl"] == exprl.__version__
    assert {"torch", "transformers"} <= last["versions"].keys()


def test_a_run_with_metrics_and_no_record_counts_from_0_and_stays_so(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    assert read_first_step(tmp_path) == 0
    assert record_start(tmp_path, 1) == 0
    assert read_first_step(tmp_path) == 0
    assert record(tmp_path)["first_step"] == 0


def test_a_new_folder_counts_from_1_also_when_its_first_start_came_to_nothing(tmp_path):
    assert read_first_step(tmp_path) == 1
    record_start(tmp_path, 0)
    (tmp_path / "metrics.jsonl").write_text("")
    assert read_first_step(tmp_path) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"first_step": 3, "starts": []}'])
def test_a_record_that_cannot_be_read_is_not_guessed_at(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(DataError, match=r"run\.json is not the record"):
        record_start(tmp_path, 0)


def test_the_commit_is_that_of_the_checkout_that_holds_the_code_and_no_other(tmp_path, monkeypatch):
    def git(*words: str) -> str:
        line = ("git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e", *words)
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()

    code = tmp_path / "code.py"
    code.write_text("")
    monkeypatch.setattr(starts, "__file__", str(code))
    assert starts.find_commit() is None  # no checkout
    git("init", "-q")
    (tmp_path / "other").write_text("")
    git("add", "other")
    git("commit", "-qm", "one")
    assert starts.find_commit() is None  # a checkout of something else
    git("add", "code.py")
    git("commit", "-qm", "two")
    head = git("rev-parse", "HEAD")
    assert starts.find_commit() == head
    code.write_text("# changed")
    assert starts.find_commit() == f"{head}-dirty"
