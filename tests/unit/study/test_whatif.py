"""Two sets of advantages side by side: by token, by rollout, by problem."""

import math

import numpy as np
import pytest

from exprl.study.whatif.differences import (
    Differences,
    correlation,
    flipped_share,
    lay_side_by_side,
)
from exprl.study.whatif.recorded import draw_groups
from exprl.types import Rollout, Scored, Segment

NONE = np.empty(0, np.int32)


def scored(ends, scores, problem="p", index=0, **fields):
    starts = [0, *ends]
    segments = tuple(Segment(a, b, "") for a, b in zip(starts, ends, strict=False))
    rollout = Rollout(problem, index, NONE, NONE, np.empty(0, np.float32), "stop", NONE)
    return Scored(rollout, segments, (3,) * len(scores), tuple(scores), None, **fields)


def side_by_side(ends_before, before, ends_after, after, **fields):
    was = scored(ends_before, [0.5] * len(before), **fields)
    now = scored(ends_after, [0.5] * len(after), **fields)
    return lay_side_by_side(1, 0, ends_before[-1], was, np.array(before), now, np.array(after))


def sum_up(*rollouts):
    found = Differences()
    found.add(rollouts)
    return found


def test_steps_that_are_cut_elsewhere_meet_token_by_token():
    one = side_by_side([4, 10], [1.0, -1.0], [2, 6, 10], [0.5, 0.0, -0.5])
    assert one.ends.tolist() == [2, 4, 6, 10]
    assert one.tokens.tolist() == [2, 2, 2, 4]
    assert one.before.tolist() == [1.0, 1.0, -1.0, -1.0]
    assert one.after.tolist() == [0.5, 0.0, 0.0, -0.5]


def test_one_advantage_for_the_whole_rollout_holds_for_all_of_its_tokens():
    one = side_by_side([4, 10], [1.0, -1.0], [4, 10], [0.25])
    assert one.ends.tolist() == [4, 10]
    assert one.after.tolist() == [0.25, 0.25]


def test_tokens_are_counted_by_their_signs_and_a_flip_goes_from_plus_to_minus_or_back():
    found = sum_up(
        side_by_side([4, 10], [1.0, -1.0], [4, 10], [-1.0, -1.0]),
        side_by_side([5], [0.0], [5], [1e-12]),
        side_by_side([7], [math.nan], [7], [1.0]),
    )
    transitions = found.transitions()
    assert transitions.tolist() == [[6, 0, 0, 0], [0, 5, 0, 0], [4, 0, 0, 0], [0, 0, 7, 0]]
    assert flipped_share(transitions) == 4 / 15, "the rollout that was out does not count"
    assert math.isnan(flipped_share(sum_up().transitions()))


def test_a_correlation_weighs_tokens_and_is_unknown_where_nothing_varies():
    x, y, w = np.array([1.0, -1.0, 0.5]), np.array([2.0, -2.0, -9.0]), np.array([3.0, 3.0, 0.0])
    assert correlation(x, y, w) == pytest.approx(1.0)
    assert correlation(x, -y, w) == pytest.approx(-1.0)
    repeated = np.repeat(x, [1, 2, 3]), np.repeat(y, [1, 2, 3])
    weighted = correlation(x, y, np.array([1.0, 2.0, 3.0]))
    assert weighted == pytest.approx(np.corrcoef(*repeated)[0, 1])
    # 0.1 is no binary fraction: the mean of equal values leaves a rest.
    assert math.isnan(correlation(np.full(3, 0.1), y))
    assert math.isnan(correlation(np.empty(0), np.empty(0)))


def test_rollouts_correlate_by_the_mean_of_their_tokens():
    rollouts = [
        side_by_side([1, 10], [9.0, 0.0], [1, 10], [0.0, 0.1], index=0),
        side_by_side([10], [2.0], [10], [0.2], index=1),
        side_by_side([10], [math.nan], [10], [7.0], index=2),
    ]
    assert sum_up(*rollouts).rollout_correlation() == pytest.approx(1.0)
    assert sum_up(*rollouts).token_correlation() < 0.0


def test_problems_come_with_the_largest_change_first_and_those_without_one_last():
    found = sum_up(
        side_by_side([10], [0.0], [10], [0.1], problem="little"),
        side_by_side([2, 10], [0.0, 0.0], [2, 10], [1.0, -1.0], problem="much"),
        side_by_side([10], [math.nan], [10], [1.0], problem="out"),
    )
    problems = found.problems()
    assert [p.problem_id for p in problems] == ["much", "little", "out"]
    assert [p.change for p in problems[:2]] == pytest.approx([1.0, 0.1])
    assert math.isnan(problems[2].change)
    assert found.count().silent_groups == (3, 0)


def test_whole_groups_are_drawn_until_there_are_enough_rollouts():
    groups = [(step, f"p{i}", "math", 4) for step in (1, 2) for i in range(5)]
    drawn = draw_groups(groups, 9, seed=3)
    assert sum(map(len, drawn.values())) == 3
    assert drawn == draw_groups(groups, 9, seed=3) != draw_groups(groups, 9, seed=4)
    assert sum(map(len, draw_groups(groups, 1000, seed=0).values())) == 10
