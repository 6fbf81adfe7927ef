"""A process of a run is killed -9: nothing that was paid for is lost, and no process stays.

Every process of a run has a variable of its own in its environment, by which none gets away.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import servers

from exprl.files import read_jsonl
from exprl.judge import RuleJudge

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("server")]

MARK = "EXPRL_TEST_RUN"
KEEPER = "cluster/keeper.py"
AT_ONCE = 8
"""Requests that the judge is asked at once: those in flight at a kill may be asked again."""


class Run:
    """`exprl train` of the miniature on servers that are up, and whatever it starts."""

    def __init__(self, repo, folder, judge, steps, **changes):
        self.folder, self.repo = folder / "run", repo
        self.mark = f"{MARK}={folder}"
        self.settings = {
            "run_dir": self.folder,
            "train.steps": steps,
            "train.checkpoint_every": 1,
            "rollout.ahead": 1,
            "rollout.problems_per_step": 8,
            "rollout.group_size": 8,
            "judge.kind": "server",
            "judge.endpoints": json.dumps([judge.url]),
            "judge.model": judge.model,
            "judge.concurrency": AT_ONCE,
            "judge.hedge": 0,
            "eval.data": "none",
            **changes,
        }
        self.process = None
        self.log = folder / "output"

    def start(self):
        words = [f"{key}={value}" for key, value in self.settings.items()]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "exprl", "train", "configs/division_process.toml", *words],
                cwd=self.repo,
                env={**os.environ, MARK: str(self.log.parent), "TOKEN_HERE": servers.TOKEN},
                stdout=log,
                stderr=log,
            )

    def rows(self):
        path = self.folder / "metrics.jsonl"
        return read_jsonl(path) if path.exists() else []

    def starts(self):
        return len(json.loads((self.folder / "run.json").read_text())["starts"])

    def wait_for(self, condition, seconds=240):
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.02)

    def ended(self):
        code = self.process.wait(timeout=240)
        assert code == 0, self.log.read_text()[-3000:]

    def find(self, word=""):
        """Ids of the run's processes, or of those with a word in the command line, no keepers."""
        found = list(processes(self.mark))
        return [pid for pid, line in found if not word or (word in line and KEEPER not in line)]

    def kill(self):
        """End all that is left."""
        for pid in self.find():
            os.kill(pid, signal.SIGKILL)
        if self.process:
            self.process.wait()


def processes(mark):
    """Id and command line of each process that was started with a variable."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                yield int(entry.name), words.decode()
        except OSError:  # it ended meanwhile, or is another user's
            continue


@pytest.fixture
def judge():
    with RuleJudge("division", latency_ms=2) as server:
        yield server


@pytest.fixture
def make_run(repo, tmp_path, judge):
    runs = []

    def make(steps, **changes):
        runs.append(Run(repo, tmp_path, judge, steps, **changes))
        return runs[-1]

    yield make
    for run in runs:
        run.kill()


def sampled_by(*running):
    """The settings of a run that samples from servers that are up."""
    urls = json.dumps([server.url for server in running])
    return {"engine.kind": "servers", "engine.urls": urls, "engine.token_env": "TOKEN_HERE"}


def check_steps(run, judge, steps, kills, rollouts=64):
    """Every step was learned once, from all of its rollouts, and none was graded twice."""
    rows = run.rows()
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    assert {row["rollout/count"] for row in rows} == {rollouts}
    assert {row["rollout/failed_rate"] for row in rows} == {0.0}
    assert {row["judge/missing_rate"] for row in rows} == {0.0}
    asked = judge.stats()
    assert asked["requests"] - asked["distinct"] <= kills * AT_ONCE


def test_a_killed_follower_and_a_killed_leader_cost_nothing_that_was_paid_for(
    make_run, judge, policy_server
):
    """Without its follower a run starts again by itself; without its leader nothing of it stays."""
    run = make_run(5, **sampled_by(policy_server), **{"ranks.count": 2})
    run.start()
    run.wait_for(lambda: len(run.rows()) == 2)
    [follower] = run.find(" -m exprl.run.follower")
    os.kill(follower, signal.SIGKILL)
    run.wait_for(lambda: run.starts() == 2 and len(run.rows()) >= 3)

    run.process.kill()
    deadline = time.monotonic() + 10
    while (left := run.find()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []

    run.start()
    run.ended()
    check_steps(run, judge, 5, kills=2)
    assert run.find() == []


def test_an_engine_killed_with_128_rollouts_in_flight_loses_none_of_them(
    make_run, judge, policy_server, tmp_path
):
    """Each of two servers samples 128 of a step's 256; one is killed, and the other takes them."""
    with servers.served(tmp_path) as other:
        size = {"rollout.problems_per_step": 16, "rollout.group_size": 16}
        run = make_run(3, **sampled_by(policy_server, other), **size)
        run.start()
        run.wait_for(lambda: len(run.rows()) == 1 and in_flight(other) > 100)
        other.process.kill()
        run.ended()
    check_steps(run, judge, 3, kills=0, rollouts=256)
    assert sum(row["engine/lost"] for row in run.rows()) == 1
    assert sum(row["engine/retried"] for row in run.rows()) > 100


def in_flight(server):
    """Rollouts that a server has taken and not finished, by its own count."""
    _, text = server.ask("/metrics")
    counted = ("vllm:num_requests_running{", "vllm:num_requests_waiting{")
    lines = [line for line in text.splitlines() if line.startswith(counted)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
