"""From scores to advantages, and from two words to one score."""

import math

import numpy as np
import pytest
from case_files import Case, every_line

from exprl import config
from exprl.advantage import advantages
from exprl.reward.scorer import combine_scores


def advantages_of(case: Case) -> list[float | None]:
    """Advantages of every step, in order; None where they are missing."""
    groups = [[one if isinstance(one, list) else [one] for one in g] for g in case["groups"]]
    rollouts = [rollout for group in groups for rollout in group]
    scores = [math.nan if score is None else score for rollout in rollouts for score in rollout]
    segments = np.cumsum([0, *map(len, rollouts)])
    starts = np.cumsum([0, *map(len, groups)])
    found = advantages(scores, segments, starts, case["kind_of_advantage"])
    return [None if math.isnan(one) else float(one) for one in found]


@every_line("scores.jsonl")
def test_advantages_are_those_of_the_equation_and_not_of_noise(number, case):
    found, wanted = advantages_of(case), case["expected"]
    if isinstance(wanted, dict):
        missing = [i for i, one in enumerate(found) if one is None]
        assert missing == wanted.get("missing", missing)
        assert max(abs(one) for one in found if one is not None) <= wanted["max_abs"]
    else:
        assert [one is None for one in found] == [one is None for one in wanted]
        near = pytest.approx([one for one in wanted if one is not None], abs=1e-3)
        assert [one for one in found if one is not None] == near


@every_line("joined.jsonl")
def test_only_what_could_change_a_joined_score_is_needed(number, case):
    keys = {"verifier": "math", "view": "outcome", "rubric": None, "advantage": "grpo"}
    treatment = config.Treatment(**keys | case["treatment"])
    (score,) = combine_scores(treatment, tuple(case["judged"]), case["correct"])
    assert score == (None if case["expected"] is None else pytest.approx(case["expected"]))
