"""Texts as sequences of words and numbers, in little memory."""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from exprl.types import Int32Array

_TOKEN = re.compile(r"\\[a-zA-Z]+|[^\W\d_]+(?:['\u2019][^\W\d_]+)?|\d[\d,]*(?:\.\d+)?")
FRAME, FEWEST = 0.5, 10
"""Share of the texts that have a line of the frame, and texts from which on one can be told."""
_SIGNS = frozenset("-+*/^=<>()[]{}|")
_TOKEN_OR_SIGN = re.compile(_TOKEN.pattern + r"|[-+*/^=<>()\[\]{}|]")
_SETTING = frozenset(
    r"\left \right \text \mathrm \mathbf \textbf \dfrac \tfrac \displaystyle \quad \cdot".split()  # noqa: SIM905
)
_SMALL = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty
""".split()  # noqa: SIM905 (a list of 21 lines reads worse)
_NUMBERS = {word: str(value) for value, word in enumerate(_SMALL)}


def split_words(text: str, *, signs: bool = False) -> list[str]:
    r"""The words, numbers and LaTeX commands of a text, without what only sets them.

    Case, spaces and the commas of a number do not count, and `three` is `3`.

    Args:
        signs: whether the signs of mathematics and brackets are words, too.

    >>> split_words("Tom's 1,200 apples; $\\left(x\\right)$ of THREE.")
    ["tom's", '1200', 'apples', 'x', 'of', '3']

    >>> split_words("x - 3 = (y)", signs=True)
    ['x', '-', '3', '=', '(', 'y', ')']
    """
    token = _TOKEN_OR_SIGN if signs else _TOKEN
    found = token.findall(unicodedata.normalize("NFKC", text).lower())
    return [_plain(token) for token in found if token not in _SETTING]


@lru_cache(1 << 16)
def _plain(token: str) -> str:
    if token[0].isdigit():
        whole = token.replace(",", "").lstrip("0")
        return whole if whole[:1].isdigit() else "0" + whole
    return _NUMBERS.get(token, token)


def find_frame(texts: Sequence[str]) -> frozenset[str]:
    """The lines that stand in half of the texts or more: instructions around the problems."""
    if len(texts) < FEWEST:
        return frozenset()
    counts = Counter(line for text in texts for line in set(_split_lines(text)))
    return frozenset(line for line, count in counts.items() if count >= FRAME * len(texts))


def drop_frame(text: str, frame: frozenset[str]) -> str:
    """The text without the lines of a frame; whole where nothing else would be left."""
    if not frame:
        return text
    return "\n".join(line for line in _split_lines(text) if line not in frame) or text


def _split_lines(text: str) -> list[str]:
    return [line for line in map(str.strip, text.splitlines()) if line]


def drop_signs(words: Sequence[str]) -> list[str]:
    """The words of `split_words(text, signs=True)` without the signs."""
    return [word for word in words if word not in _SIGNS]


def is_number(word: str) -> bool:
    """Whether a word of `split_words` is a number."""
    return word[0].isdigit()


class Vocabulary:
    """A number for every word."""

    def __init__(self) -> None:
        self.words: dict[str, int] = {}
        self._is_number = array("b")

    def number(self, words: Sequence[str]) -> list[int]:
        """The numbers of the words; new words get new ones."""
        numbers = []
        for word in words:
            known = self.words.get(word)
            if known is None:
                known = self.words[word] = len(self.words)
                self._is_number.append(is_number(word))
            numbers.append(known)
        return numbers

    @property
    def numeric(self) -> np.ndarray:
        """For every word whether it is a number."""
        return np.frombuffer(self._is_number, np.int8).astype(bool)


class Texts:
    """Many texts, each a sequence of the numbers of its words: four bytes a word."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._ids = array("i")
        self._ends = array("q", [0])

    def add(self, words: Sequence[str]) -> None:
        """Append a text."""
        self._ids.extend(self.vocabulary.number(words))
        self._ends.append(len(self._ids))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Int32Array:
        """The words of a text, in their order."""
        return np.array(self._ids[self._ends[index] : self._ends[index + 1]], np.int32)

    def count_texts(self) -> np.ndarray:
        """For every word the number of texts that have it."""
        counts = np.zeros(len(self.vocabulary.words), np.int64)
        for index in range(len(self)):
            counts[np.unique(self[index])] += 1
        return counts
