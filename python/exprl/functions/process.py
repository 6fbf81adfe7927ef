"""One process with one of the user's functions; threads may ask it at the same time."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYetError
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exprl.config import FunctionName
from exprl.errors import ConfigError, FunctionError

START_LIMIT_S = 120.0
"""For the imports of the user's module, which may be heavy."""
GRACE_S = 5.0
"""Beyond functions.timeout_s, in which an `async def` function is stopped without ending others."""


@dataclass(frozen=True, slots=True)
class Signature:
    """How a function is called.

    parameters: the names of all, in order.
    required: of those without a default.
    is_async: whether it is an `async def`.
    """

    parameters: tuple[str, ...]
    required: tuple[str, ...]
    is_async: bool

    @property
    def is_batch(self) -> bool:
        """Whether it takes several rollouts at a time."""
        return "texts" in self.parameters


class LateError(FunctionError):
    """A call took longer than functions.timeout_s."""


class LostError(FunctionError):
    """The process ended while it was asked."""


class BlockedError(LostError, LateError):
    """An `async def` function kept its process from answering; which of its calls is not known."""


class FunctionProcess:
    """A function behind a pipe: JSON lines ask, JSON lines answer."""

    def __init__(self, name: FunctionName, limit_s: float) -> None:
        """Start it, and wait until the function is imported.

        Raises:
            ConfigError: there is no such module or function, or it cannot be called by names.
        """
        self._name, self._limit_s = name, limit_s
        self._ids = itertools.count()
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._process: subprocess.Popen[str] | None = None
        self.ended = False
        ready: Future[dict[str, Any]] = Future()
        # The kernel ends the process with the thread that started it: this one lives as long.
        threading.Thread(target=self._serve, args=(ready,), daemon=True, name=name).start()
        try:
            first = ready.result(START_LIMIT_S)
        except NotYetError:
            self.end()
            raise ConfigError(
                f"{name}: {name.module} was not imported within {START_LIMIT_S:g} s"
            ) from None
        if "ready" not in first:
            self.end()
            raise ConfigError(f"{name} cannot be used: {first['refused']}")
        found = first["ready"]
        parameters, required = tuple(found["parameters"]), tuple(found["required"])
        self.signature = Signature(parameters, required, found["is_async"])

    def ask(self, arguments: dict[str, Any]) -> Any:
        """What the function returns, as JSON has it.

        Raises:
            LateError: it took too long; a process whose function is not `async def` is ended.
            LostError: the process ended, or had to be ended because another call blocks it.
            FunctionError: the function raised an exception.
        """
        number, future = next(self._ids), Future[dict[str, Any]]()
        line = json.dumps({"id": number, "arguments": arguments}) + "\n"
        with self._lock:
            if self.ended or self._process is None or self._process.stdin is None:
                raise LostError("its process has ended")
            self._waiting[number] = future
            with contextlib.suppress(BrokenPipeError):  # then the end of its replies says so
                self._process.stdin.write(line)
                self._process.stdin.flush()
        late = LateError(f"it took longer than functions.timeout_s = {self._limit_s:g} s")
        try:
            grace = GRACE_S if self.signature.is_async else 0.0
            reply = future.result(self._limit_s + grace)
        except NotYetError:
            self.end()
            raise BlockedError(str(late)) if self.signature.is_async else late from None
        except BaseException:
            self.end()  # interrupted: nobody waits for its reply
            raise
        if "late" in reply:
            raise late
        if "error" in reply:
            raise FunctionError(reply["error"])
        return reply["value"]

    def end(self) -> None:
        """End the process and what it started."""
        process, was_ended, self.ended = self._process, self.ended, True
        if process is not None and not was_ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def _serve(self, ready: Future[dict[str, Any]]) -> None:
        """Start the process, hand out its replies, and see it end; on a thread of its own."""
        process = self._process = _start(self._name, self._limit_s)
        assert process.stdout is not None and process.stdin is not None
        for line in process.stdout:
            message = json.loads(line)
            future = self._waiting.pop(message["id"], None) if "id" in message else ready
            if future is not None and not future.done():
                future.set_result(message)
        code = process.wait()
        with self._lock:
            self.ended = True
            left = list(self._waiting.values())
            self._waiting.clear()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        process.stdout.close()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with the exit code {code}"
        if not ready.done():
            ready.set_result({"refused": f"its process {how} while it imported the module"})
        for future in left:
            if not future.done():
                future.set_exception(LostError(f"its process {how}"))


def _start(name: FunctionName, limit_s: float) -> subprocess.Popen[str]:
    package_root = str(Path(__file__).parents[2])
    paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        # -P: the working directory must not shadow modules that the worker itself imports.
        [sys.executable, "-P", "-m", "exprl.functions.worker", name, str(limit_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        text=True,
        encoding="utf-8",
        start_new_session=True,  # Ctrl-C is the trainer's; and all that it starts ends with it
    )
