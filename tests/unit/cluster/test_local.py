"""Processes of this machine: how they start, what they see, and that nothing of them stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exprl.cluster import keeper
from exprl.cluster.local import LocalCluster, read_tail
from exprl.cluster.placement import Need
from exprl.cluster.processes import wait_for_lines
from exprl.errors import ProcessError

LEADER = Need("rank", 0, 1)
SERVER = Need("policy", 0, 1)
# Two generations that ignore SIGTERM, the younger in a session of its own: the worst of children.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True)
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""
LEADER_PROCESS = """
import os, sys, time
from pathlib import Path
from exprl.cluster.local import LocalProcess
from exprl.cluster.processes import wait_for_lines
folder, code, grace_s = sys.argv[1:]
log = Path(folder, "policy-0.log")
server = LocalProcess("policy-0", ["-S", "-c", code], os.environ, log, "here", float(grace_s))
# A fork holds the lifeline open, as a pool of workers would.
forked = os.fork()
if forked:
    print(forked, wait_for_lines([server])[0], flush=True)
time.sleep(600)
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    opened = LocalCluster([LEADER, SERVER], tmp_path / "logs", grace_s=0.3)
    yield opened
    opened.close()


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids: list[int], seconds: float = 30.0) -> bool:
    """Wait until none of them runs."""
    deadline = time.monotonic() + seconds
    while any(map(running, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_the_first_line_comes_back_and_the_log_holds_what_was_printed(
    cluster: LocalCluster,
) -> None:
    code = "import sys; print('up'); print('more'); print('why', file=sys.stderr)"
    server = cluster.start("policy-0", ["-c", code], {})
    assert wait_for_lines([server])[0] == "up"
    server.stop()
    log = server.log.read_text()
    assert server.log.name == "policy-0.log"
    assert log.startswith("$ python -c ")
    assert {"up", "more", "why"} <= set(log.splitlines())


def test_a_later_start_adds_to_the_log(cluster: LocalCluster) -> None:
    for word in ("first", "second"):
        server = cluster.start("policy-0", ["-c", f"print('{word}')"], {})
        assert wait_for_lines([server])[0] == word
        server.stop()
    assert [w for w in server.log.read_text().split() if w in ("first", "second")] == [
        "first",
        "second",
    ]


def test_one_that_does_not_start_shows_the_end_of_its_log(cluster: LocalCluster) -> None:
    server = cluster.start("policy-0", ["-c", "raise SystemExit('no such model')"], {})
    with pytest.raises(ProcessError, match=r"(?s)policy-0 on 127.0.0.1 ended.*no such model"):
        wait_for_lines([server])[0]
    assert server.poll() is not None


def test_one_that_is_slow_is_named(cluster: LocalCluster) -> None:
    server = cluster.start("policy-0", ["-c", "import time; time.sleep(600)"], {})
    with pytest.raises(ProcessError, match=r"policy-0 on 127.0.0.1 is not up after 0.4 s"):
        wait_for_lines([server], 0.4)[0]
    assert server.poll() is None


def test_a_token_is_in_the_environment_and_neither_in_arguments_nor_in_the_log(
    cluster: LocalCluster,
) -> None:
    code = "import os; print(len(os.environ['EXPRL_TOKEN']), os.getpid()); input()"
    server = cluster.start("policy-0", ["-c", code], {"EXPRL_TOKEN": "s3cret-token"})
    length, pid = map(int, wait_for_lines([server])[0].split())
    assert length == len("s3cret-token")
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    for shown in (pid, parent):
        assert b"s3cret-token" not in Path(f"/proc/{shown}/cmdline").read_bytes()
    server.stop()
    assert "s3cret-token" not in server.log.read_text()


def test_each_process_sees_its_own_gpus_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5f0a,6,7")
    cluster = LocalCluster([LEADER, Need("policy", 0, 1), Need("judge", 0, 2)], tmp_path)
    seen = {}
    for name in ("policy-0", "judge-0"):
        code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
        seen[name] = wait_for_lines([cluster.start(name, ["-c", code], {})])[0]
    cluster.close()
    assert seen == {"policy-0": "GPU-5f0a", "judge-0": "6,7"}


def test_stopping_ends_what_a_process_started_however_stubborn(cluster: LocalCluster) -> None:
    server = cluster.start("policy-0", ["-S", "-c", STUBBORN], {})
    pids = [int(pid) for pid in wait_for_lines([server])[0].split()]
    assert all(map(running, pids))
    server.stop()
    assert not any(map(running, pids))


def test_what_a_process_leaves_behind_ends_with_it(cluster: LocalCluster) -> None:
    server = cluster.start("policy-0", ["-S", "-c", STUBBORN], {})
    pids = [int(pid) for pid in wait_for_lines([server])[0].split()]
    os.kill(pids[0], signal.SIGKILL)
    assert gone(pids)
    assert server.poll() is not None or gone([server._keeper.pid])


def test_everything_ends_though_somebody_kills_what_the_leader_started(
    cluster: LocalCluster,
) -> None:
    server = cluster.start("policy-0", ["-S", "-c", STUBBORN], {})
    pids = [int(pid) for pid in wait_for_lines([server])[0].split()]
    server._keeper.kill()  # as Ray does with the children of an actor
    assert gone(pids)


def test_a_process_hears_signals_as_if_there_were_no_keeper(cluster: LocalCluster) -> None:
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    mine = [int(n) for n in numbers if signal.getsignal(n) is signal.SIG_IGN]  # under nohup: SIGHUP
    ignored = "[n for n in (1, 2, 15) if signal.getsignal(n) is signal.SIG_IGN]"
    server = cluster.start("policy-0", ["-c", f"import signal; print({ignored}); input()"], {})
    assert wait_for_lines([server])[0] == str(mine)


@pytest.mark.parametrize(
    ("number", "grace_s"),
    [(signal.SIGKILL, keeper.GRACE_S), (signal.SIGTERM, 0.3), (signal.SIGINT, 0.3)],
)
def test_nothing_is_left_ten_seconds_after_the_leader_died(
    tmp_path: Path, number: signal.Signals, grace_s: float
) -> None:
    leader = subprocess.Popen(
        [sys.executable, "-c", LEADER_PROCESS, tmp_path, STUBBORN, str(grace_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert leader.stdout
    fork, *pids = map(int, leader.stdout.readline().split())
    try:
        leader.send_signal(number)
        leader.wait()
        assert gone(pids, seconds=10.0)
    finally:
        os.kill(fork, signal.SIGKILL)
        leader.stdout.close()


def test_the_terminals_ctrl_c_is_for_the_leader_alone(cluster: LocalCluster) -> None:
    server = cluster.start("policy-0", ["-c", "import os; print(os.getsid(0)); input()"], {})
    assert int(wait_for_lines([server])[0]) != os.getsid(0)
    assert os.getsid(server._keeper.pid) != os.getsid(0)


def test_the_keeper_hands_on_the_exit_code() -> None:
    for code, wanted in (
        ("raise SystemExit(7)", 7),
        ("import os; os.kill(os.getpid(), 9)", 128 + 9),
    ):
        words = [sys.executable, "-I", "-S", keeper.__file__, "1", sys.executable, "-c", code]
        kept = subprocess.Popen(words, stdin=subprocess.PIPE)
        assert kept.wait() == wanted
        assert kept.stdin
        kept.stdin.close()


def test_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "long.log"
    path.write_text("".join(f"{json.dumps({'line': i})}\n" for i in range(20_000)))
    assert read_tail(path, 2) == '{"line": 19998}\n{"line": 19999}'


def test_one_that_ends_is_told_though_another_takes_long(tmp_path: Path) -> None:
    needs = [LEADER, SERVER, Need("policy", 1, 1)]
    cluster = LocalCluster(needs, tmp_path, grace_s=0.3)
    slow = cluster.start("policy-0", ["-c", "import time; time.sleep(600)"], {})
    broken = cluster.start("policy-1", ["-c", "raise SystemExit('no such model')"], {})
    with pytest.raises(ProcessError, match=r"policy-1 on 127\.0\.0\.1 ended while it started"):
        wait_for_lines([slow, broken])
    cluster.close()
