"""The verifier of each row, by its domain: mathematics, science, choice, exact text, or code."""

from __future__ import annotations

from collections.abc import Sequence

from exprl import answers, config, programs, verify
from exprl.errors import ConfigError, DataError, SandboxError
from exprl.sandbox import Sandbox
from exprl.types import Problem


class Verifiers:
    """What says whether a trace is right."""

    def __init__(self, cfg: config.Config, sandbox: Sandbox | None = None) -> None:
        """`sandbox`: for code; None where no row needs it (`needs_sandbox`)."""
        self._cfg = cfg
        self.sandbox = sandbox

    @property
    def workers(self) -> int:
        """Traces that are worth verifying at a time."""
        return self.sandbox.workers if self.sandbox else 1

    def kind(self, domain: str) -> config.VerifierName:
        """Which verifier the rows of a domain have."""
        return self._cfg.treatment(domain).verifier

    def correct(self, text: str, problem: Problem) -> bool | None:  # noqa: PLR0911
        """Whether a trace is right; None where that is not known.

        It is not known where the row has no answer, where unit tests ask nothing of the program,
        and where the sandbox could not run it: that is missing, and not wrong.

        Args:
            text: the whole trace; hostile.

        Raises:
            ConfigError: a package is missing, or there is no sandbox for code.
            EngineError: math-verify's process does not start.
        """
        if problem.answer is None:
            return None
        match self.kind(problem.domain):
            case "code":
                if self.sandbox is None:
                    raise ConfigError(f"problem {problem.id!r}: code cannot be verified unconfined")
                try:
                    return programs.passes(self.sandbox, text, problem.answer, problem.setup)
                except SandboxError:
                    return None
            case "choice":
                return answers.choice(text) == answers.gold_choice(problem.answer)
            case "science":
                return answers.same_quantity(text, problem.answer)
            case "exact":
                return verify.is_correct(text, problem.answer, verify.EXACT_DOMAINS[0])
            case "math":
                return verify.is_correct(text, problem.answer, "math")


def needs_sandbox(cfg: config.Config, problems: Sequence[Problem]) -> bool:
    """Whether any row is verified by running a program."""
    return any(
        p.answer is not None and cfg.treatment(p.domain).verifier == "code" for p in problems
    )


def check(cfg: config.Config, problems: Sequence[Problem]) -> None:
    """Look at every answer before the run.

    Raises:
        DataError: names the first row whose answer its verifier cannot use.
    """
    for problem in problems:
        if problem.answer is None:
            continue
        match cfg.treatment(problem.domain).verifier:
            case "code":
                wrong = programs.check(problem.answer, problem.setup)
            case "choice":
                is_letter = answers.gold_choice(problem.answer) is not None
                wrong = None if is_letter else f"{problem.answer!r} names no letter A..J"
            case _:
                wrong = None
        if wrong:
            raise DataError(
                f"row with the id {problem.id!r}, domain {problem.domain!r}: {wrong}; correct the"
                f" answer, or name another verifier in [domains.{problem.domain}]"
            )
