"""Final answers of one problem, to the votes that each distinct answer gets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from exprl import verify

DOMAINS_WITHOUT_VOTES = ("code",)
"""Domains in which two answers cannot be compared with each other."""
MOST_COMPARISONS = 200
"""Of one problem's answers by math-verify; beyond it only text and plain numbers decide."""

_PLAIN = re.compile(r"[+-]?\d{1,300}(?:\.\d{1,300}|/0*[1-9]\d{0,299})?")


def sizes(answers: Sequence[str], domain: str) -> tuple[int, ...]:
    r"""How many of the answers fall on each distinct answer, largest first.

    Two answers are one where the verifier of the domain calls them equal (`verify.same`). Plain
    numbers are compared as numbers, which says the same and costs nothing.

    >>> sizes(["0.5", "2", "1/2", "2", "02"], "math")
    (3, 2)
    >>> sizes(["2", "02"], "division")
    (1, 1)
    """
    groups: list[_Group] = []
    known: dict[str, _Group] = {}
    left = MOST_COMPARISONS
    for answer in answers:
        text = answer.strip() if domain in verify.EXACT_DOMAINS else verify.normalized(answer)
        group = known.get(text)
        if group is None:
            value = None if domain in verify.EXACT_DOMAINS else _number(text)
            for other in groups:
                if value is not None and other.value is not None:
                    same = value == other.value
                else:
                    left -= 1
                    same = left >= 0 and verify.same(answer, other.head, domain)
                if same:
                    group = other
                    break
            else:
                group = _Group(answer, value)
                groups.append(group)
            known[text] = group
        group.size += 1
    return tuple(sorted((group.size for group in groups), reverse=True))


@dataclass(slots=True)
class _Group:
    head: str  # the first seen
    value: Fraction | None
    size: int = 0


def _number(text: str) -> Fraction | None:
    return Fraction(text) if _PLAIN.fullmatch(text) else None
