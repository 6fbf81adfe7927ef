"""The verifier of each row, by its domain: a built-in one, or a function of the user's."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from exprl import config
from exprl.config import FunctionName
from exprl.errors import ConfigError, DataError, FunctionError, SandboxError, VerifierError
from exprl.functions.pool import Function, Functions
from exprl.functions.roles import read_verdict
from exprl.thinking import outside_thinking
from exprl.types import Problem
from exprl.verify import answer, code, math
from exprl.verify.final import find_final
from exprl.verify.gold import Gold, read_golds
from exprl.verify.sandbox.sandbox import Sandbox

Treatments = Callable[[str], config.Treatment]
"""How the rows of a domain are rewarded: `Config.treatment`."""

MOST_WORKERS = 16
"""Each may hold a math-verify process of about 130 MB."""


SHOWN = 80
"""Characters of an answer that a message shows."""
P = TypeVar("P", bound=Problem)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a trace is right, and why.

    correct: None where that is not known.
    found: the final answer of the trace, where it has one.
    """

    correct: bool | None
    reason: str
    found: str | None = None


class Verifiers:
    """What says whether a trace is right. Threads may share it."""

    def __init__(
        self,
        treatment: Treatments,
        sandbox: Sandbox | None = None,
        functions: Functions | None = None,
    ) -> None:
        """Compare answers as `treatment` says for each domain.

        Args:
            sandbox: for code; None where no row needs it (`needs_sandbox`).
            functions: the user's own; None where no domain names one.
        """
        self._treatment = treatment
        self.sandbox = sandbox
        self.functions = functions or Functions(config.Functions())

    @property
    def workers(self) -> int:
        """Traces that are worth verifying at a time, each on a thread of its own."""
        cores = min(len(os.sched_getaffinity(0)), MOST_WORKERS)
        boxes = self.sandbox.workers if self.sandbox else 0
        return max(cores, boxes, self.functions.threads)

    def kind(self, domain: str) -> config.VerifierName | FunctionName:
        """Which verifier the rows of a domain have."""
        return self._treatment(domain).verifier

    def describe_search(self, problems: Sequence[Problem]) -> str:
        """How final answers are found: "strict", "lenient", or by a function of the user's.

        Where domains differ it names all.
        """
        used = map(self._treatment, sorted({p.domain for p in problems}))
        hows = {
            str(one.verifier) if isinstance(one.verifier, FunctionName) else one.verify
            for one in used
            if one.verifier != "code"
        }
        return " and ".join(sorted(hows)) or "strict"

    def close(self) -> None:
        """End the processes that compare answers, and those of the user's functions."""
        math.close()
        self.functions.close()

    def read_golds(self, problem: Problem) -> Gold | None:
        """The gold answers of a problem; None where it has none, or none that can be read."""
        return read_golds(problem, self.kind(problem.domain))

    def find_answer(self, text: str, domain: str) -> str | None:
        """The final answer of a trace; None where it has none, for code, and for own functions."""
        treatment = self._treatment(domain)
        if treatment.verifier == "code" or isinstance(treatment.verifier, FunctionName):
            return None
        return find_final(text, treatment.verifier, treatment.verify).answer

    def is_correct(self, text: str, problem: Problem) -> bool | None:
        """Whether a trace is right; None where that is not known (`examine`)."""
        return self.examine(text, problem).correct

    def examine(self, text: str, problem: Problem) -> Verdict:
        """Whether a trace is right, and why.

        It is not known where the row has no answer or one that cannot be read, where unit tests ask
        nothing of the program, and where the sandbox could not run it or something killed the
        process that compares: that is missing, and not wrong. So it is where a function of the
        user's does not know, fails, or takes too long.

        Args:
            text: the whole trace; hostile.

        Raises:
            ConfigError: a package is missing, there is no sandbox for code, or a function of the
                user's cannot be imported.
            EngineError: math-verify's process does not start.
        """
        if problem.answer is None:
            return Verdict(None, "no gold answer")
        treatment = self._treatment(problem.domain)
        gold = read_golds(problem, treatment.verifier)
        if gold is None:
            return Verdict(None, "the gold answer cannot be read")
        try:
            if isinstance(treatment.verifier, FunctionName):
                return self._ask(treatment.verifier, text, problem)
            if treatment.verifier == "code":
                return self._run(text, problem, problem.answer)
            return _compare(text, gold, treatment.verifier, treatment.verify)
        except (SandboxError, VerifierError, FunctionError) as error:
            return Verdict(None, f"not verified: {error}")

    def open_function(self, domain: str) -> Function | None:
        """The user's function that verifies the rows of a domain, ready to be called.

        Raises:
            ConfigError: it cannot be imported, or asks for what a verifier is not given.
        """
        name = self.kind(domain)
        return self.functions.open(name, "verifier") if isinstance(name, FunctionName) else None

    def _ask(self, name: FunctionName, text: str, problem: Problem) -> Verdict:
        correct = ask_function(self.functions.open(name, "verifier"), text, problem)
        if correct is None:
            return Verdict(None, "the verifier does not know")
        return Verdict(correct, f"the verifier says {'right' if correct else 'wrong'}")

    def _run(self, text: str, problem: Problem, tests: str) -> Verdict:
        if self.sandbox is None:
            raise ConfigError(f"problem {problem.id!r}: code cannot be verified unconfined")
        passed = code.passes(self.sandbox, text, tests, problem.setup)
        if passed is None:
            return Verdict(None, "the tests ask nothing of the program")
        return Verdict(passed, "passes its tests" if passed else "fails its tests")


def ask_function(function: Function, text: str, problem: Problem) -> bool | None:
    """What a user's function says of a trace; None where it does not know.

    Raises:
        FunctionError: it gave no verdict, or the row has more answers than it asks for.
    """
    if problem.more_answers and not function.asks_for("more_answers"):
        raise FunctionError(
            f"{function.name}: the row with the id {problem.id!r} has"
            f" {1 + len(problem.more_answers)} answers, and `answer` is one of them; give the"
            " function a parameter `more_answers`, the list of the others"
        )
    return function.call(
        {
            "text": text,
            "answer": problem.answer,
            "more_answers": problem.more_answers,
            "question": problem.question if function.asks_for("question") else None,
            "setup": problem.setup,
            "domain": problem.domain,
            "problem_id": problem.id,
        },
        read_verdict,
    )


def _compare(
    text: str, gold: Gold, verifier: config.VerifierName, verify: config.Verify
) -> Verdict:
    """The final answer of a trace against gold answers that can be read."""
    final = find_final(text, verifier, verify)
    if final.answer is None:
        if verifier == "math" and verify == "lenient":
            spoken = "".join(outside_thinking(text))
            if any(answer.equals_tail(spoken, one) for one in gold.answers if not gold.needs_all):
                return Verdict(True, "unmarked, and equals the gold answer")
        return Verdict(False, final.reason)
    if gold.equals(final.answer, verifier):
        return Verdict(True, "equals the gold answer", final.answer)
    return Verdict(False, f"differs: found {_shorten(final.answer)}", final.answer)


def _shorten(found: str) -> str:
    return repr(found if len(found) <= SHOWN else found[:SHOWN] + "...")


def needs_sandbox(treatment: Treatments, problems: Sequence[Problem]) -> bool:
    """Whether any row is verified by running a program."""
    return any(p.answer is not None and treatment(p.domain).verifier == "code" for p in problems)


def check_answers(treatment: Treatments, problems: Sequence[P]) -> list[P]:
    """Look at every answer before the run.

    Returns:
        The rows whose answer cannot be read: what is right there is not known.

    Raises:
        DataError: the unit tests of a row cannot be run, or the verifier is a reward and not one
            answer can be read.
    """
    answered = [p for p in problems if p.answer is not None]
    for problem in answered:
        wrong = (
            code.check(str(problem.answer), problem.setup)
            if treatment(problem.domain).verifier == "code"
            else None
        )
        if wrong:
            raise DataError(
                f"row with the id {problem.id!r}, domain {problem.domain!r}: {wrong}; correct the"
                f" answer, or name another verifier in [domains.{problem.domain}]"
            )
    unreadable = [p for p in answered if read_golds(p, treatment(p.domain).verifier) is None]
    rewarded = [p for p in answered if treatment(p.domain).verified]
    lost = [p for p in unreadable if treatment(p.domain).verified]
    if lost and len(lost) == len(rewarded):
        raise DataError(
            f"{describe_unreadable(treatment, lost[0])}, and so it is with all {len(lost)} rows"
            " that the verifier is to reward: does data.columns.answer name the final answers?"
            ' verifier = "exact" in [domains.NAME] compares them as text'
        )
    return unreadable


def describe_unreadable(treatment: Treatments, problem: Problem) -> str:
    """One row whose answer cannot be read, with the answer."""
    kind = treatment(problem.domain).verifier
    wanted = "names no letter A..J" if kind == "choice" else f"is no answer that {kind!r} can read"
    texts = " and ".join(map(_shorten, (str(problem.answer), *problem.more_answers)))
    return f"row with the id {problem.id!r}: {texts} {wanted}"
