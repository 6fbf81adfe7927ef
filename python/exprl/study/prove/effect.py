"""The effect of one arm over another, with an interval that counts problems and seeds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from exprl.evaluate.estimates import resampled_counts
from exprl.types import Float64Array

RESAMPLINGS = 4000


@dataclass(frozen=True, slots=True)
class Effect:
    """Held-out pass@1 of `right` minus that of a control.

    value: mean over problems and seeds.   low, high: its interval at the plan's level.
    seeds, problems: over how many it is taken.
    """

    control: str
    value: float
    low: float
    high: float
    seeds: int
    problems: int


def estimate_effect(
    control: str, ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64], level: float
) -> Effect:
    """The mean difference, and its interval by a paired bootstrap over problems and over seeds.

    Seeds and problems are drawn with replacement, independently of each other (Owen 2007,
    arXiv 0712.1111: the pigeonhole bootstrap): a run's luck is common to all its problems, and a
    problem's difficulty to all runs. Two corrections keep the interval honest where there is
    little data:

    - S seeds are drawn S at a time, which makes their spread too small by (S - 1) / S; the
      deviations of the seeds' means are stretched by sqrt(S / (S - 1)).
    - Where no problem differs, resampling sees no spread. Two imaginary problems are added, one at
      +1 and one at -1, as Agresti and Min (Statistics in Medicine 24, 2005) do for matched pairs.

    Args:
        ours, theirs: [S, P], pass@1 of each problem in the run of each seed; NaN where no sample
            counts, and then the problem is left out.
        level: of the interval, in (0, 1).

    Raises:
        ValueError: the shapes differ, or no problem is left.
    """
    if ours.shape != theirs.shape or ours.ndim != 2:
        raise ValueError(f"effect of {ours.shape} and {theirs.shape}: needs [S, P] twice")
    gaps = ours - theirs
    gaps = gaps[:, ~np.isnan(gaps).any(axis=0)]
    seeds, problems = gaps.shape
    if problems == 0 or seeds == 0:
        raise ValueError(f"effect against {control}: no problem has samples in every run")
    means = _resample(gaps)
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(means, (tail, 1.0 - tail))
    return Effect(control, float(gaps.mean()), float(low), float(high), seeds, problems)


def _resample(gaps: Float64Array) -> Float64Array:
    """Means over resampled seeds and problems, [B]; with the two corrections."""
    seeds, problems = gaps.shape
    stretch = np.sqrt(seeds / (seeds - 1)) - 1.0 if seeds > 1 else 0.0
    by_seed = gaps.mean(axis=1)
    stretched = gaps + stretch * (by_seed - by_seed.mean())[:, None]
    imaginary = np.tile([1.0, -1.0], (seeds, 1))
    values = np.hstack([stretched, imaginary])
    means: Float64Array = ((_shares(seeds, 1) @ values) * _shares(problems + 2, 0)).sum(axis=1)
    return means


@cache
def _shares(count: int, seed: int) -> Float64Array:
    """[B, count]: the share that each of `count` has in each resampling."""
    return resampled_counts(count, RESAMPLINGS, seed) / count
