"""Programs that a model wrote, run where they can do no harm, and their unit tests.

What confines a program is in this folder: namespaces (no network, no foreign process, a root with
little but the interpreter), limits on time, memory, processes and disk, Landlock and a filter of
system calls. Not every machine allows all of it, so nothing is taken on trust: a hostile program
tries what should be impossible, and a sandbox that does not hold what `sandbox.require` names does
not open.
"""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from exprl import config
from exprl.errors import ConfigError
from exprl.verify.sandbox import exchange, launch, tryout
from exprl.verify.sandbox.launch import Ended, Jail

Verdict = Literal["passed", "failed", "vacuous"]

LAYERS = ("namespaces", "paths", "filter")
_EXCHANGE = Path(exchange.__file__).read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Tested:
    """What unit tests said of a program.

    verdict: `vacuous` if they ended without asking anything of the program.
    detail: the end of their own output, or what stopped them.
    """

    verdict: Verdict
    detail: str


class Sandbox:
    """Runs programs within the limits of a config section. Threads may share it.

    room: what this machine gives it.
    held: what was tried when it was opened.

    Raises:
        ConfigError: something that sandbox.require names does not hold on this machine.
    """

    def __init__(self, settings: config.Sandbox | None = None) -> None:
        self.settings = settings or config.Sandbox()
        self._slots = threading.BoundedSemaphore(self.workers)
        room = launch.find_room(self.settings.python, LAYERS)
        self.room, self.held = tryout.try_out(room, self.settings)
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
        with self._slots:
            return launch.run(self.room, self.settings, program, stdin)

    def test(self, program: str, tests: str, setup: str = "") -> Tested:
        """Run unit tests against a program, each in a jail of its own (`exchange.py`).

        Args:
            program: Python; hostile.
            tests: Python that uses the program's names and raises if it is wrong; unittest
                classes and `test_*` functions are run.
            setup: names that the tests may use, too; not the program's.

        Raises:
            SandboxError: a jail could not be started under confinement.
        """
        wire = {"exchange.py": _EXCHANGE}
        with self._slots, ExitStack() as stack:
            from_program, to_tests = os.pipe()
            from_tests, to_program = os.pipe()

            def jail(role: str, files: dict[str, str], *ends: int) -> Jail:
                arguments = ("exchange.py", role, *map(str, ends))
                one = Jail(self.room, self.settings, wire | files, arguments, keep=ends)
                return stack.enter_context(one)

            try:
                under_test = jail("program", {"program.py": program}, from_tests, to_tests)
                own = {"tests.py": tests, "setup.py": setup}
                tester = jail("tests", own, from_program, to_program)
            finally:
                for end in (from_program, to_tests, from_tests, to_program):
                    os.close(end)
            launch.collect(tester, (tester, under_test))
            under_test.stop()
            return _read_verdict(tester.ended())


def _read_verdict(ended: Ended) -> Tested:
    match ended.code:
        case exchange.PASSED:
            return Tested("passed", "")
        case exchange.VACUOUS:
            return Tested("vacuous", "the tests ended without asking anything of the program")
    stopped = "" if ended.status == "exit" else f"stopped: {ended.status}\n"
    return Tested("failed", stopped + ended.stderr[-1000:])
