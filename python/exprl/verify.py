r"""The sparse verifier: does a trace end in the right answer?

The final answer is taken out of the trace and compared with the gold answer: first as text, then,
in the domains of mathematics, by math-verify (SymPy).

What models write can keep SymPy busy for hours, exhaust the memory or abort the interpreter
(`\boxed{9^{9^{9^9}}}`), and math-verify's own timeouts are signals, which work on the main thread
only. So it runs in one process of its own, with limits on CPU time and memory that hold on every
thread; an answer that exceeds them is not equal.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import selectors
import signal
import subprocess
import sys
import threading
import time
from functools import lru_cache
from pathlib import Path
from types import FrameType

from exprl.errors import ConfigError, DataError, EngineError

EXACT_DOMAINS = ("division",)
"""Domains whose answers are codes such as `021394r3`: equal as text, or not equal."""

CPU_LIMIT_S = 1
MEMORY_LIMIT_BYTES = 4 << 30
WALL_LIMIT_S = 30.0
"""Kills a comparison that waits without computing; far above CPU_LIMIT_S, so that a busy machine
does not change verdicts."""
START_LIMIT_S = 120.0
LONGEST_ANSWER = 1000
"""Characters; SymPy is not asked about longer ones."""
TAIL = 1000
"""Characters at the end of a trace in which math-verify looks for an unmarked answer."""

_BOX_OR_BRACE = re.compile(r"\\boxed\s*\{|\\\\(?!boxed)|\\[{}]|[{}]")
_HASHES = re.compile(r"(?:^|\n)####(?!#)[^\S\n]*(\S[^\n]*)\s*\Z")
_SPACING = re.compile(r"\s+|\\[,;:! ]|\\left(?![a-zA-Z])|\\right(?![a-zA-Z])|~")


def is_correct(text: str, answer: str, domain: str) -> bool:
    r"""Whether the final answer of a trace equals the gold answer.

    The final answer is the last complete `\boxed{...}`, else what follows `####` on the last line,
    else what math-verify finds near the end of the trace.

    Args:
        text: the whole trace; hostile.
        answer: the gold answer, without a box.
        domain: "division" compares text only; every other one lets math-verify decide, too.

    Raises:
        DataError: the domain has no verifier of this kind (code).
        ConfigError: math-verify is not installed.
        EngineError: its process does not start.

    >>> is_correct(r"...###\boxed{021394r3}", "021394r3", "division")
    True
    >>> is_correct(r"...###\boxed{21394r3}", "021394r3", "division")
    False
    """
    if domain == "code":
        raise DataError("domain 'code' cannot be verified by comparing answers")
    found = final_answer(text)
    if found is not None:
        return same(found, answer, domain)
    tail = text[-TAIL:].strip()
    return domain not in EXACT_DOMAINS and bool(tail) and _equal_by_math(tail, answer)


def same(found: str, answer: str, domain: str) -> bool:
    r"""Whether two final answers, such as `final_answer` gives, are one answer.

    >>> same(r"\dfrac{1}{2}", r"\frac12 ", "division")
    False
    """
    if domain in EXACT_DOMAINS:
        return found.strip() == answer.strip()
    normal = normalized(found)
    if normal and normal == normalized(answer):
        return True
    return 0 < len(normal) <= LONGEST_ANSWER and _equal_by_math(
        rf"\boxed{{{found.strip()}}}", answer
    )


def final_answer(text: str) -> str | None:
    r"""What the trace marks as its answer, or None.

    Linear in the text, whatever it holds. An unclosed box is no answer; of nested boxes the
    innermost counts.

    >>> final_answer(r"\boxed{1}, no, \boxed{\frac{1}{2}} because \boxed{")
    '\\frac{1}{2}'
    >>> final_answer("18 apples\n#### 18")
    '18'
    """
    open_braces: list[int | None] = []  # where the content of a box starts; None: another brace
    start, end = -1, -1
    for match in _BOX_OR_BRACE.finditer(text):
        token = match.group()
        if token == "}":
            opened = open_braces.pop() if open_braces else None
            if opened is not None and opened > start:
                start, end = opened, match.start()
        elif token == "{":
            open_braces.append(None)
        elif token.startswith("\\boxed"):
            open_braces.append(match.end())
    if start >= 0:
        return text[start:end]
    hashes = _HASHES.search(text, max(0, len(text) - TAIL))
    return hashes.group(1) if hashes else None


def normalized(answer: str) -> str:
    """The text without what only sets it: spaces, dollars, a final full stop."""
    text = _SPACING.sub("", answer).removesuffix(".").strip("$")
    return text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")


@lru_cache(maxsize=8192)
def _equal_by_math(candidate: str, answer: str) -> bool:
    return _comparer(os.getpid()).equal(candidate, answer)


@lru_cache(maxsize=1)
def _comparer(pid: int) -> _Comparer:
    """The process's own: a forked child must not share its parent's pipe."""
    return _Comparer()


class _Comparer:
    """math-verify behind a pipe: a JSON line asks, a JSON line answers, one at a time."""

    def __init__(self) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise ConfigError("verifying answers needs: pip install 'math-verify[antlr4-13-2]'")
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def equal(self, candidate: str, answer: str) -> bool:
        """Whether math-verify calls them equal within the limits."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._kill()
                self._start()
            reply = self._ask(json.dumps([candidate, answer]), WALL_LIMIT_S)
            if reply is None:
                self._kill()
            return reply == "true\n"

    def _start(self) -> None:
        package_root = str(Path(__file__).parents[1])
        paths = [package_root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            # -P: the working directory must not shadow modules.
            [sys.executable, "-P", "-m", "exprl.verify"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            text=True,
        )
        if self._ask(None, START_LIMIT_S) != "ready\n":
            self._kill()
            raise EngineError("the math-verify process did not start; its reason stands above")

    def _ask(self, line: str | None, limit_s: float) -> str | None:
        """Its next line, or None if it died or took too long."""
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
            return process.stdout.readline() or None
        except BrokenPipeError:
            return None
        except BaseException:
            self._kill()  # interrupted: its reply must not become that of the next question
            raise

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


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
