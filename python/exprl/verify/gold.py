"""Gold answers: read before anything is compared with them, and compared."""

from __future__ import annotations

import re
from dataclasses import dataclass

from exprl.config import FunctionName, VerifierName
from exprl.types import Problem
from exprl.verify import choice, quantity
from exprl.verify.answer import is_equal
from exprl.verify.marked import find_marked
from exprl.verify.reading import (
    LONGEST_ANSWER,
    read_mathematics,
    read_words,
    split_list,
    undress,
)

_VOID = re.compile(
    r"[\s.\u2026\u2013\u2014\-_?*$/\\]*|\\[lc]?dots|n/a|n\.a|nan|null|tbd|todo|unknown"
)


@dataclass(frozen=True, slots=True)
class Gold:
    """What is right for one problem.

    answers: at least one, as `read_gold` gives them.
    needs_all: whether a right answer names all of them; else each of them alone is right.
    """

    answers: tuple[str, ...]
    needs_all: bool = False

    def equals(self, found: str, verifier: VerifierName) -> bool:
        r"""Whether a final answer is right.

        >>> Gold(("1/2", "0.5")).equals(r"\frac{1}{2}", "math")
        True
        >>> Gold(("1", "2"), needs_all=True).equals("x = 2 or x = 1", "math")
        True
        """
        if not self.needs_all or len(self.answers) == 1:
            return any(_is_one(found, gold, verifier) for gold in self.answers)
        left = split_list(found)
        if len(left) != len(self.answers):
            return False
        for gold in self.answers:
            same = next((one for one in left if _is_one(one, gold, verifier)), None)
            if same is None:
                return False
            left.remove(same)
        return True


def read_golds(problem: Problem, verifier: VerifierName | FunctionName) -> Gold | None:
    """The gold answers of a problem that can be read; None where nothing can be compared with them.

    A function of the user's reads them itself, so it has them as they are.

    Of a list of which each answer is right, those that cannot be read are left out. A list that an
    answer must name in whole needs all of them; for a choice there is no such list.
    """
    texts = (str(problem.answer), *problem.more_answers) if problem.answer is not None else ()
    if isinstance(verifier, FunctionName):
        return Gold(texts, problem.all_answers) if texts else None
    read = [read_gold(text, verifier) for text in texts]
    golds = tuple(gold for gold in read if gold is not None)
    several = problem.all_answers and len(texts) > 1
    if not golds or (several and (len(golds) < len(texts) or verifier == "choice")):
        return None
    return Gold(golds, several)


def read_gold(gold: str, verifier: VerifierName) -> str | None:
    r"""The answer that a gold answer names; None if nothing can be compared with it.

    A box, hashes, a statement and the signs of mathematics around it are taken off. A void (`-`,
    `N/A`, `$$`), several words (`see figure`) and broken LaTeX cannot be read. Text for the
    verifier `exact` is taken as it is, and so are unit tests.

    >>> [read_gold(x, "math") for x in ("The answer is 42.", "$42$", "see figure", "N/A")]
    ['42', '$42$', None, None]
    >>> read_gold("(C) 5 m/s", "choice"), read_gold("E or F", "choice")
    ('C', None)
    """
    if verifier == "code":
        return gold
    if _is_void(gold):
        return None
    match verifier:
        case "exact":
            return gold.strip()
        case "choice":
            return choice.read_letter(gold) or choice.find_marked_letter(gold).answer
        case _:
            marked = find_marked(gold)
            bare = gold if marked.mark is None else marked.answer
            return bare if bare and _is_readable(bare, verifier) else None


def _is_readable(answer: str, verifier: VerifierName) -> bool:
    """Whether mathematics, one word, or a quantity for science, stands there."""
    if _is_void(answer) or len(answer) > LONGEST_ANSWER:
        return False
    words = read_words(answer)
    if words is not None:
        return " " not in words or len(words) <= len("a b")
    if verifier == "science" and quantity.is_quantity(answer):
        return True
    return read_mathematics(answer) is not None


def _is_void(gold: str) -> bool:
    return gold.strip() == "NA" or bool(_VOID.fullmatch(undress(gold).lower()))


def _is_one(found: str, gold: str, verifier: VerifierName) -> bool:
    """Whether two final answers are one for a verifier."""
    match verifier:
        case "math":
            return is_equal(found, gold)
        case "science":
            return quantity.is_equal(found, gold)
        case _:
            return found.strip() == gold
