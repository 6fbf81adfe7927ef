"""The paper's table, end to end at a tiny size: a base that is made, both stages, rows, page."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.engine


def run(repo, tmp_path):
    command = [
        *(sys.executable, "bench/paper/run.py", "--scale", "smoke", "--workers", "1"),
        *("--starts", "sft", "base", "--seeds", "3"),
        *("--out", tmp_path / "out", "--rows", tmp_path / "rows.jsonl"),
        *("--page", tmp_path / "page.md"),
    ]
    done = subprocess.run(
        command, cwd=repo, capture_output=True, text=True, timeout=400, check=False
    )
    log = tmp_path / "out" / "worker0.log"
    assert done.returncode == 0, done.stderr + (log.read_text() if log.exists() else "")
    return log.read_text().count("== ")


def test_the_table_is_made_once_and_a_second_start_runs_nothing(repo, tmp_path):
    assert run(repo, tmp_path) == 2
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(row["start"], row["seed"], row["scale"]) for row in rows] == [
        ("base", 3, "smoke"),
        ("sft", 3, "smoke"),
    ]
    base, sft = rows
    assert base["stage1"]["steps"] == 0 and sft["stage1"]["steps"] == 1
    assert base["stage2"]["steps"] == sft["stage2"]["steps"] == 1
    for row in rows:
        assert 0.0 <= row["stage2"]["pass_at"]["1"][0] <= 1.0
    assert (tmp_path / "page.md").read_text().startswith("# The paper's tables in miniature")

    assert run(repo, tmp_path) == 2
