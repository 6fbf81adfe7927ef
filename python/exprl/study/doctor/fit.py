"""Whether a reference belongs to its problem, by the rare words and numbers that they share.

Problem i and reference j are vectors over words, `idf(w) = log((n + 1) / (df(w) + 1/2))`; their
likeness is the cosine. The reference of another problem is no more like problem i than most
references are. How many are as like by chance is a p-value, one over references and one over
problems, whose geometric mean is `chance`. Storey's estimate tells how many of the suspects are
right: p-values of foreign references lie evenly between 0 and 1, so twice as many of them as lie
above 1/2 (J. R. Statist. Soc. B 64, 2002, 479-498).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exprl.study.doctor.words import Texts

SAMPLED = 200
"""Other problems and references with which a pair is compared."""
SUSPECT = 0.05
FITTING = 0.02
"""Above this chance a pair may be taken apart by another problem that the reference fits."""
GAP, TIMES = 0.05, 3.0
"""How much more alike the reference and that problem must be: by this difference and factor."""
RIGHT_ENOUGH = 0.8
FEWEST = 12
"""Rows below which chance tells nothing."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """A reference that seems to solve another problem.

    index: of the row, from 0.
    chance: share of other pairs that are as alike, 0..1.
    fits: the row whose problem it is much more like, None where there is none.
    """

    index: int
    chance: float
    fits: int | None
    sure: bool


def find_foreign(problems: Texts, references: Texts, seed: int = 0) -> list[Foreign]:
    """The references that seem to solve another problem than their own.

    Args:
        problems, references: of the same rows; a text without words is not looked at. More
            problems may follow.
    """
    rows = len(references)
    if rows < FEWEST:
        return []
    pairs = _Pairs(problems, references)
    chances = pairs.find_chances(seed)
    known = ~np.isnan(chances)
    suspects = np.flatnonzero(known & (chances >= FITTING))
    even = int(np.sum(chances[known] >= 0.5))
    listed = int(np.sum(chances[known] >= SUSPECT))
    are_right = even >= 2 and 2 * even >= RIGHT_ENOUGH * listed
    found = []
    for index in map(int, suspects):
        chance = float(chances[index])
        fits = pairs.find_better(index)
        if fits is not None or chance >= SUSPECT:
            found.append(Foreign(index, chance, fits, fits is not None or are_right))
    return found


class _Pairs:
    """Every problem with its reference, as weighted sets of words."""

    def __init__(self, problems: Texts, references: Texts) -> None:
        rows = len(references)
        df = np.maximum(problems.count_texts(), references.count_texts())
        self.weights = np.maximum(0.0, np.log((rows + 1) / (df + 0.5))).astype(np.float32) ** 2
        self.problems = [np.unique(problems[i]) for i in range(rows)]
        self.references = [np.unique(references[i]) for i in range(rows)]
        self.problem_norms = self._norms(self.problems)
        self.reference_norms = self._norms(self.references)
        self.own = np.array([self._likeness(i, i) for i in range(rows)])
        self._index()

    def _norms(self, texts: list[np.ndarray]) -> np.ndarray:
        return np.array([np.sqrt(self.weights[text].sum()) for text in texts])

    def _likeness(self, problem: int, reference: int) -> float:
        norm = self.problem_norms[problem] * self.reference_norms[reference]
        shared = np.intersect1d(
            self.problems[problem], self.references[reference], assume_unique=True
        )
        return float(self.weights[shared].sum() / norm) if norm else 0.0

    def find_chances(self, seed: int) -> np.ndarray:
        """[rows] how often another problem or reference is as like as the own; NaN: not known."""
        rows = len(self.problems)
        sample = np.random.default_rng(seed).permutation(rows)[:SAMPLED]
        by_reference = self._share_above(self.problems, self.problem_norms, self.references, sample)
        by_problem = self._share_above(self.references, self.reference_norms, self.problems, sample)
        chances: np.ndarray = np.sqrt(by_reference * by_problem)
        little = [min(np.sum(self.weights[t] > 0) for t in pair) < 2 for pair in self._both()]
        chances[np.array(little)] = np.nan
        return chances

    def _both(self) -> zip[tuple[np.ndarray, np.ndarray]]:
        return zip(self.problems, self.references, strict=True)

    def _share_above(
        self,
        texts: list[np.ndarray],
        norms: np.ndarray,
        others: list[np.ndarray],
        sample: np.ndarray,
    ) -> np.ndarray:
        """[rows] share of the sampled others that are as like a text as its own partner."""
        words = np.unique(np.concatenate([others[j] for j in sample]))
        place = np.full(len(self.weights), len(words))
        place[words] = np.arange(len(words))
        table = np.zeros((len(words) + 1, len(sample)), np.float32)  # the last: a word of none
        for column, j in enumerate(sample):
            norm = np.sqrt(self.weights[others[j]].sum())
            table[place[others[j]], column] = self.weights[others[j]] / max(norm, 1e-9)
        shares = np.empty(len(texts))
        for i, text in enumerate(texts):
            likeness = table[place[text]].sum(0) / max(norms[i], 1e-9)
            shares[i] = np.mean((likeness >= self.own[i] - 1e-6)[sample != i])
        return shares

    def _index(self) -> None:
        """For every word the problems that have it."""
        lengths = [len(text) for text in self.problems]
        words, rows = np.concatenate(self.problems), np.repeat(np.arange(len(lengths)), lengths)
        order = np.argsort(words, kind="stable")
        self._rows = rows[order]
        self._starts = np.searchsorted(words[order], np.arange(len(self.weights) + 1))

    def find_better(self, index: int) -> int | None:
        """The problem that a reference fits much better than its own, and than its own fits it."""
        most = max(50, len(self.problems) // 20)
        likeness = np.zeros(len(self.problems), np.float32)
        for word in self.references[index]:
            rows = self._rows[self._starts[word] : self._starts[word + 1]]
            if len(rows) <= most:
                likeness[rows] += self.weights[word]
        likeness[index] = 0.0
        best = int(np.argmax(likeness / np.maximum(self.problem_norms, 1e-9)))
        likest, least = self._likeness(best, index), max(self.own[index], self.own[best])
        return best if best != index and likest > max(least + GAP, TIMES * least) else None
