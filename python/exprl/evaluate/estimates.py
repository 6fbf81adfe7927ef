"""Estimates with their intervals: pass@k, majority vote, proportions, ranks, agreement.

Plain arithmetic on numpy arrays; nothing here knows a model. P problems, K values of k, B bootstrap
resamplings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from exprl.types import Float64Array, Int64Array

RESAMPLINGS = 2000
LEVEL = 0.95
MOST_VOTES = 1000
"""Samples of a problem up to which `majority_at_k` works: beyond, C(n, k) overflows float64."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A number with its interval of LEVEL; NaN where there is nothing to take it from."""

    value: float
    low: float
    high: float


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right: 1 - C(n-c, k) / C(n, k).

    Integers to the last division, so it is exact to float64 for any n. Chen et al. 2021
    (arXiv 2107.03374), equation 1.

    Args:
        n: samples drawn.
        c: right ones among them.
        k: samples that a user would draw.

    Raises:
        ValueError: not 0 <= c <= n and 1 <= k <= n.

    >>> pass_at_k(n=4, c=1, k=2)
    0.5
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(
            f"pass@k with n = {n}, c = {c}, k = {k}: needs 0 <= c <= n and 1 <= k <= n"
            " (draw at least k samples)"
        )
    every = math.comb(n, k)
    return (every - math.comb(n - c, k)) / every


def pass_curve(n: int, c: int) -> Float64Array:
    """`pass_at_k` for k = 1..n, [n].

    >>> pass_curve(4, 1)
    array([0.25, 0.5 , 0.75, 1.  ])
    """
    return np.array([pass_at_k(n, c, k) for k in range(1, n + 1)], dtype=np.float64)


def majority_curve(right: int, wrong: Sequence[int], blank: int = 0) -> Float64Array:
    """The chance that the most frequent answer of k samples is right, for k = 1..n, [n].

    The mean over all k-subsets of the n = right + sum(wrong) + blank samples, counted exactly. A
    tie goes to each of the tied answers with equal chance. A blank sample names no answer and does
    not vote; where none votes, the subset is wrong. At k = 1 this is pass@1.

    Args:
        right: samples whose answer is right; they are one answer.
        wrong: samples of each distinct wrong answer.
        blank: samples without an answer.

    Raises:
        ValueError: a negative count, or more than MOST_VOTES samples.

    >>> majority_curve(right=2, wrong=[1]).round(3)
    array([0.667, 0.667, 1.   ])
    """
    n = right + sum(wrong) + blank
    if min(right, blank, *wrong) < 0 or n > MOST_VOTES:
        raise ValueError(
            f"majority vote over {right} right, {list(wrong)} wrong and {blank} blank samples:"
            f" counts must not be negative, nor their sum above {MOST_VOTES}"
        )
    won = np.zeros(n + 1)  # [k] (weighted) subsets of size k that the right answer wins
    for votes in range(1, right + 1):
        rivals = [size for size in wrong if size >= votes]
        free = n - right - sum(rivals)  # too few to tie with `votes`: any of them may be drawn
        ways = np.zeros((n - right + 1, len(rivals) + 1))  # [other samples drawn, rivals tied]
        ways[: free + 1, 0] = _binomials(free)
        for size in rivals:
            fewer = np.zeros_like(ways)
            for drawn in range(votes):
                fewer[drawn:] += math.comb(size, drawn) * ways[: len(ways) - drawn]
            fewer[votes:, 1:] += math.comb(size, votes) * ways[: len(ways) - votes, :-1]
            ways = fewer
        share = ways @ (1.0 / np.arange(1, len(rivals) + 2))
        won[votes : votes + len(share)] += math.comb(right, votes) * share
    return np.minimum(won[1:] / _binomials(n)[1:], 1.0)  # sums of floats overshoot by an ulp or two


def resampled_counts(problems: int, samples: int = RESAMPLINGS, seed: int = 0) -> Int64Array:
    """[B, P]: how often each problem is drawn in each bootstrap resampling of the problems.

    The same (problems, samples, seed) gives the same counts, so that differences between models
    measured on the same problems are paired.
    """
    if problems < 1 or samples < 1:
        raise ValueError(
            f"bootstrap over {problems} problems with {samples} resamplings: needs at least one of"
            " each"
        )
    generator = np.random.Generator(np.random.Philox(key=seed))
    return generator.multinomial(problems, np.full(problems, 1.0 / problems), size=samples)


def resampled_means(
    values: npt.NDArray[np.float64], samples: int = RESAMPLINGS, seed: int = 0
) -> Float64Array:
    """Means of `values` [P] or [P, K] over resampled problems: [B] or [B, K].

    NaN marks a problem that has no such value; it is left out of its column's means.
    """
    present = ~np.isnan(values)
    counts = resampled_counts(len(values), samples, seed).astype(np.float64)
    weights = counts @ present
    with np.errstate(invalid="ignore"):
        means: Float64Array = (counts @ np.where(present, values, 0.0)) / weights
    return means


def percentiles(resampled: Float64Array, level: float = LEVEL) -> tuple[Float64Array, Float64Array]:
    """Lower and upper end of the percentile interval over the first axis; NaNs are left out."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"an interval of level = {level}: needs 0 < level < 1")
    tails = ((1.0 - level) / 2.0, (1.0 + level) / 2.0)
    known = np.isfinite(resampled).any(axis=0)
    low, high = np.nanquantile(np.where(known, resampled, 0.0), tails, axis=0)
    return np.where(known, low, np.nan), np.where(known, high, np.nan)


def bootstrap_interval(
    values: Sequence[float], samples: int = RESAMPLINGS, level: float = LEVEL, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values`, one value per problem.

    Args:
        values: [P], finite.
        samples: resamplings of the problems.
        level: share of the resampled means inside the interval.
        seed: of the resampling; the same seed gives the same interval.

    Raises:
        ValueError: no values, a value that is not finite, or a level outside (0, 1).
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all() or not 0.0 < level < 1.0:
        raise ValueError(
            f"bootstrap over {array.size} values (finite: {bool(np.isfinite(array).all())}),"
            f" level = {level}: needs finite values and 0 < level < 1"
        )
    low, high = percentiles(resampled_means(array, samples, seed), level)
    return float(low), float(high)


def wilson_interval(right: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a proportion; (0, 1) where nothing was counted.

    >>> tuple(round(x, 3) for x in wilson_interval(0, 10))
    (0.0, 0.278)
    """
    if of == 0:
        return 0.0, 1.0
    p, scale = right / of, 1.0 + z * z / of
    centre = (p + z * z / (2 * of)) / scale
    half = z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of)) / scale
    return max(0.0, centre - half), min(1.0, centre + half)


def difference_interval(a: tuple[int, int], b: tuple[int, int]) -> tuple[float, float]:
    """Interval of p_b - p_a from (right, of) counts of independent samples.

    Newcombe 1998, method 10: it needs no large counts and stays within [-1, 1].

    >>> tuple(round(x, 3) for x in difference_interval((56, 70), (48, 80)))
    (-0.334, -0.052)
    """
    rates = [right / of if of else 0.5 for right, of in (a, b)]
    (low_a, high_a), (low_b, high_b) = wilson_interval(*a), wilson_interval(*b)
    difference = rates[1] - rates[0]
    down = math.hypot(rates[1] - low_b, high_a - rates[0])
    up = math.hypot(high_b - rates[1], rates[0] - low_a)
    return difference - down, difference + up


def midranks(values: Sequence[float] | Float64Array) -> Float64Array:
    """Ranks from 1; equal values share the mean of their ranks.

    >>> midranks([3.0, 1.0, 3.0])
    array([2.5, 1. , 2.5])
    """
    _, inverse, counts = np.unique(
        np.asarray(values, np.float64), return_inverse=True, return_counts=True
    )
    last = np.cumsum(counts)
    ranks: Float64Array = (last - (counts - 1) / 2.0)[inverse]
    return ranks


def pearson(x: Float64Array, y: Float64Array) -> float:
    """Correlation of two arrays [N]; NaN where one of them does not vary."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def spearman(x: Float64Array, y: Float64Array) -> float:
    """Rank correlation: Pearson's of the midranks."""
    return pearson(midranks(x), midranks(y))


def auc(positive: npt.NDArray[Any], negative: npt.NDArray[Any]) -> Float64Array:
    """Area under the ROC curve from counts over ascending scores, [..., V] each: [...].

    The chance that a positive scores above a negative, a tie counting one half; NaN without either.

    >>> float(auc(np.array([0, 1, 2]), np.array([2, 1, 0])))  # scores 1,2,2 against 0,0,1
    0.9444444444444444
    """
    below = np.cumsum(negative, axis=-1) - negative
    won = (positive * (below + negative / 2.0)).sum(axis=-1)
    pairs = positive.sum(axis=-1) * negative.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        area: Float64Array = np.asarray(won / pairs, dtype=np.float64)
    return area


def pair_agreement(grades: Float64Array) -> float:
    """Share of pairs of grades of one item that are equal, averaged over items.

    Args:
        grades: [N, R], R grades of each item, NaN = missing; an item with one is left out.

    Returns:
        NaN where no item has two grades.
    """
    shares = []
    for row in grades:
        _, counts = np.unique(row[~np.isnan(row)], return_counts=True)
        n = counts.sum()
        if n > 1:
            shares.append(float((counts * (counts - 1)).sum() / (n * (n - 1))))
    return float(np.mean(shares)) if shares else float("nan")


def krippendorff_alpha(grades: Float64Array) -> float:
    """Krippendorff's alpha, interval metric (a - b)^2: 1 - observed / expected disagreement.

    Observed is within items, expected between all grades; 1 = repeats agree, 0 = they are no closer
    than grades of different items. Missing grades are left out as the definition says.
    Krippendorff 2011, "Computing Krippendorff's alpha-reliability".

    Args:
        grades: [N, R], NaN = missing.

    Returns:
        NaN where fewer than two different grades stand beside another of their item.
    """
    counts = (~np.isnan(grades)).sum(axis=1)
    grades = grades[counts > 1]
    counts = counts[counts > 1]
    every = grades[~np.isnan(grades)]
    if every.size == 0 or np.ptp(every) == 0:
        return float("nan")
    # The sum of (a - b)^2 over ordered pairs of m numbers is 2 m^2 times their variance.
    within = float((2 * counts**2 * np.nanvar(grades, axis=1) / (counts - 1)).sum())
    between = float(2 * every.size**2 * every.var() / (every.size - 1))
    return 1.0 - within / between


def _binomials(n: int) -> Float64Array:
    """C(n, 0..n)."""
    return np.array([math.comb(n, k) for k in range(n + 1)], dtype=np.float64)
