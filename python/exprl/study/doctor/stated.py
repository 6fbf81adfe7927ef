"""Whether a solution states an answer, in whatever form."""

from __future__ import annotations

import re
from fractions import Fraction

from exprl.study.doctor.words import split_words
from exprl.verify.reading import normalize, read_mathematics, read_words

LONGEST = 40
"""Digits of a number that is read."""
_LETTERS = re.compile(r"[^\W\d_]+")
# Python reads no number of any length.
_NUMBER = r"\d{1,3}(?:[, ]\d{3}){1,8}(?!\d)(?:\.\d{1,40})?|\d{1,40}(?:\.\d{1,40})?|\.\d{1,40}"
_VALUES = re.compile(
    rf"\\[dt]?frac\s*\{{\s*({_NUMBER})\s*\}}\s*\{{\s*({_NUMBER})\s*\}}"
    rf"|({_NUMBER})(?:\s*/\s*({_NUMBER}))?(?:\s*(?:\\?%|percent\b))?"
)
_PERCENT = re.compile(r"(?:\\?%|percent)\Z")


def read_value(answer: str) -> Fraction | None:
    r"""The size of an answer that is one number, a fraction or a percentage.

    >>> read_value(r"\frac{1}{2}"), read_value("-0.50"), read_value("x + 1")
    (Fraction(1, 2), Fraction(1, 2), None)
    """
    plain = (read_mathematics(answer) or answer).strip().strip("$ ").lstrip("-+\u2212 ")
    found = _VALUES.fullmatch(plain.rstrip(". "))
    return _value(found) if found else None


def _join(number: str) -> str:
    """Without what groups its digits."""
    return number.replace(",", "").replace(" ", "")


def _value(found: re.Match[str]) -> Fraction | None:
    parts = [_join(part) for part in found.groups() if part is not None]
    whole, under = Fraction(parts[0]), Fraction(parts[1]) if len(parts) > 1 else Fraction(1)
    if under == 0:
        return None
    return whole / under / (100 if _PERCENT.search(found.group()) else 1)


def find_values(text: str) -> set[Fraction]:
    r"""The sizes of all numbers of a text; of `3/4` the quotient and both parts.

    >>> sorted(map(str, find_values(r"12 apples, \frac{3}{4} of them, 50 %")))
    ['1/2', '12', '3', '3/4', '4', '50']
    """
    values = set()
    for found in _VALUES.finditer(text):
        values |= {Fraction(_join(part)) for part in found.groups() if part}
        whole = _value(found)
        if whole is not None:
            values.add(whole)
    spoken = (word for word in split_words(text) if word.isdecimal() and len(word) <= LONGEST)
    return values | set(map(Fraction, spoken))


def states(text: str, answer: str) -> bool:
    """Whether a text holds an answer: as it is written, as words, or as a number of its size.

    A hundred times as much, or a hundredth, may be the same in cents or percent.

    >>> states("There are twelve eggs, half a box.", "12"), states("So x = 1/2.", "0.5")
    (True, True)
    >>> states("It is a red cube.", "Red"), states("There are 120 eggs.", "12")
    (True, False)
    """
    plain = answer.strip()
    if plain[-1:].isdigit() and re.search(rf"(?<![\w.,]){re.escape(plain)}(?![\w]|[.,]\d)", text):
        return True
    value = read_value(answer)
    if value is not None:
        return not find_values(text).isdisjoint((value, 100 * value, value / 100))
    words = read_words(answer)
    if words is not None:
        spoken = " ".join(_LETTERS.findall(text)).casefold()
        return f" {words} " in f" {spoken} "
    return normalize(read_mathematics(answer) or answer) in normalize(text)
