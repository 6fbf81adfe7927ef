r"""Whether two final answers are one, and where a trace without a marked answer may hold one.

Two answers are compared as text, words as words. In mathematics math-verify (SymPy) also compares
them, in processes of its own (math.py); an answer that exceeds their limits is not equal.
"""

from __future__ import annotations

import re

from exprl.verify import math
from exprl.verify.marked import find_boxes
from exprl.verify.reading import (
    LONGEST_ANSWER,
    is_doubtful,
    normalize,
    read_mathematics,
    read_words,
    split_list,
)

TAIL = 1000
"""Characters at the end of a trace in which math-verify looks for an unmarked answer."""

_HASHES = re.compile(r"(?:^|\n)####(?!#)[^\S\n]*(\S[^\n]*)\s*\Z")


def is_equal(found: str, gold: str) -> bool:
    r"""Whether two final answers are one in mathematics.

    Raises:
        ConfigError: math-verify is not installed.
        EngineError: its process does not start.
        VerifierError: something killed its process again and again.

    >>> is_equal(r"\dfrac{1}{2}", r"\frac{1}{2} ")
    True
    >>> is_equal("42 or 43", "42"), is_equal("pairs", "Paris"), is_equal("42 apples", "42")
    (False, False, True)
    """
    normal = normalize(found)
    if normal and normal == normalize(gold):
        return True
    if not 0 < len(normal) <= LONGEST_ANSWER:
        return False
    if len(split_list(gold)) > 1:  # `x = 1 or x = 2` names all of them
        found = re.sub(r"\bor\b", "and", found)
    if is_doubtful(found) and not is_doubtful(gold):
        return False
    words = read_words(found), read_words(gold)
    if None not in words:
        return words[0] == words[1]
    readings = read_mathematics(found), read_mathematics(gold)
    if readings[0] is None or readings[1] is None:
        return False
    return math.equal(rf"\boxed{{{readings[0]}}}", readings[1])


def equals_tail(text: str, gold: str) -> bool:
    """Whether math-verify finds the gold answer near the end of a trace: the lenient search."""
    tail = text[-TAIL:].strip()
    return bool(tail) and math.equal(tail, read_mathematics(gold) or gold)


def find_answer(text: str) -> str | None:
    r"""The last complete box of a text, or what follows `####` on its last line, or None.

    Linear in the text, whatever it holds. Reference solutions are read so, and traces where
    `verify = "lenient"`. Of nested boxes the innermost counts.

    >>> find_answer(r"\boxed{1}, no, \boxed{\frac{1}{2}} because \boxed{")
    '\\frac{1}{2}'
    >>> find_answer("18 apples\n#### 18")
    '18'
    """
    closed = [box for box in find_boxes(text) if box.end is not None]
    if closed:
        return text[closed[-1].start : closed[-1].end]
    hashes = _HASHES.search(text, max(0, len(text) - TAIL))
    return hashes.group(1) if hashes else None
