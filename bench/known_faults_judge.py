"""A judge that solves long divisions itself, for bench/known_faults.py: references change nothing.

As the rule judge: a step is right while all steps so far are.
"""

from __future__ import annotations

import re

STEP = re.compile(r"(?:###)?(\d\d)/(\d)=(\d)r(\d)")


def grade(question: str, steps: list[str]) -> list[float]:
    """1 for each step of a right beginning, else 0."""
    divisor, digits = int(question[0]), question[2:].rstrip("=").rstrip(".")
    scores: list[float] = []
    quotient, remainder, good = "", 0, True
    for i, step in enumerate(steps):
        if i < len(digits):
            value = remainder * 10 + int(digits[i])
            digit, remainder = divmod(value, divisor)
            quotient += str(digit)
            found = STEP.fullmatch(step)
            wanted = (f"{value:02d}", str(divisor), str(digit), str(remainder))
            good = good and found is not None and found.groups() == wanted
        else:
            good = good and step.removeprefix("###") == rf"\boxed{{{quotient}r{remainder}}}"
        scores.append(1.0 if good else 0.0)
    return scores
