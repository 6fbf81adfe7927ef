"""References alone and beside their problems: missing, bare, or given away."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from exprl.study.doctor.stated import read_value
from exprl.study.doctor.words import split_words
from exprl.types import ReferenceProblem
from exprl.verify.marked import find_boxes
from exprl.verify.reading import normalize

_EXCUSE = re.compile(
    r"\b(?:omitted|unavailable|not (?:available|provided|given|included|shown)|left (?:to|as)\b.*"
    r"|see (?:the |above|attached|below|figure|video|image|book|solution|text|appendix).*"
    r"|refer to .*|coming soon|to be (?:added|done)|same as (?:above|before)|placeholder"
    r"|no (?:solution|explanation|reference) (?:is |was )?(?:available|provided|given))\b",
    re.IGNORECASE,
)
MOST_OF_AN_EXCUSE, LONGEST_EXCUSE = 12, 200
"""Words and characters; a longer text is a solution, whatever it says."""
_FILLERS = frozenset(
    r"\boxed \fbox the final answer ans is so therefore thus hence it solution = x a".split()  # noqa: SIM905
)
GRAM = 4
"""Words in a row that problem and solution share, or do not."""
GIVEN = 0.5
SURELY_GIVEN = 0.8
"""Share of a solution's word groups that stand in the problem."""
_CUE = re.compile(
    r"(?:\b(?:final\s+|correct\s+)?(?:answer|ans)\b\W{0,4}?\s*(?:is\b|[:=])|####(?!#))\s*"
    r"(?P<rest>[^\n]{1,80})",
    re.IGNORECASE,
)
_ALTERNATIVES = re.compile(r"\s*(?:,|/|\bor\b|\band\b|\.\.|-\s*[A-J]\b)", re.IGNORECASE)


def is_excuse(solution: str) -> bool:
    """Whether a short text only says that there is no solution: `See the book`, `Omitted.`."""
    if len(solution) > LONGEST_EXCUSE:
        return False
    words = split_words(solution)
    return len(words) <= MOST_OF_AN_EXCUSE and (not words or bool(_EXCUSE.search(solution)))


def is_bare(solution: str, answers: tuple[str, ...]) -> bool:
    """Whether a solution is its answer and nothing else.

    >>> is_bare("The answer is 42.", ("42",)), is_bare("6*7 = 42", ("42",))
    (True, False)
    """
    if len(solution) > LONGEST_EXCUSE + 2 * max(map(len, answers), default=0):
        return False
    words = [word for word in split_words(solution) if word not in _FILLERS]
    if not answers:
        return len(words) <= 1
    return any(set(words) <= set(split_words(answer)) for answer in answers) and not re.search(
        r"\d\s*[-+*/]\s*\d.*=", solution
    )


def find_given(
    problem: ReferenceProblem, asked: Sequence[str], solution: Sequence[str]
) -> Iterator[tuple[str, bool]]:
    """What of the solution the problem shows, and whether that is sure.

    Args:
        asked, solution: the words of the problem and of its reference, with signs.
    """
    question = problem.question
    shown = _share_in(asked, solution)
    if shown >= GIVEN:
        yield f"{shown:.0%} of the solution stands in the problem", shown >= SURELY_GIVEN
        return
    answers = () if problem.answer is None else (problem.answer, *problem.more_answers)
    for answer in answers:
        place = _find_named(question, answer)
        if place is not None:
            yield f"the problem says {place!r}", True
            return


def _share_in(asked: Sequence[str], solution: Sequence[str]) -> float:
    """Which share of the solution's groups of GRAM words the problem has."""
    own, there = _groups(solution), _groups(asked)
    return len(own & there) / len(own) if len(own) > 1 else 0.0


def _groups(words: Sequence[str]) -> set[tuple[str, ...]]:
    return set(zip(*(words[i:] for i in range(GRAM)), strict=False))


def _find_named(question: str, answer: str) -> str | None:
    """Where a problem names its own answer as the answer."""
    for box in find_boxes(question):
        if box.end is not None and _is_same(question[box.start : box.end], answer):
            return rf"\boxed{{{question[box.start : box.end]}}}"
    for found in _CUE.finditer(question):
        rest = found["rest"].lstrip("*$([ ")
        head = re.match(re.escape(answer.strip()) + r"(?![\w]|\.\d)", rest, re.IGNORECASE)
        if head and not _ALTERNATIVES.match(rest[head.end() :]):
            said = found.group()[: found.start("rest") - found.start()] + head.group()
            return " ".join(said.split())[:60]
    return None


def _is_same(found: str, answer: str) -> bool:
    if normalize(found) == normalize(answer):
        return bool(normalize(found))
    value = read_value(found)
    return value is not None and value == read_value(answer)
