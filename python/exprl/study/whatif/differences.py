"""Two sets of scores and advantages of the same rollouts, to what differs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, get_args

import numpy as np

from exprl.learn.advantages import silent_groups
from exprl.types import Float64Array, Int64Array, Scored

Sign = Literal["-", "0", "+", "out"]
"""Of a token's advantage; `out` = its rollout is not trained on."""
SIGNS: tuple[Sign, ...] = get_args(Sign)
OUT = SIGNS.index("out")
NEARLY_ZERO = 1e-9
"""What the arithmetic leaves where an advantage is 0."""


class Pair(NamedTuple):
    """A number of the run, and the same under the other settings; NaN where there is none."""

    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Counts:
    """Of all rollouts that were looked at.

    rollouts, groups: a group is the rollouts of one problem in one step.
    missing: rollouts without a usable score.
    masked: rollouts that `reward.overlong` keeps out of the loss.
    missing_steps: steps, or whole rollouts, that judge or engine left without grade and score.
    bridged_steps: steps without a score that are joined to the next one.
    silent_groups: groups that teach nothing, because no rollout of theirs has an advantage.
    reward: mean over the rollouts that are not out.
    """

    rollouts: int
    groups: int
    tokens: int
    missing: Pair
    masked: Pair
    missing_steps: Pair
    bridged_steps: Pair
    silent_groups: Pair
    reward: Pair


@dataclass(frozen=True, slots=True)
class ProblemDifference:
    """One problem, over all of its rollouts that were looked at.

    reward: mean over its rollouts that are not out.
    missing: its rollouts without a usable score.
    flipped: share of its tokens whose advantage changes its sign, of those trained on in both.
    change: mean over those tokens of |advantage after - before|.
    """

    problem_id: str
    domain: str
    rollouts: int
    reward: Pair
    missing: Pair
    flipped: float
    change: float


@dataclass(frozen=True, slots=True, eq=False)
class RolloutDifference:
    """One rollout: tokens, scores and advantages before and after.

    tokens: [P] int64, the tokens of each piece: within a piece, all of them have one advantage
        before and one after. Empty where there are no tokens.
    before, after: [P] float64, advantages of the pieces; NaN where the rollout is out.
    row: its place in the step's rollout file.
    was, scored: grades and scores before and after, without the texts.
    """

    step: int
    row: int
    tokens: Int64Array
    before: Float64Array
    after: Float64Array
    was: Scored
    scored: Scored

    @property
    def ends(self) -> Int64Array:
        """The token after each piece, [P]."""
        return np.cumsum(self.tokens)

    @property
    def in_both(self) -> bool:
        """Whether it is trained on in both."""
        return len(self.tokens) > 0 and not (np.isnan(self.before) | np.isnan(self.after)).any()


def lay_side_by_side(
    step: int,
    row: int,
    length: int,
    was: Scored,
    before: Float64Array,
    scored: Scored,
    after: Float64Array,
) -> RolloutDifference:
    """Advantages [T] before and after, spread over pieces of tokens: steps may be cut otherwise."""
    ends_before, values_before = _spread(was, before, length)
    ends_after, values_after = _spread(scored, after, length)
    ends = np.union1d(ends_before, ends_after)
    return RolloutDifference(
        step,
        row,
        np.diff(ends, prepend=0),
        values_before[np.searchsorted(ends_before, ends)],
        values_after[np.searchsorted(ends_after, ends)],
        replace(was, segments=(), statuses=(), ledger_keys=()),
        replace(scored, segments=(), statuses=(), ledger_keys=()),
    )


def _spread(scored: Scored, values: Float64Array, length: int) -> tuple[Int64Array, Float64Array]:
    """Where each advantage ends, and its value; one that holds for the whole rollout ends there."""
    if length == 0:
        return np.empty(0, np.int64), np.empty(0)
    if len(values) == 0 or np.isnan(values).any():  # out: it is so for all of its tokens
        return np.array([length]), np.array([np.nan])
    if len(values) == 1:
        return np.array([length]), values
    ends = np.array([segment.end for segment in scored.segments], dtype=np.int64)
    if len(ends) != len(values):
        raise ValueError(f"{len(values)} advantages for the {len(ends)} steps of a rollout")
    filled = np.diff(ends, prepend=0) > 0  # a step without tokens teaches nothing
    return ends[filled], values[filled]


def correlation(x: Float64Array, y: Float64Array, weights: Float64Array | None = None) -> float:
    """Pearson's r, weighted; NaN where either does not vary."""
    w = np.ones(len(x)) if weights is None else weights
    if w.sum() == 0:
        return math.nan
    x, y = x - np.average(x, weights=w), y - np.average(y, weights=w)
    spreads = [math.sqrt(np.average(side * side, weights=w)) for side in (x, y)]
    # Where all values are equal, arithmetic leaves a rest, which correlates with anything.
    if min(spreads) < NEARLY_ZERO:
        return math.nan
    return float(np.average(x * y, weights=w)) / (spreads[0] * spreads[1])


@dataclass
class Differences:
    """Takes rollouts step by step, and sums up."""

    rollouts: list[RolloutDifference] = field(default_factory=list)
    groups: int = 0
    silent: list[int] = field(default_factory=lambda: [0, 0])

    def add(self, step: Sequence[RolloutDifference]) -> None:
        """Take the rollouts of a step, groups together."""
        self.rollouts += step
        was = [one.was for one in step]
        self.groups += len({one.rollout.problem_id for one in was})
        self.silent[0] += len(silent_groups(was, [one.before for one in step]))
        self.silent[1] += len(silent_groups(was, [one.after for one in step]))

    def count(self) -> Counts:
        """What there is of everything, before and after."""
        was = [one.was for one in self.rollouts]
        scored = [one.scored for one in self.rollouts]

        def both(number: str) -> Pair:
            return Pair(*(sum(getattr(s, number) for s in side) for side in (was, scored)))

        return Counts(
            rollouts=len(self.rollouts),
            groups=self.groups,
            tokens=sum(int(one.tokens.sum()) for one in self.rollouts),
            missing=both("missing"),
            masked=both("masked"),
            missing_steps=both("ungraded_steps"),
            bridged_steps=both("bridged_steps"),
            silent_groups=Pair(*self.silent),
            reward=Pair(_mean_reward(was), _mean_reward(scored)),
        )

    def transitions(self) -> Int64Array:
        """Tokens by the sign of their advantage before and after, [4, 4], as `SIGNS` stand."""
        counts = np.zeros((4, 4), np.int64)
        for one in self.rollouts:
            np.add.at(counts, (_signs(one.before), _signs(one.after)), one.tokens)
        return counts

    def token_correlation(self) -> float:
        """Pearson's r of the advantages of the tokens that are trained on in both."""
        both = [one for one in self.rollouts if one.in_both]
        if not both:
            return math.nan
        columns = ([getattr(one, name) for one in both] for name in ("before", "after", "tokens"))
        return correlation(*(np.concatenate(column).astype(np.float64) for column in columns))

    def rollout_correlation(self) -> float:
        """Pearson's r over rollouts of the mean advantage of their tokens."""
        both = [one for one in self.rollouts if one.in_both]
        means = [
            [float(np.average(side, weights=one.tokens)) for side in (one.before, one.after)]
            for one in both
        ]
        x, y = np.array(means).reshape(-1, 2).T
        return correlation(x, y)

    def problems(self) -> list[ProblemDifference]:
        """Problem by problem, the largest change of advantages first."""
        by_problem: dict[tuple[str, str], list[RolloutDifference]] = {}
        for one in self.rollouts:
            key = (one.was.domain, one.was.rollout.problem_id)
            by_problem.setdefault(key, []).append(one)
        found = [_problem(name, domain, own) for (domain, name), own in by_problem.items()]
        return sorted(found, key=lambda p: (math.isnan(p.change), -p.change, p.problem_id))


def flipped_share(transitions: Int64Array) -> float:
    """Share of the tokens trained on in both whose advantage changes from + to - or back."""
    both = int(transitions[:OUT, :OUT].sum())
    flipped = int(transitions[0, 2] + transitions[2, 0])
    return flipped / both if both else math.nan


def _problem(name: str, domain: str, own: Sequence[RolloutDifference]) -> ProblemDifference:
    part = Differences(list(own))
    both = [one for one in own if one.in_both]
    tokens = sum(int(one.tokens.sum()) for one in both)
    change = sum(float((np.abs(one.after - one.before) * one.tokens).sum()) for one in both)
    return ProblemDifference(
        problem_id=name,
        domain=domain,
        rollouts=len(own),
        reward=Pair(_mean_reward(o.was for o in own), _mean_reward(o.scored for o in own)),
        missing=Pair(sum(o.was.missing for o in own), sum(o.scored.missing for o in own)),
        flipped=flipped_share(part.transitions()),
        change=change / tokens if tokens else math.nan,
    )


def _mean_reward(scored: Iterable[Scored]) -> float:
    rewards = [s.reward for s in scored if s.reward is not None]
    return sum(rewards) / len(rewards) if rewards else math.nan


def _signs(advantages: Float64Array) -> Int64Array:
    signs = np.where(np.abs(advantages) < NEARLY_ZERO, 0, np.sign(advantages)) + 1
    return np.where(np.isnan(advantages), OUT, signs).astype(np.int64)
