"""Programs that a model wrote, run where they can do no harm, and their unit tests.

What confines a program is in `exprl.jail`: namespaces (no network, no foreign process, a root with
little but the interpreter), limits on time, memory, processes and disk, Landlock and a filter of
system calls. Not every machine allows all of it, so nothing is taken on trust: a hostile program
tries what should be impossible, and a sandbox that does not hold what `sandbox.require` names does
not open.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Literal, cast

from exprl import config
from exprl.errors import ConfigError, SandboxError
from exprl.jail import exchange

Status = Literal["exit", "signal", "time", "memory", "output"]
Verdict = Literal["passed", "failed", "vacuous"]

LAYERS = ("namespaces", "paths", "filter")
GRACE_S = 10.0
"""For the start and the end of a jail, beyond the time of the program in it."""
LINGER_S = 1.0
"""How long output may stay open after everything should be dead."""
_JAIL = Path(exchange.__file__).parent
_SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/nix/store", "/gnu/store")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended.

    status: `exit` by itself; `signal` killed by one, CPU time used up included; `time`, `memory`
        and `output`: stopped at that limit.
    code: exit code, or the negative signal; None where it was stopped.
    stdout, stderr: their beginnings, up to the limit.
    survived: something of it outlived it.
    """

    status: Status
    code: int | None
    stdout: str
    stderr: str
    survived: bool = False


@dataclass(frozen=True, slots=True)
class Tested:
    """What unit tests said of a program.

    verdict: `vacuous` if they ended without asking anything of the program.
    detail: the end of their own output, or what stopped them.
    """

    verdict: Verdict
    detail: str


@dataclass(frozen=True, slots=True)
class Held:
    """One thing that a program must not be able to do, as one that tried it found it.

    found: how it is prevented, or how far the program came.
    """

    name: config.Confinement
    holds: bool
    found: str


class Sandbox:
    """Runs programs within the limits of a config section. Threads may share it.

    held: what was tried when it was opened.

    Raises:
        ConfigError: something that sandbox.require names does not hold on this machine.
    """

    def __init__(self, settings: config.Sandbox | None = None) -> None:
        self.settings = settings or config.Sandbox()
        self._python, self._readable = _interpreter(self.settings.python)
        self._slots = threading.BoundedSemaphore(self.workers)
        self._layers: tuple[str, ...] = LAYERS
        self.held = self._try_out()
        broken = [h for h in self.held if not h.holds and h.name in self.settings.require]
        if broken:
            raise ConfigError(
                "the sandbox for programs that a model wrote does not hold here what"
                " sandbox.require names:"
                + "".join(f"\n  {h.name}: {h.found}" for h in broken)
                + "\nAllow namespaces (root, or unprivileged user namespaces; in a container"
                " --cap-add SYS_ADMIN --security-opt seccomp=unconfined), or, where nothing can be"
                " lost, take the name out of sandbox.require"
            )

    @property
    def workers(self) -> int:
        """Programs that run at a time."""
        return self.settings.workers or len(os.sched_getaffinity(0))

    def summary(self) -> str:
        """Which confinements hold here, in one line."""
        holds = ", ".join(h.name for h in self.held if h.holds)
        broken = "; ".join(f"{h.name} ({h.found})" for h in self.held if not h.holds)
        return f"programs run confined in {holds}" + (f"; NOT in {broken}" if broken else "")

    def run(self, program: str, stdin: str = "") -> Ended:
        """Run a program to its end.

        Raises:
            SandboxError: it could not be started under confinement.
        """
        with self._slots, _Jail(self, {"program.py": program}, ("program.py",), stdin) as jail:
            _collect(jail, (jail,))
            return jail.ended()

    def test(self, program: str, tests: str, setup: str = "") -> Tested:
        """Run unit tests against a program, each in a jail of its own (`exprl.jail.exchange`).

        Args:
            program: Python; hostile.
            tests: Python that uses the program's names and raises if it is wrong; unittest
                classes and `test_*` functions are run.
            setup: names that the tests may use, too; not the program's.

        Raises:
            SandboxError: a jail could not be started under confinement.
        """
        wire = {"exchange.py": _source("exchange.py")}
        programs = wire | {"program.py": program}
        testing = wire | {"tests.py": tests, "setup.py": setup}
        with self._slots, contextlib.ExitStack() as stack:
            from_program, to_tests = os.pipe()
            from_tests, to_program = os.pipe()
            try:
                ends = (from_tests, to_tests)
                arguments = ("exchange.py", "program", *map(str, ends))
                under_test = stack.enter_context(_Jail(self, programs, arguments, keep=ends))
                ends = (from_program, to_program)
                arguments = ("exchange.py", "tests", *map(str, ends))
                tester = stack.enter_context(_Jail(self, testing, arguments, keep=ends))
            finally:
                for end in (from_program, to_tests, from_tests, to_program):
                    os.close(end)
            _collect(tester, (tester, under_test))
            under_test.stop()
            return _verdict(tester.ended())

    def _try_out(self) -> tuple[Held, ...]:
        """Find the layers that this machine has, and what they hold together."""
        reasons: dict[str, str] = {}
        while True:
            try:
                return tuple(_probe(self))
            except _MissingLayerError as missing:
                reasons[missing.layer] = str(missing)
                if missing.layer not in self._layers:
                    found = "; ".join(f"{k}: {v}" for k, v in reasons.items())
                    return tuple(Held(name, False, found) for name in config.CONFINEMENTS)
                self._layers = tuple(x for x in self._layers if x != missing.layer)


class _MissingLayerError(SandboxError):
    def __init__(self, layer: str, reason: str) -> None:
        super().__init__(reason)
        self.layer = layer


class _Jail:
    """One confined program: its jailer, and what came out of it so far."""

    def __init__(
        self,
        sandbox: Sandbox,
        files: dict[str, str],
        arguments: Sequence[str],
        stdin: str = "",
        keep: tuple[int, ...] = (),
        limits: config.Sandbox | None = None,
    ) -> None:
        limits = limits or sandbox.settings
        self.limit_s = limits.timeout_s + GRACE_S
        self.output_limit = limits.output_kb << 10
        self._base = tempfile.mkdtemp(prefix="exprl-jail-")
        read_end, write_end = os.pipe()
        order = {
            "status_fd": write_end,
            "parent": os.getpid(),
            "layers": sandbox._layers,
            "base": self._base,
            "readable": sandbox._readable,
            "files": files,
            "stdin": stdin,
            "keep": keep,
            "argv": [*sandbox._python, *arguments],
            "limits": {
                "timeout_s": limits.timeout_s,
                "cpu_s": limits.cpu_s,
                "memory_bytes": limits.memory_mb << 20,
                "disk_bytes": limits.disk_mb << 20,
                "processes": limits.processes,
                "open_files": limits.open_files,
            },
        }
        try:
            self._process = self._start((write_end, *keep))
        except OSError as error:
            os.close(read_end)
            shutil.rmtree(self._base, ignore_errors=True)
            raise SandboxError(f"cannot start a jail: {error}") from None
        finally:
            os.close(write_end)
        self.streams = {
            "stdout": cast(IO[bytes], self._process.stdout),
            "stderr": cast(IO[bytes], self._process.stderr),
            "status": os.fdopen(read_end, "rb"),
        }
        self.taken: dict[str, bytearray] = {name: bytearray() for name in self.streams}
        self.open = set(self.streams)
        self.flooded = False
        stdin_pipe = cast(IO[bytes], self._process.stdin)
        with contextlib.suppress(BrokenPipeError):  # then its status says why
            stdin_pipe.write(json.dumps(order).encode("utf-8", "surrogatepass"))
            stdin_pipe.close()

    def _start(self, descriptors: tuple[int, ...]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-S", "-s", "-P", "-m", "exprl.jail"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=descriptors,
            env={"PYTHONPATH": str(_JAIL.parents[1])},
            cwd="/",
            start_new_session=True,
        )

    def __enter__(self) -> _Jail:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (*self.streams.values(), self._process.stdin):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        shutil.rmtree(self._base, ignore_errors=True)

    def stop(self) -> None:
        """Have the jailer end everything."""
        self._process.send_signal(signal.SIGTERM)

    def take(self, name: str) -> None:
        """Take what a stream has; past the limit stop the program."""
        data = os.read(self.streams[name].fileno(), 1 << 16)
        if not data:
            self.open.discard(name)
        elif name == "status" or len(self.taken[name]) + len(data) <= self.output_limit:
            self.taken[name] += data
        else:
            self.flooded = True
            self.stop()

    def ended(self) -> Ended:
        """How it ended.

        Raises:
            SandboxError: it never started.
        """
        report: dict[str, Any] = {}
        for line in self.taken["status"].splitlines():
            report |= json.loads(line)
        if "failed" in report:
            raise _MissingLayerError(report["failed"], report["reason"])
        if not self.flooded and not report.keys() & {"exit", "stopped"}:
            error = self.taken["stderr"][-500:].decode("utf-8", "replace")
            raise SandboxError(f"a jail ended without a report: {error}")
        code = report.get("exit")
        status: Status = "exit" if code is not None and code >= 0 else "signal"
        if self.flooded or "stopped" in report:
            status, code = "output" if self.flooded else report["stopped"], None
        out, err = (self.taken[name].decode("utf-8", "replace") for name in ("stdout", "stderr"))
        return Ended(status, code, out, err, survived=bool(self.open))


def _collect(last: _Jail, jails: Sequence[_Jail]) -> None:
    """Take all output of the jails until the last one has ended."""
    ends = time.monotonic() + last.limit_s
    with selectors.DefaultSelector() as selector:
        for jail in jails:
            for name, stream in jail.streams.items():
                selector.register(stream, selectors.EVENT_READ, (jail, name))
        while last.open and (left := ends - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                jail, name = key.data
                jail.take(name)
                if name not in jail.open:
                    selector.unregister(key.fileobj)
            if "status" not in last.open:  # the jailer has ended, and all else should have
                ends = min(ends, time.monotonic() + LINGER_S)


def _verdict(ended: Ended) -> Tested:
    match ended.code:
        case exchange.PASSED:
            return Tested("passed", "")
        case exchange.VACUOUS:
            return Tested("vacuous", "the tests ended without asking anything of the program")
    stopped = "" if ended.status == "exit" else f"stopped: {ended.status}\n"
    return Tested("failed", stopped + ended.stderr[-1000:])


def _probe(sandbox: Sandbox) -> Iterator[Held]:
    """Have a hostile program try everything that a sandbox must prevent."""
    small = {"memory_mb": 256, "processes": 8, "disk_mb": 4, "timeout_s": 60.0, "cpu_s": 10}
    limits = sandbox.settings.model_copy(update=small)
    files = {"probe.py": _source("probe.py")}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="exprl-probe-")))
        secret, unlocked = folder / "secret", folder / "unlocked"
        secret.write_text("secret")
        unlocked.mkdir()
        victim = unlocked / "victim"
        victim.touch()
        for path, mode in ((folder, 0o755), (secret, 0o644), (unlocked, 0o777)):
            path.chmod(mode)  # only the sandbox keeps a program out
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        name = f"exprl-{os.getpid()}-{folder.name}"
        local = stack.enter_context(socket.socket(socket.AF_UNIX))
        local.bind("\0" + name)
        local.listen()
        aim = {
            "port": listener.getsockname()[1],
            "unix": name,
            "secret": str(secret),
            "folder": str(unlocked),
            "victim": str(victim),
            "parent": os.getpid(),
            "memory_bytes": limits.memory_mb << 20,
            "disk_bytes": limits.disk_mb << 20,
            "processes": limits.processes,
            "linger_s": 20 * LINGER_S,
        }

        def attempt(aim: dict[str, Any], limits: config.Sandbox) -> Ended:
            with _Jail(sandbox, files, ("probe.py",), json.dumps(aim), limits=limits) as jail:
                _collect(jail, (jail,))
                return jail.ended()

        ended = attempt(aim, limits)
        little = limits.model_copy(update={"memory_mb": 96})
        shared = attempt(aim | {"memory_bytes": 96 << 20, "share": True}, little)
    if ended.code != 0:
        raise SandboxError(f"the sandbox cannot run a program: {ended.stderr[-500:]}")
    reached: dict[str, str | None] = json.loads(ended.stdout)
    reached["leftovers"] = "left a process behind" if ended.survived else None
    together = "took more memory than allowed in several processes together"
    alone = shared.status == "memory" or reached["processes"] == "cannot start any"
    reached["memory"] = reached["memory"] or (None if alone else together)
    if reached["processes"] == "cannot start any":
        reached["processes"] = None
    for confinement in config.CONFINEMENTS:
        found = reached[confinement]
        yield Held(confinement, found is None, found or "a program that tried was kept from it")


def _interpreter(python: str | None) -> tuple[list[str], list[str]]:
    """The command that runs a file, and the paths that it needs to read.

    Raises:
        ConfigError: there is no such interpreter.
    """
    system = [path for path in _SYSTEM if Path(path).exists()]
    if python is None:
        prefixes = [sys.base_prefix]
        base = getattr(sys, "_base_executable", None) or sys.executable
        command = [str(Path(base).resolve()), "-I", "-S"]
    else:
        ask = "import json, sys; print(json.dumps([sys.base_prefix, sys.prefix]))"
        try:
            asked = [python, "-I", "-c", ask]
            found = subprocess.run(asked, capture_output=True, check=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            raise ConfigError(f"sandbox.python = {python!r} is no interpreter: {error}") from None
        prefixes = list(dict.fromkeys(json.loads(found.stdout)))
        command = [python, "-I"]
    outside = [p for p in prefixes if not any(Path(p).is_relative_to(s) for s in system)]
    return command, [*system, *outside]


@lru_cache
def _source(name: str) -> str:
    return (_JAIL / name).read_text(encoding="utf-8")
