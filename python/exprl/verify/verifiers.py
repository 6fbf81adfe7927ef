"""The verifier of each row, by its domain: mathematics, science, choice, exact text, or code."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from exprl import config
from exprl.errors import ConfigError, DataError, SandboxError, VerifierError
from exprl.types import Problem
from exprl.verify import answer, choice, code, math, quantity
from exprl.verify.sandbox.sandbox import Sandbox

Treatments = Callable[[str], config.Treatment]
"""How the rows of a domain are rewarded: `Config.treatment`."""

MOST_WORKERS = 16
"""Each may hold a math-verify process of about 130 MB."""


class Verifiers:
    """What says whether a trace is right. Threads may share it."""

    def __init__(self, treatment: Treatments, sandbox: Sandbox | None = None) -> None:
        """Compare answers as `treatment` says for each domain.

        Args:
            sandbox: for code; None where no row needs it (`needs_sandbox`).
        """
        self._treatment = treatment
        self.sandbox = sandbox

    @property
    def workers(self) -> int:
        """Traces that are worth verifying at a time, each on a thread of its own."""
        cores = min(len(os.sched_getaffinity(0)), MOST_WORKERS)
        return max(cores, self.sandbox.workers) if self.sandbox else cores

    def kind(self, domain: str) -> config.VerifierName:
        """Which verifier the rows of a domain have."""
        return self._treatment(domain).verifier

    def close(self) -> None:
        """End the processes that compare answers."""
        math.close()

    def is_correct(self, text: str, problem: Problem) -> bool | None:
        """Whether a trace is right; None where that is not known.

        It is not known where the row has no answer, where unit tests ask nothing of the program,
        and where the sandbox could not run it or something killed the process that compares: that
        is missing, and not wrong.

        Args:
            text: the whole trace; hostile.

        Raises:
            ConfigError: a package is missing, or there is no sandbox for code.
            EngineError: math-verify's process does not start.
        """
        if problem.answer is None:
            return None
        try:
            return self._verify(text, problem, problem.answer)
        except (SandboxError, VerifierError):
            return None

    def _verify(self, text: str, problem: Problem, gold: str) -> bool | None:
        match self.kind(problem.domain):
            case "code":
                if self.sandbox is None:
                    raise ConfigError(f"problem {problem.id!r}: code cannot be verified unconfined")
                return code.passes(self.sandbox, text, gold, problem.setup)
            case "choice":
                return choice.find_letter(text) == choice.read_letter(gold)
            case "science":
                return quantity.is_correct(text, gold)
            case "exact" | "math" as verifier:
                return answer.is_correct(text, gold, verifier)


def needs_sandbox(treatment: Treatments, problems: Sequence[Problem]) -> bool:
    """Whether any row is verified by running a program."""
    return any(p.answer is not None and treatment(p.domain).verifier == "code" for p in problems)


def check_answers(treatment: Treatments, problems: Sequence[Problem]) -> None:
    """Look at every answer before the run.

    Raises:
        DataError: names the first row whose answer its verifier cannot use.
    """
    for problem in problems:
        if problem.answer is None:
            continue
        match treatment(problem.domain).verifier:
            case "code":
                wrong = code.check(problem.answer, problem.setup)
            case "choice":
                is_letter = choice.read_letter(problem.answer) is not None
                wrong = None if is_letter else f"{problem.answer!r} names no letter A..J"
            case _:
                wrong = None
        if wrong:
            raise DataError(
                f"row with the id {problem.id!r}, domain {problem.domain!r}: {wrong}; correct the"
                f" answer, or name another verifier in [domains.{problem.domain}]"
            )
