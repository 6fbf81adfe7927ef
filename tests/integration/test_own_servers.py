"""A run that starts its own servers and ranks: they train, keep a secret, and end with it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine

MARK = "EXPRL_TEST_OWN"
START_S = 400.0


def marked(folder):
    """Process id, environment and command line of all that the run started, itself included."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environ = (entry / "environ").read_bytes().split(b"\0")
            if f"{MARK}={folder}".encode() in environ:
                yield int(entry.name), environ, (entry / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile, or is another user's
            continue


@pytest.fixture
def run(repo, tmp_path):
    settings = {
        "run_dir": tmp_path / "run",
        "engine.kind": "servers",
        "ranks.count": 2,
        "train.steps": 100,
        "train.checkpoint_every": 1,
        "rollout.problems_per_step": 4,
        "rollout.group_size": 4,
        "eval.data": "none",
    }
    words = [f"{key}={value}" for key, value in settings.items()]
    log = tmp_path / "output"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "exprl", "train", "configs/division_process.toml", *words],
            cwd=repo,
            stdout=output,
            stderr=output,
            env=os.environ | {MARK: str(tmp_path)},
        )
    yield process
    for pid, _, _ in marked(tmp_path):
        os.kill(pid, 9)
    process.wait()


def test_a_run_trains_on_its_own_servers_and_nothing_is_left_when_it_is_killed(run, tmp_path):
    rows = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + START_S
    while not rows.exists() or len(rows.read_text().splitlines()) < 2:
        assert run.poll() is None, (tmp_path / "output").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for row in map(json.loads, rows.read_text().splitlines()[:2]):
        assert row["rollout/count"] == 16
        assert row["rollout/failed_rate"] == 0.0

    # Leader, keepers, the follower, the API server and its engine.
    found = list(marked(tmp_path))
    commands = b"".join(command for _, _, command in found)
    assert b"exprl.run.follower" in commands and b"exprl.serve.api_server" in commands
    (token,) = {
        word.partition(b"=")[2]
        for _, environ, _ in found
        for word in environ
        if word.startswith(b"EXPRL_TOKEN=")
    }
    assert len(token) >= 32
    assert token not in commands
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"policy-0.log", "rank-1.log", "config.toml"} <= {path.name for path in written}
    assert not any(token in path.read_bytes() for path in written)

    run.kill()
    deadline = time.monotonic() + 10
    while (left := list(marked(tmp_path))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
