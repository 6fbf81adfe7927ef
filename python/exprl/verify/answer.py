r"""The sparse verifier: does a trace end in the right answer?

The final answer is taken out of the trace and compared with the gold answer: first as text, then,
in the domains of mathematics, by math-verify (SymPy).

math-verify runs in processes of its own (math.py); an answer that exceeds their limits is not
equal.
"""

from __future__ import annotations

import re

from exprl.errors import DataError
from exprl.verify import math as comparer

EXACT_DOMAINS = ("division",)
"""Domains whose answers are codes such as `021394r3`: equal as text, or not equal."""

LONGEST_ANSWER = 1000
"""Characters; SymPy is not asked about longer ones."""
TAIL = 1000
"""Characters at the end of a trace in which math-verify looks for an unmarked answer."""

_BOX_OR_BRACE = re.compile(r"\\boxed\s*\{|\\\\(?!boxed)|\\[{}]|[{}]")
_HASHES = re.compile(r"(?:^|\n)####(?!#)[^\S\n]*(\S[^\n]*)\s*\Z")
_SPACING = re.compile(r"\s+|\\[,;:! ]|\\left(?![a-zA-Z])|\\right(?![a-zA-Z])|~")


def is_correct(text: str, answer: str, domain: str) -> bool:
    r"""Whether the final answer of a trace equals the gold answer.

    The final answer is the last complete `\boxed{...}`, else what follows `####` on the last line,
    else what math-verify finds near the end of the trace.

    Args:
        text: the whole trace; hostile.
        answer: the gold answer, without a box.
        domain: "division" compares text only; every other one lets math-verify decide, too.

    Raises:
        DataError: the domain has no verifier of this kind (code).
        ConfigError: math-verify is not installed.
        EngineError: its process does not start.
        VerifierError: something killed its process again and again.

    >>> is_correct(r"...###\boxed{021394r3}", "021394r3", "division")
    True
    >>> is_correct(r"...###\boxed{21394r3}", "021394r3", "division")
    False
    """
    if domain == "code":
        raise DataError("domain 'code' cannot be verified by comparing answers")
    found = final_answer(text)
    if found is not None:
        return same(found, answer, domain)
    tail = text[-TAIL:].strip()
    return domain not in EXACT_DOMAINS and bool(tail) and comparer.equal(tail, answer)


def same(found: str, answer: str, domain: str) -> bool:
    r"""Whether two final answers, such as `final_answer` gives, are one answer.

    >>> same(r"\dfrac{1}{2}", r"\frac12 ", "division")
    False
    """
    if domain in EXACT_DOMAINS:
        return found.strip() == answer.strip()
    normal = normalized(found)
    if normal and normal == normalized(answer):
        return True
    return 0 < len(normal) <= LONGEST_ANSWER and comparer.equal(
        rf"\boxed{{{found.strip()}}}", answer
    )


def final_answer(text: str) -> str | None:
    r"""What the trace marks as its answer, or None.

    Linear in the text, whatever it holds. An unclosed box is no answer; of nested boxes the
    innermost counts.

    >>> final_answer(r"\boxed{1}, no, \boxed{\frac{1}{2}} because \boxed{")
    '\\frac{1}{2}'
    >>> final_answer("18 apples\n#### 18")
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


def normalized(answer: str) -> str:
    """The text without what only sets it: spaces, dollars, a final full stop."""
    text = _SPACING.sub("", answer).removesuffix(".").strip("$")
    return text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
