"""Gold answers, read before anything is compared with them."""

from __future__ import annotations

import re

from exprl.config import VerifierName
from exprl.verify import choice, quantity
from exprl.verify.marked import find_marked
from exprl.verify.reading import LONGEST_ANSWER, read_mathematics, read_words, undress

_VOID = re.compile(r"[\s.\u2026\u2013\u2014\-_?*$/\\]*|\\[lc]?dots|n/a|n\.a|nan|null|tbd|todo|unknown")


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
