"""Final answers of one problem, to the votes that each distinct answer gets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from exprl import config
from exprl.config import FunctionName
from exprl.errors import VerifierError
from exprl.verify import answer, quantity
from exprl.verify.reading import normalize

MOST_COMPARISONS = 200
"""Of one problem's answers by math-verify; beyond it only text and plain numbers decide."""

_PLAIN = re.compile(r"[+-]?\d{1,300}(?:\.\d{1,300}|/0*[1-9]\d{0,299})?")


def count_votes(
    votes: Sequence[str], verifier: config.VerifierName | FunctionName
) -> tuple[int, ...] | None:
    r"""How many of the answers fall on each distinct answer, largest first.

    Two answers are one where the verifier would call them equal. Plain numbers of mathematics are
    compared as numbers, which says the same and costs nothing.

    Returns:
        None for code and for functions of the user's: their answers cannot be compared with each
        other.

    >>> count_votes(["0.5", "2", "1/2", "2", "02"], "math")
    (3, 2)
    >>> count_votes(["2", "02"], "exact")
    (1, 1)
    """
    if verifier == "code" or isinstance(verifier, FunctionName):
        return None
    groups: list[_Group] = []
    known: dict[str, _Group] = {}
    left = MOST_COMPARISONS
    for vote in votes:
        text = normalize(vote) if verifier == "math" else vote.strip()
        group = known.get(text)
        if group is None:
            value = _number(text) if verifier == "math" else None
            for other in groups:
                if value is not None and other.value is not None:
                    same = value == other.value
                else:
                    left -= 1
                    same = left >= 0 and _same(vote, other.head, verifier)
                if same:
                    group = other
                    break
            else:
                group = _Group(vote, value)
                groups.append(group)
            known[text] = group
        group.size += 1
    return tuple(sorted((group.size for group in groups), reverse=True))


def _same(a: str, b: str, verifier: config.VerifierName) -> bool:
    """What could not be compared (the process was killed) counts as apart, as beyond the limit."""
    try:
        match verifier:
            case "science":
                return quantity.is_equal(a, b)
            case "math":
                return answer.is_equal(a, b)
            case _:
                return a.strip() == b.strip()
    except VerifierError:
        return False


@dataclass(slots=True)
class _Group:
    head: str  # the first seen
    value: Fraction | None
    size: int = 0


def _number(text: str) -> Fraction | None:
    return Fraction(text) if _PLAIN.fullmatch(text) else None
