"""Runs one command, and leaves nothing of it behind: `keeper.py SECONDS COMMAND [ARGUMENT ...]`.

Its stdin is a lifeline. When that closes, because whoever holds the other end closes it or dies,
the command and everything that it started end: asked first, killed after SECONDS. The same
happens to what the command leaves behind when it ends by itself. What a program starts ends with
it too where the program hangs, was killed, or puts its children into sessions of their own.

The keeper is two processes. The outer one waits, so that who kills it, as Ray kills the children of
an actor, leaves the inner one to see that and to do its work.

The standard library alone, without site-packages: it starts in a few milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

GRACE_S = 5.0
"""Usual time between SIGTERM and SIGKILL."""
LOOK_S = 1.0
PR_SET_CHILD_SUBREAPER = 36


def main(grace_s: float, argv: list[str]) -> int:
    """Run the command until it ends or the lifeline closes; returns its exit code."""
    leader, outer = os.getppid(), os.getpid()
    inner = os.fork()
    if not inner:
        return keep(outer, grace_s, argv)
    # A fork of the leader may hold the lifeline open after it.
    while os.getppid() == leader:
        ended, status = os.waitpid(inner, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(LOOK_S / 10)
    return 1


def keep(parent: int, grace_s: float, argv: list[str]) -> int:
    """Run the command while `parent` lives and the lifeline is held; returns its exit code."""
    # Orphans below this process become its children, whatever their session: none gets away.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True)
    # After the child started, which would inherit it: it is the child that signals are for.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        _wait(child, parent)
    finally:
        end(child, grace_s)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _wait(child: subprocess.Popen[bytes], parent: int) -> None:
    """Return when the child ended or nobody holds the lifeline."""
    ended = os.pidfd_open(child.pid)
    while os.getppid() == parent:
        ready, _, _ = select.select([0, ended], [], [], LOOK_S)
        if ended in ready or (0 in ready and not os.read(0, 4096)):
            return


def end(child: subprocess.Popen[bytes], grace_s: float) -> None:
    """End the child and everything below this process: asked, then after grace_s killed."""
    if child.stdin:
        child.stdin.close()
    for pid in find_descendants(os.getpid()):
        _send(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while left := _bury(child):
        if time.monotonic() > deadline:
            for pid in left:
                _send(pid, signal.SIGKILL)
        time.sleep(LOOK_S / 20)


def _bury(child: subprocess.Popen[bytes]) -> list[int]:
    """Take note of the ends of children; returns the descendants that live."""
    child.poll()
    left = find_descendants(os.getpid())
    for pid in left:
        if pid != child.pid:
            with contextlib.suppress(ChildProcessError):  # a child of a child: theirs to bury
                os.waitpid(pid, os.WNOHANG)
    return [pid for pid in left if Path(f"/proc/{pid}").exists()]


def find_descendants(pid: int) -> list[int]:
    """Every process below one."""
    below: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            # PID (NAME) STATE PARENT ..., and a name may hold anything.
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
            below.setdefault(parent, []).append(int(stat.parent.name))
    found = list(below.get(pid, ()))
    for one in found:  # it grows while it is read
        found += below.get(one, ())
    return found


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
