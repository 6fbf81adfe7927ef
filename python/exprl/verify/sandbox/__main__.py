"""The jailer: one order on standard input, one confined program, its end on a descriptor.

    trainer -> jailer (watches clock and memory)
            -> warden (process 1 of its namespaces; builds the file system, waits)
            -> program (unprivileged, limited, filtered)

The kernel kills all that is left in the namespaces when the warden ends; and the warden, when the
jailer ends; and the jailer, when the trainer does. A layer that cannot be put in place ends
everything before the program starts.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time

from exprl.verify.sandbox import calls, kernel

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing takes a tenth of a jail's start
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn, TextIO

WATCH_S = 0.02
"""Between two looks at the memory of all processes together."""
SWEEP_S = 5.0
BOX = "/box"
_OWN_FOLDERS = ("/tmp", "/dev/shm")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_FIRST_UID = 0x60000000
"""No account has it. A jail's user is this plus the jailer's process id: no two jails share one."""
_NOBODY = 65534
_INODES = 4096

_stop_wanted: list[bool] = []
"""Filled by SIGTERM: from the trainer, or because it ended."""


class _LayerError(Exception):
    def __init__(self, layer: str, error: OSError) -> None:
        super().__init__(layer, str(error))


def main() -> None:
    """Read the order, run it, report."""
    order = json.load(sys.stdin)
    status = os.fdopen(order["status_fd"], "w", buffering=1)
    os.set_inheritable(order["status_fd"], False)
    signal.signal(signal.SIGTERM, lambda *_: _stop_wanted.append(True))
    kernel.signal_at_parents_end(signal.SIGTERM)
    if os.getppid() != order["parent"]:
        return
    _report_errors(status, lambda: _jail(order, status))


def _report_errors(status: TextIO, work: Callable[[], object]) -> None:
    try:
        work()
    except _LayerError as error:
        layer, reason = error.args
        status.write(json.dumps({"failed": layer, "reason": reason}) + "\n")
    except OSError as error:
        status.write(json.dumps({"failed": "start", "reason": str(error)}) + "\n")


def _jail(order: dict[str, Any], status: TextIO) -> None:
    uid = _FIRST_UID + os.getpid() if os.getuid() == 0 else None
    kernel.adopt_orphans()
    if "namespaces" in order["layers"]:
        _layer("namespaces", _enter_namespaces)
    warden = os.fork()
    if warden == 0:
        _report_errors(status, lambda: _ward(order, uid, status))
        os._exit(0)
    stopped = _watch(warden, order["limits"])
    if "namespaces" not in order["layers"]:
        _sweep(uid)
    if stopped:
        status.write(json.dumps({"stopped": stopped}) + "\n")


def _layer(name: str, work: Callable[[], object]) -> None:
    try:
        work()
    except OSError as error:
        raise _LayerError(name, error) from None


def _enter_namespaces() -> None:
    flags = kernel.CLONE_NEWPID | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        kernel.unshare(flags)
        return
    kernel.unshare(flags | kernel.CLONE_NEWUSER)
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123
            file.write(line)


def _watch(warden: int, limits: dict[str, Any]) -> str | None:
    """Wait for the warden; kill it, and say why, when time or memory is used up."""
    ends = time.monotonic() + limits["timeout_s"]
    handle = os.pidfd_open(warden)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    stopped = None
    while not poll.poll(WATCH_S * 1000):
        if time.monotonic() > ends:
            stopped = "time"
        elif _measure_memory(warden) > limits["memory_bytes"]:
            stopped = "memory"
        if stopped or _stop_wanted:
            os.kill(warden, signal.SIGKILL)
            break
    os.waitpid(warden, 0)
    return stopped


def _measure_memory(root: int) -> int:
    """Memory that a process and its descendants hold, without what they map from files."""
    total = 0
    for pid in _tree(root):
        try:
            with open(f"/proc/{pid}/status") as file:  # noqa: PTH123
                for line in file:
                    if line.startswith(("RssAnon:", "RssShmem:")):
                        total += int(line.split()[1]) << 10
        except OSError:
            continue  # it ended
    return total


def _tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:  # noqa: PTH123
            children = file.read().split()
    except OSError:
        return
    for child in children:
        yield from _tree(int(child))


def _sweep(uid: int | None) -> None:
    """Kill what a program left behind outside of any process namespace."""
    if uid is not None and os.fork() == 0:
        try:
            _become(uid)
            if os.getuid() == uid:
                os.kill(-1, signal.SIGKILL)  # at once all that this user runs, this child excepted
        finally:
            os._exit(0)
    ends = time.monotonic() + SWEEP_S
    while time.monotonic() < ends:
        _, *left = _tree(os.getpid())
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            time.sleep(0.001)
        except ChildProcessError:
            return


def _ward(order: dict[str, Any], uid: int | None, status: TextIO) -> None:
    """Make the place, start the program in it, reap, report how it ended."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    kernel.signal_at_parents_end(signal.SIGKILL)
    kernel.forbid_tracing()
    if "namespaces" in order["layers"]:
        _layer("namespaces", lambda: _build_root(order))
        box = BOX
        order["readable"] = ["/"]
    else:
        box = order["base"] + BOX
        os.mkdir(box, 0o700)  # noqa: PTH102
    order["writable"] = [box, *_OWN_FOLDERS] if box == BOX else [box]
    for name, text in order["files"].items():
        with open(f"{box}/{name}", "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(text)
        if uid is not None:
            os.chown(f"{box}/{name}", uid, uid)
    if uid is not None:
        os.chown(box, uid, uid)
        os.chown(order["base"], uid, uid) if box != BOX else None
    program = os.fork()
    if program == 0:
        _report_errors(status, lambda: _become_program(order, uid, box))
        os._exit(127)
    while True:
        pid, state, used = os.wait4(-1, 0)
        if pid == program:
            break
    code = os.waitstatus_to_exitcode(state)
    seconds = round(used.ru_utime + used.ru_stime, 3)
    status.write(json.dumps({"exit": code, "cpu_s": seconds}) + "\n")


def _build_root(order: dict[str, Any]) -> None:
    """A root of its own: an empty tmpfs with the interpreter and the system's libraries."""
    base = order["base"]
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    size = order["limits"]["disk_bytes"]
    options = f"mode=755,size={size},nr_inodes={_INODES}"
    kernel.mount("tmpfs", base, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
    for path in order["readable"]:
        if os.path.islink(path):  # noqa: PTH114
            os.symlink(os.readlink(path), base + path)  # noqa: PTH115, PTH211
        elif os.path.exists(path):  # noqa: PTH110
            _bind(path, base)
            kernel.make_read_only(base + path)
    for path in _DEVICES:
        _bind(path, base)
    for path in (BOX, *_OWN_FOLDERS):
        os.makedirs(base + path, exist_ok=True)  # noqa: PTH103 - the interpreter may lie in /tmp
        os.chmod(base + path, 0o1777)  # noqa: PTH101
    os.chdir(base)
    kernel.mount(".", "/", "", kernel.MS_MOVE)
    os.chroot(".")
    os.chdir("/")


def _bind(path: str, base: str) -> None:
    if os.path.isdir(path):  # noqa: PTH112
        os.makedirs(base + path, exist_ok=True)  # noqa: PTH103
    else:
        os.makedirs(os.path.dirname(base + path), exist_ok=True)  # noqa: PTH103, PTH120
        os.close(os.open(base + path, os.O_CREAT | os.O_WRONLY, 0o644))
    kernel.mount(path, base + path, "", kernel.MS_BIND | kernel.MS_REC)


def _become_program(order: dict[str, Any], uid: int | None, box: str) -> NoReturn:
    """Limits, user, layers, and the program in place of this process."""
    os.setsid()
    os.chdir(box)
    stdin = os.memfd_create("stdin")
    os.write(stdin, order["stdin"].encode())
    os.lseek(stdin, 0, os.SEEK_SET)
    os.dup2(stdin, 0)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec keeps that
        signal.signal(number, signal.SIG_DFL)
    for name, soft, hard in _list_rlimits(order["limits"]):
        resource.setrlimit(name, (soft, hard))
    if uid is not None:
        _layer("user", lambda: _become(uid))
    kernel.forbid_new_privileges()
    if "paths" in order["layers"]:
        paths = order["readable"], order["writable"], _DEVICES
        _layer("paths", lambda: kernel.landlock(*paths))
    if "filter" in order["layers"]:
        outward = "namespaces" not in order["layers"]
        machine = os.uname().machine
        _layer("filter", lambda: kernel.seccomp(calls.build_filter(machine, outward=outward)))
    for descriptor in order["keep"]:
        os.set_inheritable(descriptor, True)
    environment = {"PATH": "/usr/bin:/bin", "HOME": box, "TMPDIR": box, "LANG": "C.UTF-8"}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    os.execve(order["argv"][0], order["argv"], environment | threads)


def _become(uid: int) -> None:
    os.setgroups([])
    try:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError:  # a container whose users are few
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def _list_rlimits(limits: dict[str, Any]) -> Iterator[tuple[int, int, int]]:
    cpu = limits["cpu_s"]
    yield resource.RLIMIT_CPU, cpu, cpu + 1
    for name, value in (
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["disk_bytes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        yield name, value, value


if __name__ == "__main__":
    main()
