r"""Signs that a solution was cut: something is open at its end, or it stops in a sentence."""

from __future__ import annotations

import re

from exprl.verify.marked import find_boxes

TAIL = 200
"""Characters at the end of a text at which its ending is looked for."""
_DANGLING = re.compile(
    r"(?:[-+*/=<(\[{,&^_]|(?<!\\)\\(?!blacksquare|square|qed|Box|end|right|dots|ldots|cdots)[a-zA-Z]+"
    r"|\b(?:the|a|an|of|and|or|so|is|are|to|we|then|that|by|for|with|from|which|because|has|have|had"
    r"|was|were|these|each|if|be|gets?|us|our|their|his|her|its|since|where|when|must|can|will|into"
    r"|than|there|therefore|thus|hence))\s*\Z",
    re.IGNORECASE,
)
_BEGIN = re.compile(r"\\(begin|end)\s*\{(\w+\*?)\}")
_ENDED = re.compile(r"[.!?)\]}$%\d\"'`*>\u201d\u2019\u3002|]\s*\Z")


def find_cut(text: str) -> str | None:
    r"""What tells that a solution was cut, in words; None where nothing does.

    >>> find_cut(r"So x = \boxed{1"), find_cut("He has 5 and"), find_cut("He has 5.")
    ('a box is not closed', "ends with 'and'", None)
    """
    boxes = find_boxes(text)
    if boxes and boxes[-1].end is None:
        return "a box is not closed"
    if text.count("```") % 2:
        return "a block of code is not closed"
    if text.rfind("<<") > text.rfind(">>"):
        return "a calculation '<<' is not closed"
    opened = _find_open(text)
    if opened:
        return f"{opened} is not closed"
    dangling = _DANGLING.search(text[-TAIL:])
    if dangling:
        return f"ends with {dangling.group().strip()!r}"
    return None


def _find_open(text: str) -> str | None:
    """The last environment, formula or bracket that opens and does not close."""
    depth: list[str] = []
    for found in _BEGIN.finditer(text):
        if found.group(1) == "begin":
            depth.append(found.group(2))
        elif depth:
            depth.pop()
    if depth:
        return f"\\begin{{{depth[-1]}}}"
    for opening, closing in (("\\[", "\\]"), ("\\(", "\\)")):
        if text.count(opening) > text.count(closing):
            return opening
    dollars = [found.end() for found in re.finditer(r"(?<!\\)\$", text)]
    if len(dollars) % 2 and re.search(r"\\[a-zA-Z]|[\^_]\{?\w", text[dollars[-1] :]):
        return "$"
    tail = text[text.rfind("(") + 1 :] if "(" in text else ")"
    return "(" if not re.search(r"[)\]]", tail) else None


def is_ended(text: str) -> bool:
    """Whether a text ends as a sentence, a formula or a number does."""
    return bool(_ENDED.search(text[-TAIL:]))
