r"""The final answer of a trace, and whether it equals the gold answer.

Two answers are compared as text. In mathematics math-verify (SymPy) also compares them, in
processes of its own (math.py); an answer that exceeds their limits is not equal.
"""

from __future__ import annotations

import re
from typing import Literal

from exprl.verify import math

LONGEST_ANSWER = 1000
"""Characters; SymPy is not asked about longer ones."""
TAIL = 1000
"""Characters at the end of a trace in which math-verify looks for an unmarked answer."""

_BOX_OR_BRACE = re.compile(r"\\boxed\s*\{|\\\\(?!boxed)|\\[{}]|[{}]")
_HASHES = re.compile(r"(?:^|\n)####(?!#)[^\S\n]*(\S[^\n]*)\s*\Z")
_SPACING = re.compile(r"\s+|\\[,;:! ]|\\left(?![a-zA-Z])|\\right(?![a-zA-Z])|~")


def is_correct(text: str, gold: str, verifier: Literal["math", "exact"]) -> bool:
    r"""Whether the final answer of a trace equals the gold answer.

    The final answer is the last complete `\boxed{...}`, else what follows `####` on the last line,
    else what math-verify finds near the end of the trace.

    Args:
        text: the whole trace; hostile.
        gold: the gold answer, without a box.
        verifier: "exact" compares text only, for answers that are codes such as `021394r3`; "math"
            lets math-verify decide, too.

    Raises:
        ConfigError: math-verify is not installed.
        EngineError: its process does not start.
        VerifierError: something killed its process again and again.

    >>> is_correct(r"...###\boxed{021394r3}", "021394r3", "exact")
    True
    >>> is_correct(r"...###\boxed{21394r3}", "021394r3", "exact")
    False
    """
    found = find_answer(text)
    if verifier == "exact":
        return found is not None and found.strip() == gold.strip()
    if found is not None:
        return is_equal(found, gold)
    tail = text[-TAIL:].strip()
    return bool(tail) and math.equal(tail, gold)


def is_equal(found: str, gold: str) -> bool:
    r"""Whether two final answers, such as `find_answer` gives, are one in mathematics.

    >>> is_equal(r"\dfrac{1}{2}", r"\frac{1}{2} ")
    True
    """
    normal = normalize(found)
    if normal and normal == normalize(gold):
        return True
    return 0 < len(normal) <= LONGEST_ANSWER and math.equal(rf"\boxed{{{found.strip()}}}", gold)


def find_answer(text: str) -> str | None:
    r"""What the trace marks as its answer, or None.

    Linear in the text, whatever it holds. An unclosed box is no answer; of nested boxes the
    innermost counts.

    >>> find_answer(r"\boxed{1}, no, \boxed{\frac{1}{2}} because \boxed{")
    '\\frac{1}{2}'
    >>> find_answer("18 apples\n#### 18")
    '18'
    """
    open_braces: list[int | None] = []  # where the content of a box starts; None: another brace
    start, end = -1, -1
    for match in _BOX_OR_BRACE.finditer(text):
        token = match.group()
        if token == "}":
            opened = open_braces.pop() if open_braces else None
            if opened is not None and opened > start:
                start, end = opened, match.start()
        elif token == "{":
            open_braces.append(None)
        elif token.startswith("\\boxed"):
            open_braces.append(match.end())
    if start >= 0:
        return text[start:end]
    hashes = _HASHES.search(text, max(0, len(text) - TAIL))
    return hashes.group(1) if hashes else None


def normalize(answer: str) -> str:
    """The text without what only sets it: spaces, dollars, a final full stop."""
    text = _SPACING.sub("", answer).removesuffix(".").strip("$")
    return text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
