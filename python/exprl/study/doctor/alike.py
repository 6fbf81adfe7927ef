"""Problems that ask the same: the same words but for a few, and the same numbers in their order.

The numbers are what makes it quick and right. Problems of one template differ in nothing else, so
word overlap alone calls them duplicates; and only texts with the same numbers have to be compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from exprl.study.doctor.words import Texts
from exprl.types import Int32Array

ALIKE = 0.85
"""Share of words, with their counts, that two problems must have in common."""
WITHIN = 0.95
"""Share of the shorter one's words that stand in the longer one: an instruction was added."""
SHORTEST = 8
"""Words of a problem that may stand within another one."""
CROWD = 64
"""More texts than this with the same numbers are compared only where they share a rare word."""
RARE = 6
SHARED = 0.7
"""Share of the shorter one's different words below which two texts are not alike."""
_BITS = 512
NEXT = 32
"""Texts after each one with which it is compared where even a rare word is shared by a crowd."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts that ask the same; first < second.

    likeness: 0..1, 1 = the same words in the same order.
    """

    first: int
    second: int
    likeness: float


def find_alike(texts: Texts) -> list[Pair]:
    """All pairs of texts that ask the same, in their order.

    Two texts have the same numbers; one of them may have one more, at its beginning or end, such as
    the number of the exercise.
    """
    numeric = texts.vocabulary.numeric
    rarity = texts.count_texts()
    found = (
        Pair(first, second, likeness)
        for first, second in _list_candidates(texts, numeric, rarity)
        if (likeness := measure_likeness(texts[first], texts[second], numeric)) >= ALIKE
    )
    return sorted(found, key=lambda pair: (pair.second, pair.first))


def measure_likeness(a: Int32Array, b: Int32Array, numeric: np.ndarray) -> float:
    """How much two texts ask the same, 0..1; 0 where their numbers differ, or their order."""
    if not len(a) or not len(b):
        return 0.0
    if np.array_equal(a, b):
        return 1.0
    if not _has_same_numbers(a[numeric[a]].tolist(), b[numeric[b]].tolist()):
        return 0.0
    words, where = np.unique(np.concatenate([a, b]), return_inverse=True)
    here = np.bincount(where[: len(a)], minlength=len(words))
    there = np.bincount(where[len(a) :], minlength=len(words))
    common = int(np.minimum(here, there).sum())
    alike, within = 2 * common / (len(a) + len(b)), common / min(len(a), len(b))
    is_within = within >= WITHIN and min(len(a), len(b)) >= SHORTEST
    return min(max(alike, within if is_within else 0.0), 0.999)  # 1 is for the same order only


def _has_same_numbers(a: list[int], b: list[int]) -> bool:
    """Whether two texts have the same numbers in the same order, but for one that only one has.

    `5 red and 7 blue balls` and `7 red and 5 blue balls` are two problems.
    """
    few, many = sorted((a, b), key=len)
    if len(few) == len(many):
        return few == many
    return len(few) + 1 == len(many) and any(
        few == many[:i] + many[i + 1 :] for i in range(len(many))
    )


def _list_candidates(
    texts: Texts, numeric: np.ndarray, rarity: np.ndarray
) -> Iterator[tuple[int, int]]:
    """Pairs that are worth comparing, each once."""
    groups: dict[int, list[int]] = defaultdict(list)
    masks = []
    for index in range(len(texts)):
        masks.append(_make_mask(texts[index]))
        for key in _list_keys(texts[index], numeric):
            groups[key].append(index)
    seen: set[int] = set()
    for members in groups.values():
        for first, second in _pair_up(members, texts, numeric, rarity):
            a, b = masks[first], masks[second]
            if (a & b).bit_count() < SHARED * min(a.bit_count(), b.bit_count()):
                continue
            code = first * len(texts) + second
            if code not in seen:
                seen.add(code)
                yield first, second


def _make_mask(text: Int32Array) -> int:
    """A bit for each word, so that two texts are compared roughly in a tenth of a microsecond."""
    mask = 0
    for word in set(text.tolist()):
        mask |= 1 << word * 0x9E3779B1 % _BITS
    return mask


def _list_keys(text: Int32Array, numeric: np.ndarray) -> set[int]:
    """One for all its numbers, and where there are three or more, those without an outer one."""
    numbers = text[numeric[text]].tolist()
    sets = [numbers, numbers[1:], numbers[:-1]] if len(numbers) > 2 else [numbers]
    return {hash(tuple(sorted(one))) for one in sets} if len(text) else set()


def _pair_up(
    members: list[int], texts: Texts, numeric: np.ndarray, rarity: np.ndarray
) -> Iterator[tuple[int, int]]:
    """The pairs of a group; of a crowd those that share a rare word."""
    if len(members) <= CROWD:
        yield from _every_pair(members, len(members))
        return
    by_word: dict[int, list[int]] = defaultdict(list)
    for index in members:
        words = np.unique(texts[index])
        words = words[~numeric[words]]
        for word in words[np.argsort(rarity[words], kind="stable")[:RARE]].tolist():
            by_word[word].append(index)
    for sharing in by_word.values():
        yield from _every_pair(sharing, CROWD if len(sharing) <= CROWD else NEXT)


def _every_pair(members: list[int], reach: int) -> Iterator[tuple[int, int]]:
    for place, first in enumerate(members):
        for second in members[place + 1 : place + 1 + reach]:
            yield first, second


def find_same(keys: Iterable[bytes | None]) -> list[list[int]]:
    """The places of each key that stands more than once."""
    places: dict[bytes, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        if key is not None:
            places[key].append(index)
    return [found for found in places.values() if len(found) > 1]
