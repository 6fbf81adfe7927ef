r"""Whether two answers are one by math-verify (SymPy), asked in processes of their own.

What models write can keep SymPy busy for hours, exhaust the memory or abort the interpreter
(`\boxed{9^{9^{9^9}}}`), and math-verify's own timeouts are signals, which work on the main thread
only. So it runs in processes with limits on CPU time and memory that hold for every thread that
asks; an answer that exceeds them is not equal. There are as many as threads ask at a time. Each
starts when it is first needed and ends with this process, or with `close`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path
from types import FrameType

from exprl.errors import ConfigError, EngineError, VerifierError

CPU_LIMIT_S = 1
MEMORY_LIMIT_BYTES = 4 << 30
WALL_LIMIT_S = 30.0
"""Kills a comparison that waits without computing; far above CPU_LIMIT_S, so that a busy machine
does not change verdicts."""
START_LIMIT_S = 120.0
TRIES = 3
FROM_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP}
"""Exit codes of a process that somebody killed, such as the kernel when memory is short; an answer
alone ends it by other signals."""


@lru_cache(maxsize=8192)
def equal(candidate: str, answer: str) -> bool:
    """Whether math-verify calls a candidate and a gold answer equal within the limits.

    Blocks; threads may call it at the same time, and each has a process of its own.

    Args:
        candidate: text with a box, or the end of a trace; hostile.
        answer: the gold answer, without a box.

    Raises:
        ConfigError: math-verify is not installed.
        EngineError: its process does not start.
        VerifierError: something killed the process TRIES times.
    """
    return _pool(os.getpid()).equal(candidate, answer)


def close() -> None:
    """End the processes that nobody is asking; a later question starts new ones."""
    _pool(os.getpid()).close()


@lru_cache(maxsize=1)
def _pool(pid: int) -> _Pool:
    """The process's own: a forked child must not share its parent's pipes."""
    return _Pool()


class _Pool:
    """One process for every thread that asks."""

    def __init__(self) -> None:
        self._idle: list[_Comparer] = []  # append and pop are atomic

    def equal(self, candidate: str, answer: str) -> bool:
        try:
            comparer = self._idle.pop()
        except IndexError:
            comparer = _Comparer()
        try:
            return comparer.equal(candidate, answer)
        finally:
            self._idle.append(comparer)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().end()


class _Comparer:
    """math-verify behind a pipe: a JSON line asks, a JSON line answers; for one thread."""

    def __init__(self) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise ConfigError("verifying answers needs: pip install 'math-verify[antlr4-13-2]'")
        self._process: subprocess.Popen[str] | None = None

    def equal(self, candidate: str, answer: str) -> bool:
        """Whether math-verify calls them equal; asked again if something kills the process."""
        for _ in range(TRIES):
            if self._process is None or self._process.poll() is not None:
                self.end()
                self._start()
            reply = self._ask(json.dumps([candidate, answer]), WALL_LIMIT_S)
            if reply:
                return reply == "true\n"
            if self.end() not in FROM_OUTSIDE or reply is None:
                return False
        raise VerifierError(
            f"the math-verify process was killed {TRIES} times while it compared one answer; where"
            " memory is short the kernel does that"
        )

    def end(self) -> int | None:
        """End the process, if there is one: its exit code, also where it had ended by itself."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        process.communicate()
        return process.returncode

    def _start(self) -> None:
        package_root = str(Path(__file__).parents[2])
        paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            # -P: the working directory must not shadow modules.
            [sys.executable, "-P", "-m", "exprl.verify.math"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            text=True,
        )
        if self._ask(None, START_LIMIT_S) != "ready\n":
            self.end()
            raise EngineError("the math-verify process did not start; its reason stands above")

    def _ask(self, line: str | None, limit_s: float) -> str | None:
        """Its next line; "" if it died, None if it took too long."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            if line is not None:
                process.stdin.write(line + "\n")
                process.stdin.flush()
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                if not selector.select(limit_s):
                    return None
            return process.stdout.readline()
        except BrokenPipeError:
            return ""
        except BaseException:
            self.end()  # interrupted: its reply must not become that of the next question
            raise


class _OutOfTime(BaseException):
    """Not an Exception: SymPy and math-verify swallow those."""


def _serve() -> None:
    """The other side of the pipe. Ends with its input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's to handle
    signal.signal(signal.SIGVTALRM, _raise_out_of_time)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    import math_verify  # noqa: F401  (a failure is still printed to the user's stderr)

    _silence()
    for answer in (r"\{1,2\}", r"\frac{1}{2} + x", "x^2=4", "[0,1)"):
        _math_equal(answer, rf"{answer} ")  # SymPy imports a second's worth of modules late
    replies.write("ready\n")
    for line in sys.stdin:
        candidate, answer = json.loads(line)
        replies.write(json.dumps(_limited_equal(candidate, answer)) + "\n")


def _silence() -> None:
    """Whatever SymPy and its parser print must reach neither the replies nor the terminal."""
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)


def _limited_equal(candidate: str, answer: str) -> bool:
    """Within CPU_LIMIT_S; code that no signal reaches (big integers in C) dies a second later."""
    dies_at = int(time.process_time()) + CPU_LIMIT_S + 1
    resource.setrlimit(resource.RLIMIT_CPU, (dies_at, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_LIMIT_S, 0.1)
    try:
        return _math_equal(candidate, answer)
    except (_OutOfTime, MemoryError, RecursionError):
        return False
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _math_equal(candidate: str, answer: str) -> bool:
    from math_verify import parse, verify

    # Its own timeouts are off: they measure a busy machine's wall clock.
    found = parse(candidate, parsing_timeout=None)
    gold = parse(rf"\boxed{{{answer}}}", parsing_timeout=None)
    return bool(verify(gold, found, timeout_seconds=None))


def _raise_out_of_time(signum: int, frame: FrameType | None) -> None:
    raise _OutOfTime


if __name__ == "__main__":
    _serve()
