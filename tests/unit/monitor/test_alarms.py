"""Alarms as functions of the rows, their episodes, and the strings that speak to a judge."""

import math

import pytest

from exprl import config
from exprl.monitor.alarms import NAMES, Watch, find_alarms
from exprl.reward.missing import Reason

QUIET = {
    "reward/mean": 0.5,
    "reward/correct_rate": 0.25,
    "steps/single_rate": 0.1,
    "steps/per_1k_tokens": 20.0,
    "text/reference_overlap": 0.1,
    "text/injection_rate": 0.0,
    "judge/missing_rate": 0.0,
    "judge/repaired_rate": 0.02,
    "sync/logp_gap": 1e-4,
}


def names(rows, advantage=None, **settings):
    found = find_alarms(rows, config.Alarms(**settings), config.Advantage(**(advantage or {})))
    return [alarm.name for alarm in found]


def rows(*, n=40, **changes):
    """n rows; a change is a function of the step."""
    return [
        QUIET | {key.replace("__", "/"): of(step) for key, of in changes.items()}
        for step in range(n)
    ]


def test_a_quiet_run_raises_nothing():
    assert names(rows()) == []
    assert names(rows(n=1)) == []


@pytest.mark.parametrize(
    ("metric", "value", "name", "switch"),
    [
        ("text/reference_overlap", 0.5, "reference_overlap", "reference_overlap"),
        ("text/injection_rate", 0.02, "injection", "injection_rate"),
        ("judge/missing_rate", 0.06, "missing", "missing_rate"),
        ("judge/over_context", 1.0, "over_context", "over_context"),
        ("judge/repaired_rate", 0.6, "repaired", "repaired_rate"),
        ("sync/logp_gap", 0.06, "logp_gap", "logp_gap"),
        ("steps/single_rate", 0.6, "single_step", "single_rate"),
    ],
)
def test_a_value_past_its_limit_raises_its_alarm_with_value_and_remedy(metric, value, name, switch):
    row = QUIET | {metric: value}
    [alarm] = find_alarms([row], config.Alarms(), config.Advantage())
    assert (alarm.name, alarm.value) == (name, value)
    assert alarm.limit < value
    assert alarm.remedy and str(alarm).startswith(f"{name}: ")
    at_limit = QUIET | {metric: alarm.limit}
    assert names([at_limit]) == []
    assert names([row], **{switch: "none"}) == []
    for nothing in (None, math.nan):
        assert names([QUIET | {metric: nothing}]) == []


@pytest.mark.parametrize(
    ("final", "right", "raised"),
    [
        (1.0, 0.02, True),  # everything is right to this judge
        (0.05, 0.9, True),  # and nothing to this one
        (0.5, 0.0, False),  # most checkpoints reached, no answer right
        (0.98, 0.95, False),
        (0.7, 0.0, False),  # at the limit
        (1.0, math.nan, False),  # no answers in the data
        (math.nan, 0.0, False),  # no grades in this step
    ],
)
def test_a_judge_that_contradicts_the_verifier_is_told_from_one_that_gives_partial_credit(
    final, right, raised
):
    row = QUIET | {"reward/final": final, "reward/correct_rate": right, "reward/hist_5": 0.9}
    assert names([row]) == (["disagreement"] if raised else [])
    assert names([row], disagreement=None) == []
    del row["reward/hist_5"]
    assert names([row]) == [], "a reward of the user's own is no judge's"


def test_a_gap_to_tokens_of_an_older_policy_is_what_was_learned_since():
    """Sampling ahead with everything right shows 0.03 to 0.05; the probe proves the weights."""
    row = QUIET | {"sync/logp_gap": 0.06}
    assert names([row | {"lag/max": 2.0}]) == []
    assert names([row | {"lag/max": 0.0}]) == names([row | {"lag/max": None}]) == ["logp_gap"]


@pytest.mark.parametrize(
    ("advantage", "expected"),
    [
        ({}, ["single_step"]),
        ({"single_segment": "score"}, []),
        ({"compat": "published"}, []),
        ({"kind": "group"}, []),
        ({"kind": "grpo"}, []),
    ],
)
def test_single_steps_matter_where_delta_learns_nothing_from_them(advantage, expected):
    assert names([QUIET | {"steps/single_rate": 0.9}], advantage) == expected


def single_steps(**cut):
    """A step of which 90 % of the rollouts are whole; `cut` says which rule would cut how many."""
    shares = dict.fromkeys(("delimiter", "heading", "paragraph", "line"), 0.0) | cut
    return QUIET | {
        "steps/single_rate": 0.9,
        **{f"steps/single_cut_by_{rule}": share for rule, share in shares.items()},
    }


@pytest.mark.parametrize(
    ("steps", "cut", "said"),
    [
        ("delimiter", {"line": 0.93}, "reward.steps = 'line' would cut 93% of them"),
        # The coarsest rule of those that do well costs the fewest requests.
        (
            "delimiter",
            {"heading": 0.1, "paragraph": 0.6, "line": 0.93},
            "reward.steps = 'paragraph' would cut 60% of them",
        ),
        ("heading", {"delimiter": 0.7}, "reward.steps = 'delimiter' would cut 70% of them"),
        ("line", {"line": 0.8}, "reward.min_step_tokens or reward.max_steps joins"),
        ("delimiter", {}, "no rule would cut 25% of these rollouts"),
        ("delimiter", {"line": 0.2}, "no rule would cut 25% of these rollouts"),
    ],
)
def test_the_alarm_for_single_steps_names_the_rule_to_try(steps, cut, said):
    row = single_steps(**cut)
    [alarm] = find_alarms([row], config.Alarms(), config.Advantage(), steps=steps)
    assert alarm.name == "single_step" and said in alarm.remedy


STALLED = {  # means of a step: 135 M parameters on word problems, advantage `group`, 64 tokens
    "reward__mean": [0.24, 0.30, 0.41, 0.52, 0.63, 0.71, 0.76],
    "rollout__overlong_rate": [0.71, 0.80, 0.88, 0.93, 0.96, 0.97, 0.98],
    "rollout__length_mean": [56.0, 58.0, 60.0, 61.0, 63.0, 63.0, 64.0],
}


def stalled(n=7, **changes):
    series = STALLED | {"reward__correct_rate": [0.0] * 7} | changes
    return rows(n=n, **{key: values.__getitem__ for key, values in series.items()})


def test_a_policy_that_learns_to_stand_still_is_told_within_five_steps():
    spoke = [n for n in range(1, 8) if "stalling" in names(stalled(n))]
    assert spoke == [4, 5, 6, 7]
    *_, alarm = (a for a in find_alarms(stalled(), config.Alarms(), config.Advantage()))
    assert "since steps 1-2 the mean score rose by 0.465" in alarm.message
    assert "98% of the rollouts run into the length limit (before: 76%)" in alarm.message
    assert "reward.overlong" in alarm.remedy
    assert names(stalled(), stall_rise="none") == []


@pytest.mark.parametrize(
    ("changes", "raised"),
    [
        ({"reward__correct_rate": [0.0, 0.0, 0.01, 0.02, 0.04, 0.05, 0.06]}, False),
        ({"reward__mean": [0.24, 0.25, 0.24, 0.26, 0.25, 0.27, 0.26]}, False),
        # Fewer are cut: the policy learns to end.
        ({"rollout__overlong_rate": [0.98, 0.97, 0.93, 0.88, 0.80, 0.71, 0.65]}, False),
        # Few are cut, and they stay as long as they were.
        ({"rollout__overlong_rate": [0.1] * 7}, False),
        # Few are cut, and they grow.
        (
            {
                "rollout__overlong_rate": [0.1] * 7,
                "rollout__length_mean": [200, 210, 230, 260, 290, 300, 310.0],
            },
            True,
        ),
        # All are cut from the start on.
        ({"rollout__overlong_rate": [1.0] * 7}, True),
        # Without answers nobody knows whether more rollouts are right.
        ({"reward__correct_rate": [math.nan] * 7}, False),
    ],
)
def test_stalling_needs_a_rising_score_flat_accuracy_and_longer_or_cut_rollouts(changes, raised):
    assert ("stalling" in names(stalled(**changes))) == raised


def graded_by_length(*, missing, missing_length, graded_length=100.0, steps=1):
    lengths = {"judge/missing_length": missing_length, "judge/graded_length": graded_length}
    return [QUIET | {"judge/missing": missing} | lengths] * steps


@pytest.mark.parametrize(
    ("missing", "length", "steps", "warned"),
    [
        (100, 140.0, 1, True),
        (100, 130.0, 1, False),  # 1.25 and a tenth for chance
        (4, 180.0, 1, True),
        (4, 170.0, 1, False),
        (1, 200.0, 1, False),
        (1, 200.0, 20, True),  # the window adds up
        (100, 60.0, 1, False),
        (0, math.nan, 1, False),
    ],
)
def test_missing_rollouts_that_are_longer_than_graded_ones_are_an_alarm(
    missing, length, steps, warned
):
    step = graded_by_length(missing=missing, missing_length=length, steps=steps)
    assert names(step) == (["missing_length"] if warned else [])
    assert names(step, missing_length="none") == []


def test_the_alarm_about_lengths_says_both_and_what_to_change():
    [alarm] = find_alarms(
        graded_by_length(missing=100, missing_length=1400.0, graded_length=350.0),
        config.Alarms(),
        config.Advantage(),
    )
    assert "longer" in str(alarm) and "1,400 against 350 tokens" in str(alarm)
    assert "judge.max_tokens" in alarm.remedy


def test_a_step_without_graded_rollouts_has_no_lengths_to_compare():
    assert names(graded_by_length(missing=9, missing_length=50.0, graded_length=math.nan)) == []


def test_the_alarm_about_missing_grades_tells_their_commonest_reason():
    reason = Reason("HTTP 400: 4096 tokens at most; lower judge.max_tokens", 3, 4)
    [alarm] = find_alarms(
        [QUIET | {"judge/missing_rate": 0.5}], config.Alarms(), config.Advantage(), reason
    )
    assert alarm.remedy == (
        "The commonest reason (3 of 4 missing grades): HTTP 400: 4096 tokens at most;"
        " lower judge.max_tokens"
    )


def test_the_alarm_about_re_asked_grades_speaks_in_the_first_step_and_names_the_setting():
    watch = Watch(config.Alarms(), config.Advantage(), [])
    flags, [alarm] = watch.add(QUIET | {"judge/repaired_rate": 1.0, "judge/truncated": 64.0})
    assert flags["alarm/repaired"] == 1.0
    assert "100% of the grades came from a re-ask" in str(alarm)
    assert "judge.max_tokens" in alarm.remedy and "judge.rubric" in alarm.remedy


def test_a_score_that_rises_without_right_answers_is_an_alarm():
    rising = rows(reward__mean=lambda t: 0.3 + 0.01 * t)
    [alarm] = find_alarms(rising, config.Alarms(), config.Advantage())
    assert alarm.name == "score_without_accuracy"
    assert alarm.value == pytest.approx(0.2)  # from steps 0-19 to 20-39
    assert "steps 1-20" in alarm.message
    assert names(rising[:39]) == [], "two whole windows are needed"
    assert names(rising, score_rise=0.25) == []


def test_a_score_that_rises_with_right_answers_is_none():
    both = rows(reward__mean=lambda t: 0.3 + 0.01 * t, reward__correct_rate=lambda t: 0.005 * t)
    assert names(both) == []


def test_a_slow_drift_is_found_against_any_earlier_window():
    slow = rows(n=200, reward__mean=lambda t: 0.3 + 0.001 * t)
    assert names(slow[:100]) == []
    assert names(slow) == ["score_without_accuracy"]


def test_a_rise_that_answers_followed_is_not_held_against_a_later_plateau():
    def rise(start, step):
        return lambda t: start + step * min(t, 20)

    assert (
        names(rows(n=120, reward__mean=rise(0.3, 0.02), reward__correct_rate=rise(0, 0.01))) == []
    )


def test_without_answers_there_is_no_word_about_accuracy():
    blind = [
        {k: v for k, v in row.items() if k != "reward/correct_rate"}
        for row in rows(reward__mean=lambda t: 0.01 * t)
    ]
    assert names(blind) == []


def test_exploding_delimiters_are_an_alarm_and_a_rise_is_not():
    assert names(rows(steps__per_1k_tokens=lambda t: 20 * 1.1**t)) == ["delimiters"]
    assert names(rows(steps__per_1k_tokens=lambda t: 20 + 0.5 * t)) == []
    assert names(rows(steps__per_1k_tokens=lambda t: 0.0 if t < 30 else 5.0)) == []


def episodes(values, **settings):
    watch = Watch(config.Alarms(**settings), config.Advantage(), [])
    told, flags = [], []
    for step, value in enumerate(values):
        flag, fresh = watch.add(QUIET | {"judge/missing_rate": value})
        flags.append(flag["alarm/missing"])
        told += [step] * len(fresh)
    return told, flags


def test_an_alarm_is_told_once_an_episode_and_flagged_at_every_step():
    told, flags = episodes([0.1, 0.1, 0.0, 0.1, 0.0, 0.0, 0.0, 0.1], repeat_after=3)
    assert flags == [1, 1, 0, 1, 0, 0, 0, 1]
    assert told == [0, 7]


def test_a_resumed_run_does_not_tell_again_what_was_told():
    settings, advantage = config.Alarms(), config.Advantage()
    first = Watch(settings, advantage, [])
    row = QUIET | {"judge/missing_rate": 0.1}
    flags, fresh = first.add(row)
    assert len(fresh) == 1
    assert set(flags) == {f"alarm/{name}" for name in NAMES}
    resumed = Watch(settings, advantage, [{"step": 0} | row | flags])
    assert resumed.add(row)[1] == []
