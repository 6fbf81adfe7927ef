"""Long division by one digit: problems, the policy's own style and the hidden reference.

A problem is `d)n1..nk`, padded with `.` to six digits, then `=`. The policy writes one segment per
digit, `vv/d=qrR###`, where vv is the old remainder times ten plus the next digit, and then the
answer in a box. Problems with six digits are hard, problems with two to four are easy.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

WIDTH = 6
HARD_DIGITS = 6
EASY_DIGITS = (2, 3, 4)
DELIMITER = "###"
HINT = "<hint>"
FORGET_SHARE = 0.7
"""Share of slips that forget the remainder; the others write a wrong quotient digit."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One division, for example `Problem(5, "106973")`."""

    divisor: int
    digits: str

    @property
    def prompt(self) -> str:
        """What the policy sees, for example `5)106973=` or `5)97....=`."""
        return f"{self.divisor}){self.digits.ljust(WIDTH, '.')}="

    @property
    def answer(self) -> str:
        """One quotient digit per digit of the dividend, then the remainder: `021394r3`."""
        quotient, remainder = divmod(int(self.digits), self.divisor)
        return f"{quotient:0{len(self.digits)}d}r{remainder}"

    @property
    def reference(self) -> str:
        """The hidden solution, terse and in another style: the check by multiplication."""
        quotient, remainder = self.answer.split("r")
        check = f"{self.divisor}*{quotient}+{remainder}={self.digits}"
        return f"{check}{DELIMITER}{boxed(self.answer)}"

    @property
    def hinted_prompt(self) -> str:
        """What the self-distillation teacher sees: the problem, then the marked reference."""
        return f"{self.prompt}{HINT}{self.reference}"


def boxed(answer: str) -> str:
    r"""Wrap an answer as `\boxed{021394r3}`."""
    return rf"\boxed{{{answer}}}"


def draw_problem(rng: random.Random, n_digits: int) -> Problem:
    """Draw a problem: divisor 3..9, first digit 1..9, other digits 0..9."""
    divisor = rng.randint(3, 9)
    first = rng.randint(1, 9)
    rest = (rng.randint(0, 9) for _ in range(n_digits - 1))
    return Problem(divisor, f"{first}{''.join(map(str, rest))}")


def chain(problem: Problem, rng: random.Random | None = None, slip_rate: float = 0.0) -> str:
    """Write the solution in the policy's style; each step slips with probability `slip_rate`.

    A slip forgets the remainder or, if there is none to forget, writes a wrong quotient digit. The
    chain goes on from what it wrote, so one slip nearly always spoils the answer. Without an `rng`
    the chain is right.
    """
    d = problem.divisor
    remainder, quotient, segments = 0, "", []
    for digit in map(int, problem.digits):
        slips = rng is not None and rng.random() < slip_rate
        forgets = slips and rng.random() < FORGET_SHARE and remainder > 0
        value = digit if forgets else remainder * 10 + digit
        q, remainder = divmod(value, d)
        if slips and not forgets:
            q = rng.choice([other for other in range(10) if other != q])
        quotient += str(q)
        segments.append(f"{value:02d}/{d}={q}r{remainder}")
    return DELIMITER.join([*segments, boxed(f"{quotient}r{remainder}")])
