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
    ("advantage", "expected"),
    [
        ({}, ["single_step"]),
        ({"single_segment": "score"}, []),
        ({"kind": "group"}, []),
        ({"kind": "grpo"}, []),
    ],
)
def test_single_steps_matter_where_delta_learns_nothing_from_them(advantage, expected):
    assert names([QUIET | {"steps/single_rate": 0.9}], advantage) == expected


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
