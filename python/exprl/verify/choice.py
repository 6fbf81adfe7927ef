r"""The letter that a trace chooses. A trace that names two letters, or none, has not answered."""

from __future__ import annotations

import re

from exprl.verify.answer import find_answer
from exprl.verify.marked import Marked, find_marked

LETTERS = "ABCDEFGHIJ"
TAIL = 2000
"""Characters at the end of a trace in which an answer without a box is looked for."""

_MARKUP = re.compile(
    r"\\(?:text|mathrm|mathbf|textbf|operatorname)\s*\{([^{}]*)\}|[*_`$]+|\\[,;:! ]"
)
_LETTER = rf"[{LETTERS}]"
_ALONE = re.compile(
    rf"(?:(?:option|choice|answer)\s*:?\s*)?[(\[]?({_LETTER})[)\]]?\s*(?:[.):]\s*(?P<text>\S.*)?)?",
    re.IGNORECASE | re.DOTALL,
)
_STATED = re.compile(
    r"\b(?:answer|option|choice)\s*(?:is|:|=)?\s*(?:option|choice)?\s*:?\s*"
    rf"(?P<open>[(\[])?(?P<letter>(?-i:{_LETTER}))(?P<close>[)\]])?"
    r"(?!\w)(?=(?P<after>\W{0,3}\w*))",
    re.IGNORECASE,
)
_ANOTHER = re.compile(
    rf"\s*(?:,|/|&|\b(?:and|or)\b)\s*(?:option\s*)?[(\[]?{_LETTER}\b", re.IGNORECASE
)

_TAKEN_BACK = re.compile(
    r"\b(?i:no|not|or|and|wait|actually|rather|but|maybe)\b\W*(?i:option\s*)?\(?"
    rf"{_LETTER}\b(?![\w'])|\?\s*\Z"
)


def find_marked_letter(text: str) -> Marked:
    r"""The letter that a trace marks as its choice: in the last box, after hashes, by a statement.

    >>> find_marked_letter("**Answer: B**").answer, find_marked_letter("The option is (C).").answer
    ('B', 'C')
    >>> find_marked_letter("The answer is A or B.").reason
    "no one letter: 'A or B'"
    """
    marked = find_marked(text, choice=True)
    if marked.answer is None:
        return marked
    letter = read_letter(marked.answer)
    if letter is None or _TAKEN_BACK.search(marked.answer):
        return Marked(None, marked.mark, f"no one letter: {marked.answer[:60]!r}")
    return Marked(letter, marked.mark)


def find_letter(text: str) -> str | None:
    r"""The letter that a trace chooses where `verify = "lenient"`, or None.

    The last box counts, else the last statement such as `Answer: (C)`, else a last line that is a
    letter and nothing else. `A or B` is no choice.

    >>> find_letter(r"So \boxed{\text{(C)}}"), find_letter("**Answer: B**")
    ('C', 'B')
    >>> find_letter("The answer is A or B.")
    """
    boxed = find_answer(text)
    if boxed is not None:
        return read_letter(boxed)
    tail = _strip_markup(text[-TAIL:])
    statements = list(_STATED.finditer(tail))
    if statements:
        last = statements[-1]
        if _ANOTHER.match(tail, last.end("close") if last["close"] else last.end("letter")):
            return None
        return last["letter"].upper() if _is_a_letter(last) else None
    lines = tail.strip().splitlines()
    return read_letter(lines[-1]) if lines else None


def read_letter(text: str) -> str | None:
    """The letter of an answer such as `C`, `(C)` or `C. 5 m/s`; None if it names none."""
    found = _ALONE.fullmatch(_strip_markup(text).strip())
    if found is None:
        return None
    rest = found["text"] or ""
    return None if _ANOTHER.match("," + rest) and len(rest.strip(" ().")) == 1 else found[1].upper()


def _strip_markup(text: str) -> str:
    return _MARKUP.sub(lambda match: match.group(1) or "", text)


def _is_a_letter(match: re.Match[str]) -> bool:
    """Whether it is not the article or the pronoun at the start of a sentence: `is A good one`."""
    if match["letter"] not in "AI" or match["open"] or match["close"]:
        return True
    return not re.match(r"[ \t]+\w", match["after"])
