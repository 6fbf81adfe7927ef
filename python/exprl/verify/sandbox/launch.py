"""The trainer's side of a jail: the order for it, its streams, and how what ran in it ended."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from exprl import config
from exprl.errors import ConfigError, SandboxError

Status = Literal["exit", "signal", "time", "memory", "output"]

GRACE_S = 10.0
"""For the start and the end of a jail, beyond the time of the program in it."""
LINGER_S = 1.0
"""How long output may stay open after everything should be dead."""
_PACKAGES = Path(__file__).parents[3]
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
class Room:
    """What a machine gives its jails.

    command: of the interpreter.
    readable: paths that it needs.
    layers: of confinement, those that the machine has.
    """

    command: tuple[str, ...]
    readable: tuple[str, ...]
    layers: tuple[str, ...]


class MissingLayerError(SandboxError):
    """The machine has no such layer of confinement; the program did not start."""

    def __init__(self, layer: str, reason: str) -> None:
        super().__init__(reason)
        self.layer = layer


class Jail:
    """One confined program: its jailer, and what came out of it so far."""

    def __init__(
        self,
        room: Room,
        limits: config.Sandbox,
        files: dict[str, str],
        arguments: Sequence[str],
        stdin: str = "",
        keep: tuple[int, ...] = (),
    ) -> None:
        """`arguments` of the interpreter; `keep`: descriptors that the program may use."""
        self.limit_s = limits.timeout_s + GRACE_S
        self.output_limit = limits.output_kb << 10
        self._base = tempfile.mkdtemp(prefix="exprl-jail-")
        read_end, write_end = os.pipe()
        order = {
            "status_fd": write_end,
            "parent": os.getpid(),
            "layers": room.layers,
            "base": self._base,
            "readable": room.readable,
            "files": files,
            "stdin": stdin,
            "keep": keep,
            "argv": [*room.command, *arguments],
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
            [sys.executable, "-S", "-s", "-P", "-m", "exprl.verify.sandbox"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=descriptors,
            env={"PYTHONPATH": str(_PACKAGES)},
            cwd="/",
            start_new_session=True,
        )

    def __enter__(self) -> Jail:
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
            SandboxError: it never started, or it never ended.
        """
        report: dict[str, Any] = {}
        for line in self.taken["status"].splitlines():
            report |= json.loads(line)
        if "failed" in report:
            raise MissingLayerError(report["failed"], report["reason"])
        if not self.flooded and not report.keys() & {"exit", "stopped"}:
            if "status" in self.open:
                raise SandboxError(f"a jail has not ended within {self.limit_s:g} s")
            error = self.taken["stderr"][-500:].decode("utf-8", "replace")
            raise SandboxError(f"a jail ended without a report: {error}")
        code = report.get("exit")
        status: Status = "exit" if code is not None and code >= 0 else "signal"
        if self.flooded or "stopped" in report:
            status, code = "output" if self.flooded else report["stopped"], None
        out, err = (self.taken[name].decode("utf-8", "replace") for name in ("stdout", "stderr"))
        return Ended(status, code, out, err, survived=bool(self.open))


def collect(last: Jail, jails: Sequence[Jail]) -> None:
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


def run(room: Room, limits: config.Sandbox, program: str, stdin: str = "") -> Ended:
    """Run a program to its end.

    Raises:
        SandboxError: it could not be started under confinement.
    """
    with Jail(room, limits, {"program.py": program}, ("program.py",), stdin) as jail:
        collect(jail, (jail,))
        return jail.ended()


def find_room(python: str | None, layers: tuple[str, ...]) -> Room:
    """Room for an interpreter; None takes this one, without its packages.

    Raises:
        ConfigError: there is no such interpreter.
    """
    command: tuple[str, ...]
    system = [path for path in _SYSTEM if Path(path).exists()]
    if python is None:
        prefixes = [sys.base_prefix]
        base = getattr(sys, "_base_executable", None) or sys.executable
        command = (str(Path(base).resolve()), "-I", "-S")
    else:
        ask = "import json, sys; print(json.dumps([sys.base_prefix, sys.prefix]))"
        try:
            asked = [python, "-I", "-c", ask]
            found = subprocess.run(asked, capture_output=True, check=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            raise ConfigError(f"sandbox.python = {python!r} is no interpreter: {error}") from None
        prefixes = list(dict.fromkeys(json.loads(found.stdout)))
        command = (python, "-I")
    outside = [p for p in prefixes if not any(Path(p).is_relative_to(s) for s in system)]
    return Room(command, (*system, *outside), layers)
