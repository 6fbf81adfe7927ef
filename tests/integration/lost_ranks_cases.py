"""A lost follower ends the leader, and a lost leader its followers: at once, and by name."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranks_cases import Started, batches, configured

from exprl import config
from exprl.errors import ConfigError, RankError
from exprl.learn.control import open_team
from exprl.learn.ranks import Leader
from exprl.run.policy import policy_arguments

HERE = Path(__file__).parent


@pytest.fixture
def lonely_follower(tmp_path):
    """A config, and what starts the follower that a run starts, with its processes."""
    cfg = configured(tmp_path, "examples/division/base", "loss.kl_coef=0")
    file = Path(cfg.run_dir) / "config.toml"
    file.parent.mkdir()
    file.write_text(config.to_toml(cfg))
    started = []

    def start(rank, env):
        log = tmp_path / f"rank-{rank}.log"
        started.append(Started(["-m", "exprl.run.follower", file], env, log))
        return started[-1]

    yield cfg, start, started
    for one in started:
        one.stop()


def test_a_leader_that_loses_a_follower_in_a_step_names_it_and_its_log(lonely_follower):
    cfg, start, started = lonely_follower
    with (
        pytest.raises(RankError, match=r"rank 1 on 127\.0\.0\.1 .*rank-1\.log") as error,
        open_team(2, "127.0.0.1", start, torch.device("cpu")) as team,
    ):
        policy = Leader(team, **policy_arguments(cfg))
        threading.Timer(0.5, started[0].process.kill).start()
        for seed in range(10_000):
            policy.step(batches(seed=seed), cfg.loss)
    assert "exit code -9" in str(error.value)


def test_a_follower_that_cannot_start_ends_the_run_with_what_it_said(lonely_follower):
    cfg, start, _ = lonely_follower
    (Path(cfg.run_dir) / "config.toml").write_text("seed = 'none'")
    with (
        pytest.raises(RankError, match=r"(?s)ended while it started.*seed"),
        open_team(2, "127.0.0.1", start, torch.device("cpu")),
    ):
        pass


LEADER = """
import sys, time, torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from exprl.learn.control import open_team
from ranks_cases import Started

def start(rank, env):
    return Started(["-m", "exprl.run.follower", sys.argv[2]], env, Path(sys.argv[3]))

with open_team(2, "127.0.0.1", start, torch.device("cpu")) as team:
    print(team._followers[0].process.pid, flush=True)
    time.sleep(600)
"""


def test_a_follower_ends_with_its_leader_however_that_ends(lonely_follower, tmp_path):
    cfg, *_ = lonely_follower
    words = [HERE, Path(cfg.run_dir) / "config.toml", tmp_path / "rank-1.log"]
    leader = subprocess.Popen([sys.executable, "-c", LEADER, *words], stdout=subprocess.PIPE)
    follower = int(leader.stdout.readline())
    leader.kill()
    leader.wait()
    try:
        for _ in range(100):
            if not is_running(follower):
                return
            time.sleep(0.1)
        pytest.fail("the follower runs on after 10 s")
    finally:
        if is_running(follower):
            os.kill(follower, signal.SIGKILL)


def is_running(pid):
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_ranks_do_not_start_beside_another_process_group(lonely_follower):
    _, start, started = lonely_follower
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with (
            pytest.raises(ConfigError, match="in a process of its own"),
            open_team(2, "127.0.0.1", start, torch.device("cpu")),
        ):
            pass
    finally:
        dist.destroy_process_group()
    assert not started
