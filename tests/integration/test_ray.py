"""Runs on the machines of a Ray cluster; one machine stands for all.

Skipped where Ray is missing (the extra `cluster`).
"""

import json
import os
import secrets
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from exprl import config
from exprl.cluster.placement import Need
from exprl.cluster.processes import open_cluster, wait_for_lines
from exprl.errors import ConfigError, ProcessError

pytestmark = [
    pytest.mark.engine,
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra `cluster`"),
]

NEEDS = (Need("rank", 0, 1), Need("policy", 0, 1))
# Two generations, the younger in a session of its own, as Ray's own clean-up would leave it behind.
PAIR = """
import os, subprocess, time
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(os.getpid(), child.pid, os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
time.sleep(600)
"""
HEAD = """
import sys
import logging, ray
context = ray.init(
    address="local",
    num_cpus=2,
    num_gpus=8,
    include_dashboard=False,
    object_store_memory=80 << 20,
    log_to_driver=False,
    logging_level=logging.ERROR,
)
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
ray.shutdown()
"""
LEADER = """
import sys, time
from pathlib import Path
from exprl import config
from exprl.cluster.placement import Need
from exprl.cluster.processes import open_cluster, wait_for_lines
section = config.Cluster(kind="ray", address=sys.argv[1])
needs = [Need("rank", 0, 1), Need("policy", 0, 1)]
cluster = open_cluster(section, needs, Path(sys.argv[2]))
server = cluster.start("policy-0", ["-S", "-c", sys.argv[3]], {})
print(wait_for_lines([server])[0], flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def address():
    """Of a Ray cluster that asks for a token, with 8 GPUs, which are mere numbers here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.delenv("RAY_AUTH_MODE", raising=False)
        head = subprocess.Popen(
            [sys.executable, "-c", HEAD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"},
        )
        yield head.stdout.readline().strip()
        head.communicate()


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids, seconds=10.0):
    deadline = time.monotonic() + seconds
    while any(map(running, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture(scope="module")
def cluster(address, tmp_path_factory):
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    section, logs = config.Cluster(kind="ray", address=address), tmp_path_factory.mktemp("logs")
    opened = open_cluster(section, NEEDS, logs)
    yield opened
    opened.close()
    assert os.environ.pop("CUDA_VISIBLE_DEVICES")  # this process's own GPU


def test_a_process_has_a_gpu_of_its_own_and_the_leader_sees_another(cluster):
    server = cluster.start("policy-0", ["-S", "-c", PAIR], {"EXPRL_TOKEN": "s3cret"})
    *pids, gpu = wait_for_lines([server])[0].split()
    assert {gpu, os.environ["CUDA_VISIBLE_DEVICES"]} == {"0", "1"}
    assert server.host == cluster.seats["policy-0"].host
    assert server.poll() is None
    assert "s3cret" not in server.log.read_text()
    server.stop()
    assert gone([int(pid) for pid in pids])
    assert server.poll() is not None


def test_a_killed_actor_takes_everything_with_it_and_the_seat_is_free_again(cluster):
    import ray

    server = cluster.start("policy-0", ["-S", "-c", PAIR], {})
    *pids, _ = wait_for_lines([server])[0].split()
    ray.kill(server._actor)
    assert gone([int(pid) for pid in pids])
    assert server.poll() is not None
    again = cluster.start("policy-0", ["-c", "print('up'); input()"], {})
    assert wait_for_lines([again])[0] == "up"
    again.stop()


def test_one_that_does_not_start_shows_the_end_of_its_log(cluster):
    server = cluster.start("policy-0", ["-c", "raise SystemExit('no such model')"], {})
    with pytest.raises(ProcessError, match=r"(?s)policy-0 on .* ended .*no such model"):
        wait_for_lines([server])[0]


def test_nothing_is_left_ten_seconds_after_the_leader_was_killed(address, tmp_path):
    leader = subprocess.Popen(
        [sys.executable, "-c", LEADER, address, tmp_path, PAIR],
        stdout=subprocess.PIPE,
        text=True,
    )
    *pids, _ = leader.stdout.readline().split()
    leader.kill()
    leader.wait()
    leader.stdout.close()
    assert gone([int(pid) for pid in pids])


def test_too_few_gpus_are_counted(address, tmp_path):
    section = config.Cluster(kind="ray", address=address)
    with pytest.raises(ConfigError, match="the run wants 10 GPUs, and there are 8"):
        open_cluster(section, [Need("rank", 0, 1), Need("policy", 0, 9)], tmp_path)


def test_a_cluster_that_is_not_there_says_how_to_start_one(exprl, tmp_path):
    done = exprl(
        "train",
        "configs/division_sft.toml",
        f"run_dir={tmp_path}",
        "ranks.count=2",
        "engine.kind=servers",
        "cluster.kind=ray",
        "cluster.address=127.0.0.1:9",
    )
    assert done.returncode == 2
    assert "cluster.address = '127.0.0.1:9': no Ray cluster could be joined" in done.stderr
    assert "ray start --head" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_ranks_and_a_server_of_a_run_are_placed_by_ray_and_end_with_it(repo, address, tmp_path):
    run_dir = tmp_path / "run"
    settings = {
        "run_dir": run_dir,
        "engine.kind": "servers",
        "ranks.count": 2,
        "cluster.kind": "ray",
        "cluster.address": address,
        "train.steps": 2,
        "train.checkpoint_every": 1,
        "rollout.problems_per_step": 4,
        "rollout.group_size": 4,
        "eval.data": "none",
    }
    words = [f"{key}={value}" for key, value in settings.items()]
    done = subprocess.run(
        [sys.executable, "-m", "exprl", "train", "configs/division_process.toml", *words],
        cwd=repo,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["rollout/count"] for row in rows] == [16, 16]
    assert {path.name for path in (run_dir / "logs").iterdir()} == {"policy-0.log", "rank-1.log"}
