"""Scored rollouts to advantages: what is joined, what is out, and what teaches nothing."""

import numpy as np
import pytest

from exprl import config
from exprl.learn.advantages import segment_advantages, silent_groups
from exprl.types import Rollout, Scored

NAN = float("nan")


def scored(name, scores, *, grades=None, bridge=True, masked=False, per_segment=True):
    one = Rollout(
        name,
        0,
        np.zeros(1, np.int32),
        np.zeros(2, np.int32),
        np.zeros(2, np.float32),
        "stop",
        np.zeros(2, np.int32),
    )
    grades = grades or tuple(None if s is None else round(1 + 4 * s) for s in scores)
    return Scored(
        one,
        (),
        grades,
        tuple(scores),
        None,
        masked=masked,
        per_segment=per_segment,
        bridge=bridge and per_segment,
    )


def values(items, kind="delta", **advantage):
    view = "prefix" if items[0].per_segment else "outcome"
    treatment = config.Treatment("math", "judge", 0.5, view, None, kind)
    settings = config.Advantage(kind=kind, **advantage)
    return [v.tolist() for v in segment_advantages(items, lambda domain: treatment, settings, 96)]


def test_a_missing_step_is_joined_and_a_missing_last_one_takes_the_rollout_out():
    group = [scored("p", (0.5, None, 1.0)), scored("p", (0.5, None))]
    found = values(group)
    assert found[0] == [-0.5, 0.5, 0.5]
    assert np.isnan(found[1]).all()
    assert [s.missing for s in group] == [False, True]
    assert [s.ungraded for s in group] == [False, True]
    assert [s.ungraded_steps for s in group] == [1, 1]
    assert [s.bridged_steps for s in group] == [1, 0]


def test_with_drop_any_missing_step_takes_the_rollout_out():
    group = [scored("p", (0.5, None, 1.0), bridge=False), scored("p", (0.0, 1.0), bridge=False)]
    found = values(group)
    assert np.isnan(found[0]).all()
    assert found[1] == [-1.0, 1.0]
    assert [s.missing for s in group] == [True, False]
    assert [s.bridged_steps for s in group] == [0, 0]


def test_a_score_that_the_map_leaves_out_is_joined_and_is_no_failure_of_the_judge():
    middle = scored("p", (0.0, None, 1.0), grades=(1, 3, 5))  # score_map = "extremes"
    last = scored("p", (0.0, None), grades=(None, 3))
    assert values([middle, last])[0] == [-1.0, 1.0, 1.0]
    assert (middle.ungraded_steps, middle.bridged_steps) == (0, 1)
    assert last.missing
    assert not last.ungraded  # its last grade is there


def test_one_score_per_rollout_is_never_joined():
    group = [scored("p", (None,), per_segment=False), scored("p", (0.5,), per_segment=False)]
    found = values(group, "dr_grpo")
    assert np.isnan(found[0]).all()
    assert found[1] == [0.0]


def test_a_masked_rollout_is_out_whatever_it_has():
    group = [scored("p", (0.0, 0.0), masked=True), scored("p", (0.0, 1.0))]
    assert np.isnan(values(group)[0]).all()
    assert group[0].bridged_steps == 0


def test_the_settings_of_the_section_reach_the_equation():
    group = [scored("p", (s,), per_segment=False) for s in (0.5, 0.501)]
    assert values(group, "grpo") == [[pytest.approx(-0.01, 1e-3)], [pytest.approx(0.01, 1e-3)]]
    assert values(group, "grpo", std_floor=0.0)[1][0] > 0.7
    assert values(group, "grpo", compat="published")[1][0] > 0.7
    steps = [scored("p", (0.0, 1.0)), scored("p", (0.0, 0.0))]
    light, heavy = (values(steps, "step+outcome", outcome_weight=weight) for weight in (0.0, 1.0))
    assert heavy[0][0] - light[0][0] == pytest.approx(0.5 / (0.5**0.5 + 1e-6))


def test_groups_whose_advantages_are_all_noise_are_silent():
    arrays = [np.array(a) for a in ([0.0, 0.0], [0.002], [-0.3, 0.3], [0.0], [NAN], [NAN, NAN])]
    items = [scored(name, (0.5,)) for name in "aabbcc"]
    assert silent_groups(items, arrays) == [[0, 1], [4, 5]]
    assert silent_groups([], []) == []


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "rloo"])
def test_equal_solutions_with_a_noisy_readout_are_a_silent_group(kind):
    noisy = [scored("a", (0.75 + i * 1e-4,), per_segment=False) for i in range(4)]
    differ = [scored("b", (s,), per_segment=False) for s in (0.75, 0.75, 0.75, 0.5)]
    items = noisy + differ
    found = [np.array(v) for v in values(items, kind)]
    assert silent_groups(items, found) == [[0, 1, 2, 3]]
