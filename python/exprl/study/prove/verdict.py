"""The rule of the verdict: effects, to yes, no or cannot tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from exprl.study.prove.effect import Effect

Answer = Literal["yes", "no", "cannot tell"]

CONTROLS = ("wrong", "shuffled", "sparse", "before")
"""What `right` is compared with: the other arms, and the policy before training."""
ERROR = 0.05
"""About the chance at most of a wrong `yes`, and of a wrong `no`: the bootstrap is approximate."""
LEAST_SEEDS = 2
"""A single run says nothing about how much runs differ."""

MEANS = {
    "wrong": "the judge grades as usefully with references of other problems, so that what it knows"
    " of them does not matter here",
    "shuffled": "grades dealt at random teach as much, so that what the judge says does not matter"
    " here",
    "sparse": "the verifier's 0 or 1 teaches as much without any reference",
    "before": "the policy does not get better within this budget",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer, with its reasons in sentences."""

    answer: Answer
    reasons: tuple[str, ...]
    effects: tuple[Effect, ...]


def interval_level(seeds: int) -> float:
    """The level of every interval, so that all looks together keep ERROR.

    A look comes after each seed from LEAST_SEEDS on. A wrong `no` needs one of the upper ends to be
    wrong, at one of the looks: so each may be wrong with ERROR / (looks x controls) on its side.

    >>> round(interval_level(3), 4)
    0.9875
    """
    looks = max(1, seeds - LEAST_SEEDS + 1)
    return 1.0 - 2.0 * ERROR / (looks * len(CONTROLS))


def decide(effects: Sequence[Effect], least: float) -> Verdict:
    """Yes, no or cannot tell.

    Args:
        effects: against each of CONTROLS, with intervals of `interval_level`.
        least: the smallest effect that would matter to the user.
    """
    if any(one.seeds < LEAST_SEEDS for one in effects):
        said = f"one seed shows no difference between runs; {LEAST_SEEDS} are the least"
        return Verdict("cannot tell", (said,), tuple(effects))
    small = [one for one in effects if one.high < least]
    if small:
        # Where nothing was learned, that no control does better follows.
        told = [one for one in small if one.control == "before"] or small
        reasons = [f"{_against(one)}, less than {least:g}: {MEANS[one.control]}" for one in told]
        return Verdict("no", tuple(reasons), tuple(effects))
    unclear = [one for one in effects if one.low <= 0.0]
    if unclear:
        return Verdict(
            "cannot tell", tuple(_say_unclear(one, least) for one in unclear), tuple(effects)
        )
    return Verdict("yes", tuple(_against(one) for one in effects), tuple(effects))


def _against(one: Effect) -> str:
    return (
        f"right - {one.control} is {one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f}) in held-out"
        " pass@1"
    )


def _say_unclear(one: Effect, least: float) -> str:
    """Why an effect is unclear, and about how many problems would settle it."""
    half = (one.high - one.low) / 2.0
    wanted = max(abs(one.value), least) / 1.5
    more = ""
    if half > wanted:
        needed = round(one.problems * (half / wanted) ** 2, -1)
        more = f"; about {needed:,.0f} held-out problems might settle it, or more seeds"
    return f"{_against(one)}, which leaves open both none and {least:g} or more{more}"
