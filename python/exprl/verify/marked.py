r"""The final answer that a trace marks as such: in a box, after hashes, or by a statement.

Only text outside thinking blocks is looked at. Nothing is guessed: a number near the end of a
trace is no answer because it stands there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from exprl.thinking import open_thinking, outside_thinking
from exprl.verify.reading import drop_emphasis

Mark = Literal["box", "hashes", "statement"]
TAIL = 2000
"""Characters at the end of a trace in which hashes and statements are looked for."""


@dataclass(frozen=True, slots=True)
class Marked:
    """What a trace marks.

    answer: the marked text, None where nothing is marked.
    mark: how it is marked; a box that is empty or not closed is a mark without an answer.
    reason: why there is no answer; empty where there is one.
    """

    answer: str | None
    mark: Mark | None = None
    reason: str = ""


def find_marked(text: str, *, choice: bool = False) -> Marked:
    r"""The answer that a trace marks. Linear in the text, whatever it holds.

    The first of these decides: the last `\boxed{` or `\fbox{`; `#### x` as the last line; a
    statement on the last line, such as `The answer is x.` or `Answer: x`, which may have its
    answer on a line of its own.

    Args:
        text: the whole trace; hostile.
        choice: the answer is a letter, which a statement may call an option or a choice.

    >>> find_marked(r"First \boxed{1}. No, it is \boxed{\frac{1}{2}}.").answer
    '\\frac{1}{2}'
    >>> find_marked("3 boxes of 6\n#### 18").answer
    '18'
    >>> find_marked("So the answer is **18**.").answer
    '18'
    >>> find_marked("It is 18.").reason
    'no marked answer'
    """
    spoken = "".join(outside_thinking(text))
    found = _find_box(spoken) or _find_in_last_lines(spoken[-TAIL:], choice)
    if found:
        return found
    if open_thinking(text):
        return Marked(None, reason="thinking never closes")
    return Marked(None, reason="no marked answer")


_BOX_OR_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\\\(?!boxed|fbox)|\\[{}]|[{}]")


@dataclass(slots=True)
class Box:
    """The content of a box is text[start:end]; end is None where it is not closed."""

    start: int
    end: int | None = None


def find_boxes(text: str) -> list[Box]:
    r"""Every `\boxed{...}` and `\fbox{...}`, in the order in which they open; nested ones, too."""
    boxes: list[Box] = []
    open_braces: list[Box | None] = []  # None: of something else
    for match in _BOX_OR_BRACE.finditer(text):
        token = match.group()
        if token == "}":
            box = open_braces.pop() if open_braces else None
            if box is not None:
                box.end = match.start()
        elif token == "{":
            open_braces.append(None)
        elif token.endswith("{") and len(token) > len("\\{"):
            boxes.append(Box(match.end()))
            open_braces.append(boxes[-1])
    return boxes


def _find_box(text: str) -> Marked | None:
    """What the last box marks; of nested ones that is the innermost."""
    boxes = find_boxes(text)
    if not boxes:
        return None
    last = boxes[-1]
    if last.end is None:
        return Marked(None, "box", "the last box is not closed")
    answer = text[last.start : last.end].strip()
    if not answer.strip("$~ \\,;:!"):
        return Marked(None, "box", "the last box is empty")
    return Marked(answer, "box")


_LINE_START = re.compile(r"\s*(?:#{1,6}\s+|[-+>\u2022]\s+|\d+[.)]\s+)*")
_HASHES = re.compile(r"####(?!#)\s*(\S.*)")
_HOPE = re.compile(r"\bI hope (?:it is|it's|this is) correct\W*\Z", re.IGNORECASE)


def _find_in_last_lines(tail: str, choice: bool) -> Marked | None:
    """What hashes or a statement mark at the end of a text."""
    lines = _join_display(_HOPE.sub("", tail.rstrip()))
    if not lines:
        return None
    last = drop_emphasis(lines[-1]).strip()
    hashes = _HASHES.fullmatch(last)
    if hashes:
        return Marked(hashes.group(1), "hashes")
    last = _LINE_START.sub("", last, count=1)
    found = _find_statement(last, choice)
    if found is None and len(lines) > 1:
        before = _LINE_START.sub("", drop_emphasis(lines[-2]).strip(), count=1)
        found = _find_broken_statement(before, last, choice)
    return Marked(found, "statement") if found else None


def _join_display(tail: str) -> list[str]:
    """The lines that are not blank; a formula displayed over the last ones is one line."""
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    if len(lines) > 2 and lines[-1].rstrip(".,") in ("\\]", "$$"):
        opening = lines[-3].removesuffix("\\[").removesuffix("$$").rstrip()
        if opening != lines[-3].rstrip():
            return [*lines[:-3], *([opening] if opening else []), f"${lines[-2]}$"]
    return lines


_KINDS = "final|correct|right|overall|numerical|numeric|exact|simplified|required|desired|short"
_OWNERS = "the|my|our|this|your"
_AFTER = r"\s*(?:\([^()]{0,40}\)\s*)?(?:(?:to|for|of|in)\s[^.:=?!;]{1,80}?\s*)?"
_IS = (
    r"(?:\b(?:is|equals|must be)\b(?:\s+(?:therefore|thus|then|hence|simply|exactly|indeed"
    r"|equal to)\b)*\s*[:\uff1a,]?|[:\uff1a=]\s*(?:is\b)?)"
)
_NAMED = rf"\b(?:(?P<owner>{_OWNERS})\s+)?(?:(?:{_KINDS})\s+)*"
_STATEMENT = re.compile(rf"{_NAMED}(?:answer|ans)\b{_AFTER}{_IS}", re.IGNORECASE)
_CHOICE = re.compile(rf"{_NAMED}(?:answer|ans|option|choice)\b{_AFTER}{_IS}", re.IGNORECASE)
_HEADING = re.compile(rf"{_NAMED}(?:answer|ans)[^\w?]*", re.IGNORECASE)
_LETTER_A = re.compile(r"A\s*[:\uff1a]\s*(\S.*)")


def _find_statement(line: str, choice: bool) -> str | None:
    """What the last statement of a line says; None where what stands before it takes it back."""
    statements = list((_CHOICE if choice else _STATEMENT).finditer(line))
    if not statements:
        short = None if choice else _LETTER_A.fullmatch(line)
        return _clean(short.group(1)) if short else None
    last = statements[-1]
    if not _is_asserted(line[: last.start()], owned=bool(last["owner"])):
        return None
    return _clean(line[last.end() :])


def _find_broken_statement(before: str, last: str, choice: bool) -> str | None:
    """A statement whose answer has a line of its own: `The answer is:`, or a heading `Answer`."""
    if _HEADING.fullmatch(before):
        return _clean(last)
    opened = list((_CHOICE if choice else _STATEMENT).finditer(before))
    if opened and not before[opened[-1].end() :].strip(" :\uff1a"):
        return _find_statement(f"{before} {last}", choice)
    return None


_SENTENCE = re.compile(r"[.!?]\s")
_CLAUSE = re.compile(r"[,;:\u2014]\s?|\s-\s")
_CONDITION = re.compile(
    r"\b(?:if|suppose|supposing|assume|assuming|unless|whether|perhaps|maybe|possibly|probably)\b",
    re.IGNORECASE,
)
_DENIAL = re.compile(
    r"\b(?:not|never|cannot|no|neither|nor|without|wrong|incorrect|false|doubt|think|guess|believe"
    r"|say|says|said|claims?|claimed|would|could|might|may|should|wonder|unlikely|impossible)\b"
    r"|n['\u2019]t\b",
    re.IGNORECASE,
)
_LEADS = re.compile(
    r"(?:^|[,;:.!?\u2014(\"'-]\s*|\b(?:so|thus|hence|therefore|then|and|but|finally|now|that))\s*\Z",
    re.IGNORECASE,
)


def _is_asserted(before: str, *, owned: bool) -> bool:
    """Whether what stands before a statement on its line lets it stand.

    `I doubt that the answer is 4` and `If so, the answer is 4` say no answer. An answer that
    nobody owns must start its clause: `Bob's answer is 4`, `a wrong answer is 4` are others.
    """
    sentence = _SENTENCE.split(before)[-1]
    clause = _CLAUSE.split(sentence)[-1]
    if _CONDITION.search(sentence) or _DENIAL.search(clause):
        return False
    return owned or bool(_LEADS.search(before))


def _clean(answer: str) -> str:
    """Without the sentence's end and the quotation marks around it."""
    return answer.strip().removesuffix(".").strip().strip("\"'\u201c\u201d\u2018\u2019").strip()
