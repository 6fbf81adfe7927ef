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

from exprl.judge import RuleJudge

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("server")]

MARK = "EXPRL_TEST_RUN"
AT_ONCE = 8
"""Requests that the judge is asked at once: those in flight at a kill may be asked again."""


class Run:
    """`exprl train` of the miniature with 256 rollouts a step, and whatever it starts."""

    def __init__(self, repo, folder, judge, steps, **changes):
        self.folder, self.repo = folder / "run", repo
        self.mark = f"{MARK}={folder}"
        self.settings = {
            "run_dir": self.folder,
            "train.steps": steps,
            "train.checkpoint_every": 1,
            "rollout.ahead": 1,
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
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

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
        """Ids of the run's processes, or of those with a word in the command line."""
        return [pid for pid, command in processes(self.mark) if word in command]

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


def check_steps(run, judge, steps, kills):
    """Every step was learned once, from all of its rollouts, and none was graded twice."""
    rows = run.rows()
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    assert {row["rollout/count"] for row in rows} == {256}
    assert {row["rollout/failed_rate"] for row in rows} == {0.0}
    assert {row["judge/missing_rate"] for row in rows} == {0.0}
    asked = judge.stats()
    assert asked["requests"] - asked["distinct"] <= kills * AT_ONCE


def test_a_killed_leader_leaves_no_process_and_the_same_command_goes_on(make_run, judge):
    run = make_run(5, **{"engine.kind": "child"})
    run.start()
    run.wait_for(lambda: len(run.rows()) == 2)
    assert len(run.find()) > 1
    run.process.kill()
    deadline = time.monotonic() + 10
    while (left := run.find()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
    run.start()
    run.ended()
    check_steps(run, judge, 5, kills=1)


def test_a_run_that_lost_a_follower_starts_again_by_itself(make_run, judge, policy_server):
    run = make_run(4, **sampled_by(policy_server), **{"ranks.count": 2})
    run.start()
    run.wait_for(lambda: len(run.rows()) == 2)
    [follower] = run.find("-m exprl.run.follower")
    os.kill(follower, signal.SIGKILL)
    run.ended()
    assert run.starts() == 2
    check_steps(run, judge, 4, kills=1)
    assert run.find() == []


def test_an_engine_killed_with_rollouts_in_flight_loses_none_of_them(
    make_run, judge, policy_server, tmp_path
):
    """Both servers are sampling when one is killed; the other is asked for its share."""
    with servers.served(tmp_path) as other:
        run = make_run(4, **sampled_by(policy_server, other))
        run.start()
        run.wait_for(lambda: len(run.rows()) == 1)
        before = judge.stats()["distinct"]
        run.wait_for(lambda: judge.stats()["distinct"] > before)
        other.process.kill()
        run.ended()
    check_steps(run, judge, 4, kills=0)
    rows = run.rows()
    assert rows[-1]["engine/lost"] == 1
    assert rows[-1]["engine/retried"] > 0
