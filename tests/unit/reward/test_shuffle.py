"""Shuffled scores: the same ones of a problem, at other places, and nothing else changed."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from exprl.reward.shuffle import shuffle_scores
from exprl.types import Rollout, Scored, Segment

GRADES = (1, 2, 3, 4, 5)


def graded(problem_id: str, index: int, grades, **changes) -> Scored:
    nothing = np.zeros(0, dtype=np.int32)
    rollout = Rollout(
        problem_id, index, nothing, nothing, nothing.astype(np.float32), "stop", nothing
    )
    one = Scored(
        rollout,
        tuple(Segment(0, 0, "step") for _ in grades),
        tuple(grades),
        tuple(None if g is None else (g - 1) / 4 for g in grades),
        None,
        statuses=tuple("ok" for _ in grades),
        ledger_keys=tuple(f"{problem_id}/{index}/{t}/{g}" for t, g in enumerate(grades)),
    )
    return replace(one, **changes)


@pytest.fixture
def step():
    return [graded(p, i, GRADES) for p in ("a", "b") for i in range(6)]


def test_each_problem_keeps_its_own_scores_and_deals_them_to_other_places(step):
    step[0] = graded("a", 0, (5, 5, 5, 5, 5))
    dealt = shuffle_scores(step, seed=0, step=3)
    for problem in ("a", "b"):
        before, after = (
            [s for one in scored if one.rollout.problem_id == problem for s in one.scores]
            for scored in (step, dealt)
        )
        assert Counter(after) == Counter(before)
        assert after != before
    assert [one.rollout for one in dealt] == [one.rollout for one in step]


def test_rollouts_and_steps_are_both_crossed(step):
    keys = [key.split("/") for key in shuffle_scores(step, seed=0, step=0)[0].ledger_keys]
    assert len({index for _, index, _, _ in keys}) > 1
    assert [int(t) for _, _, t, _ in keys] != list(range(5))


def test_the_grade_and_the_words_go_with_the_score(step):
    for one in shuffle_scores(step, seed=0, step=0):
        for score, grade, key in zip(one.scores, one.grades, one.ledger_keys, strict=True):
            assert score == (grade - 1) / 4
            assert key.endswith(f"/{grade}")


def test_missing_scores_and_those_that_are_no_judgement_stay(step):
    step[1] = graded("a", 1, (None, 2, 3, 4, 5))
    step[2] = graded("a", 2, (1, 1, 1, 1, 1), overlong=True)
    step[3] = graded("a", 3, (1, 1, 1, 1, 1), masked=True)
    dealt = shuffle_scores(step, seed=0, step=0)
    assert [i for i, one in enumerate(dealt) if None in one.scores] == [1]
    assert dealt[1].scores[0] is None
    assert dealt[2].ledger_keys == step[2].ledger_keys
    assert dealt[3].ledger_keys == step[3].ledger_keys
    assert Counter(s for one in dealt for s in one.scores) == Counter(
        s for one in step for s in one.scores
    )


def test_the_same_seed_and_step_deal_the_same_and_others_do_not(step):
    def deal(seed, number):
        return [one.scores for one in shuffle_scores(step, seed, number)]

    assert deal(0, 4) == deal(0, 4)
    assert deal(0, 4) != deal(0, 5)
    assert deal(0, 4) != deal(1, 4)


def test_the_verifiers_scores_have_no_grades_to_go_with_them():
    step = [
        replace(
            graded("a", i, (1,)), grades=(), scores=(float(i % 2),), statuses=(), ledger_keys=()
        )
        for i in range(8)
    ]
    dealt = shuffle_scores(step, seed=0, step=0)
    assert sum(one.scores[0] for one in dealt) == 4.0
    assert all(one.grades == () and one.statuses == () for one in dealt)
