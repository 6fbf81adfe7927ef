"""The equations of the advantages, as cases computed by hand and as laws."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exprl.advantage import AdvantageKind, Missing, OutcomeKind, ProcessKind, advantages

NAN = float("nan")
OUT = NAN  # what a rollout that is out gets
EPS = 1e-6
Group = list[list[float]]  # rollouts of scores


def run(groups: list[Group], kind: AdvantageKind, **settings: object) -> list[list[float]]:
    rollouts = [rollout for group in groups for rollout in group]
    seg_off = np.cumsum([0, *(len(rollout) for rollout in rollouts)])
    group_off = np.cumsum([0, *(len(group) for group in groups)])
    scores = [score for rollout in rollouts for score in rollout]
    values = advantages(scores, seg_off, group_off, kind, **settings)  # type: ignore[arg-type]
    return [part.tolist() for part in np.split(values, seg_off[1:-1])]


def check(found: list[list[float]], expected: list[list[float]]) -> None:
    assert [len(rollout) for rollout in found] == [len(rollout) for rollout in expected]
    np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), atol=1e-12)


OUTCOME_CASES: list[tuple[str, list[Group], AdvantageKind, list[list[float]]]] = [
    # mean (1 + 0) / 2, std sqrt((1/4 + 1/4) / 1)
    (
        "two",
        [[[1.0], [0.0]]],
        "grpo",
        [[(1 - 0.5) / (0.5**0.5 + EPS)], [(0 - 0.5) / (0.5**0.5 + EPS)]],
    ),
    # mean (1 + .5 + 0) / 3, std sqrt((1/4 + 0 + 1/4) / 2)
    (
        "three",
        [[[1.0], [0.5], [0.0]]],
        "grpo",
        [[0.5 / (0.5 + EPS)], [0.0], [-0.5 / (0.5 + EPS)]],
    ),
    ("ties", [[[0.75], [0.75], [0.75]]], "grpo", [[0.0], [0.0], [0.0]]),
    ("one valid", [[[0.75], [NAN]]], "grpo", [[0.0], [OUT]]),
    ("none valid", [[[NAN], [NAN]]], "grpo", [[OUT], [OUT]]),
    ("missing", [[[1.0], [NAN], [0.0]]], "dr_grpo", [[1 - 0.5], [OUT], [0 - 0.5]]),
    ("two groups", [[[1.0], [0.0]], [[0.5]]], "dr_grpo", [[1 - 0.5], [0 - 0.5], [0.5 - 0.5]]),
    (
        "three",
        [[[1.0], [0.5], [0.0]]],
        "rloo",
        [[1 - (0.5 + 0) / 2], [0.5 - (1 + 0) / 2], [0 - (1 + 0.5) / 2]],
    ),
    ("missing", [[[1.0], [NAN], [0.25]]], "rloo", [[1 - 0.25], [OUT], [0.25 - 1]]),
    ("one valid", [[[1.0], [NAN]]], "rloo", [[0.0], [OUT]]),
    # batch mean (1 + 0 + .5) / 3
    (
        "two groups",
        [[[1.0], [0.0]], [[0.5], [NAN]]],
        "reinforce",
        [[1 - 0.5], [0 - 0.5], [0.5 - 0.5], [OUT]],
    ),
    ("one valid", [[[0.75]]], "reinforce", [[0.75 - 0.75]]),
]


@pytest.mark.parametrize(
    ("groups", "kind", "expected"),
    [pytest.param(*case[1:], id=f"{case[2]}: {case[0]}") for case in OUTCOME_CASES],
)
def test_outcome_kinds_follow_their_equations(
    groups: list[Group], kind: AdvantageKind, expected: list[list[float]]
) -> None:
    check(run(groups, kind), expected)


PROCESS_CASES: list[tuple[str, list[Group], AdvantageKind, list[list[float]]]] = [
    ("three steps", [[[0.5, 1.0, 0.75]]], "delta", [[0.5 - 0.75, 1.0 - 0.5, 0.75 - 1.0]]),
    ("ties", [[[0.5, 0.5]]], "delta", [[0.5 - 0.5, 0.5 - 0.5]]),
    ("T = 1", [[[0.75]]], "delta", [[0.75 - 0.75]]),
    ("missing", [[[0.5, NAN, 1.0], [0.0, 1.0]]], "delta", [[OUT] * 3, [0 - 1, 1 - 0]]),
    ("three steps", [[[0.5, 1.0, 0.75]]], "end", [[0.5 - 0.75, 1.0 - 0.75, 0.75]]),
    ("T = 1", [[[0.75]]], "end", [[0.75]]),
    ("missing", [[[NAN], [0.25, 0.0]]], "end", [[OUT], [0.25 - 0, 0.0]]),
    # b = ((.5 + 1) / 2 + .25) / 2 = .5: each rollout counts once, however many steps it has
    ("two rollouts", [[[0.5, 1.0], [0.25]]], "group", [[0.5 - 0.5, 1 - 0.5], [0.25 - 0.5]]),
    # b = (.5 + 1) / 2, and 0 in the other group
    (
        "missing",
        [[[0.5, 1.0], [NAN, 0.0]], [[0.0]]],
        "group",
        [[0.5 - 0.75, 1 - 0.75], [OUT] * 2, [0.0]],
    ),
    ("one valid, T = 1", [[[0.5]]], "group", [[0.5 - 0.5]]),
    # b over both groups: ((.5 + 1) / 2 + .25) / 2 = .5
    (
        "two groups",
        [[[0.5, 1.0]], [[0.25], [NAN, 1.0]]],
        "batch",
        [[0.5 - 0.5, 1 - 0.5], [0.25 - 0.5], [OUT] * 2],
    ),
    ("two rollouts", [[[0.5, 1.0], [NAN]]], "raw", [[0.5, 1.0], [OUT]]),
    # .75 is a grade of 4
    ("an error", [[[1.0, 0.75, 0.5, 1.0]]], "first_error", [[1.0, 1.0, -1.0, 0.0]]),
    ("no error", [[[1.0, 0.75]]], "first_error", [[1.0, 1.0]]),
    ("error first", [[[0.7, 1.0], [NAN, 1.0]]], "first_error", [[-1.0, 0.0], [OUT] * 2]),
    # steps: mean .5, std sqrt((1/4 + 1/4 + 0 + 0) / 3); last scores: mean .75 of 1 and .5, std of
    # two that are .5 apart
    (
        "two rollouts",
        [[[0.0, 1.0], [0.5, 0.5], [1.0, NAN]]],
        "step+outcome",
        [
            [
                -0.5 / ((1 / 6) ** 0.5 + EPS) + 0.25 / (0.125**0.5 + EPS),
                0.5 / ((1 / 6) ** 0.5 + EPS) + 0.25 / (0.125**0.5 + EPS),
            ],
            [-0.25 / (0.125**0.5 + EPS)] * 2,
            [OUT] * 2,
        ],
    ),
    ("one step", [[[0.5]]], "step+outcome", [[0.0]]),
]


@pytest.mark.parametrize(
    ("groups", "kind", "expected"),
    [pytest.param(*case[1:], id=f"{case[2]}: {case[0]}") for case in PROCESS_CASES],
)
def test_process_kinds_follow_their_equations(
    groups: list[Group], kind: AdvantageKind, expected: list[list[float]]
) -> None:
    check(run(groups, kind), expected)


@pytest.mark.parametrize(
    ("mode", "first"),
    [
        ("zero", 1.0 - 1.0),
        ("score", 1.0),
        ("group", 1.0 - (1.0 + 0.5) / 2),  # the mean of the final scores 1 and .5
    ],
)
def test_a_single_step_under_delta_is_what_the_setting_says(mode: str, first: float) -> None:
    groups = [[[1.0], [0.25, 0.5], [NAN, 0.0]]]
    expected = [[first], [0.25 - 0.5, 0.5 - 0.25], [OUT] * 2]
    check(run(groups, "delta", single_segment=mode), expected)


def test_published_group_divides_the_baseline_by_the_padded_width() -> None:
    groups = [[[0.5, 1.0], [0.75]]]  # b = ((.5 + 1) / 2 + .75) / 2 = .75
    width = 16_384
    expected = [[0.5 - 0.75 / width, 1.0 - 0.75 / width], [0.75 - 0.75 / width]]
    found = run(groups, "group", compat="published", response_width=width)
    check(found, expected)
    assert min(min(rollout) for rollout in found) >= 0
    check(run(groups, "group", response_width=width), [[-0.25, 0.25], [0.0]])


def test_published_end_subtracts_the_last_score_from_the_last_step_too() -> None:
    groups = [[[0.5, 1.0, 0.75], [0.25]]]
    check(run(groups, "end", compat="published"), [[0.5 - 0.75, 1.0 - 0.75, 0.0], [0.0]])


def test_published_end_gives_a_rollout_cut_by_length_minus_its_last_score_everywhere() -> None:
    groups = [[[0.5, 1.0, 0.75], [0.5, 1.0]]]
    found = run(groups, "end", compat="published", overlong=[True, False])
    check(found, [[-0.75] * 3, [0.5 - 1.0, 0.0]])
    # Neither the paper's equation nor another kind asks what was cut.
    check(run(groups, "end", overlong=[True, True]), run(groups, "end"))
    check(run(groups, "delta", overlong=[True, True]), run(groups, "delta"))


def test_kinds_of_the_published_code_are_the_same_with_compat() -> None:
    groups = [[[0.5, 1.0], [0.25]], [[0.75]]]
    for kind in ("batch", "raw"):
        check(run(groups, kind, compat="published"), run(groups, kind))


NOISE = [  # grades read from probabilities: equal solutions, unequal digits behind the point
    [0.7462, 0.7471, 0.7459, 0.7466],
    [0.0, 0.0004, 0.0, 0.0002, 0.0001],
    [0.998, 0.9991, 1.0],
    [0.333333, 0.333334],
]


@pytest.mark.parametrize("noise", NOISE)
def test_equal_solutions_with_a_noisy_readout_have_advantages_near_zero(noise: list[float]) -> None:
    group = [[score] for score in noise]
    assert max(abs(a) for [a] in run([group], "grpo")) <= 0.05
    steps = run([[[score, score] for score in noise]], "step+outcome")
    assert max(abs(a) for rollout in steps for a in rollout) <= 0.1
    # Without the floor they are preferences of full size, as in the published code.
    for bare in ({"std_floor": 0.0}, {"compat": "published"}):
        assert max(abs(a) for [a] in run([group], "grpo", **bare)) > 0.25


def test_the_floor_leaves_a_real_difference_as_it_is() -> None:
    for group in ([[1.0], [0.0], [0.0], [0.0]], [[0.75]] + [[0.5]] * 15, [[0.75], [0.5]]):
        assert run([group], "grpo") == run([group], "grpo", std_floor=0.0)


def test_the_weight_of_the_outcome_scales_its_part_alone() -> None:
    groups = [[[0.5, 1.0], [0.25, 0.0], [1.0]]]
    none, one, two = (
        np.concatenate(run(groups, "step+outcome", outcome_weight=weight)) for weight in (0, 1, 2)
    )
    np.testing.assert_allclose(two - one, one - none)
    outcome = np.repeat(np.concatenate(run([[[1.0], [0.0], [1.0]]], "grpo")), [2, 2, 1])
    np.testing.assert_allclose(one - none, outcome)


def test_published_delta_gives_a_single_step_its_score() -> None:
    found = run([[[0.75], [0.25, 1.0]]], "delta", compat="published")
    check(found, [[0.75], [0.25 - 1.0, 1.0 - 0.25]])


def test_a_rollout_without_steps_is_out() -> None:
    check(run([[[], [0.0, 0.5]]], "group"), [[], [0.0 - 0.25, 0.5 - 0.25]])
    assert advantages([], [0], [0], "delta").shape == (0,)


def test_a_score_that_is_none_is_missing() -> None:
    found = advantages([None, 0.5], [0, 1, 2], [0, 2], "end")  # type: ignore[list-item]
    np.testing.assert_array_equal(found, [NAN, 0.5])


scores = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1)
process_rollouts = st.lists(st.lists(scores, min_size=1, max_size=6), min_size=1, max_size=6)
outcome_rollouts = st.lists(scores.map(lambda score: [score]), min_size=1, max_size=8)


@given(group=process_rollouts)
def test_delta_sums_to_zero_over_each_rollout(group: Group) -> None:
    for rollout in run([group], "delta"):
        assert abs(sum(rollout)) < 1e-12


@given(group=outcome_rollouts, shift=st.floats(0, 0.5))
def test_grpo_does_not_see_a_shift_of_all_scores(group: Group, shift: float) -> None:
    half = [[score / 2] for [score] in group]
    shifted = [[score + shift] for [score] in half]
    found, expected = run([shifted], "grpo"), run([half], "grpo")
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("kind", [*get_args(OutcomeKind), *get_args(ProcessKind)])
@given(data=st.data())
def test_permuting_a_group_permutes_the_result(kind: AdvantageKind, data: st.DataObject) -> None:
    process = kind in get_args(ProcessKind)
    group = data.draw(process_rollouts if process else outcome_rollouts)
    order = data.draw(st.permutations(range(len(group))))
    found = run([[group[i] for i in order]], kind)
    expected = run([group], kind)
    np.testing.assert_allclose(
        np.concatenate(found), np.concatenate([expected[i] for i in order]), atol=1e-9
    )


@pytest.mark.parametrize("value", [1.5, -0.25, 5.0, float("inf"), float("-inf")])
def test_a_score_outside_its_range_is_named_with_its_index(value: float) -> None:
    with pytest.raises(ValueError, match=rf"scores\[2\] is {value:g}"):
        advantages([0.5, NAN, value], [0, 3], [0, 1], "delta")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.5, 1.0], [0, 2], [0, 1], "grpo"), "rollout 0 has 2 segments; grpo takes exactly one"),
        (([0.5], [0, 1, 1], [0, 2], "rloo"), "rollout 1 has 0 segments; rloo takes exactly one"),
        (([0.5], [0, 2], [0, 1], "delta"), r"seg_off\[1\] is 2; .* end at 1"),
        (([0.5], [0, 1], [0, 3], "delta"), r"group_off\[1\] is 3; .* end at 1"),
        (([0.5], [0, -1], [0, 1], "delta"), r"seg_off\[1\] is -1"),
        (([0.5], [0, 1], [0, 1], "deltas"), 'unknown kind "deltas"; choose one of grpo'),
        (([NAN, 0.5], [0, 3], [0, 1], "delta"), r"seg_off\[1\] is 3; .* end at 2"),
        (([NAN, 0.5], [1, 3], [0, 1], "delta"), r"seg_off\[0\] is 1"),
        (([NAN, 0.5], [0, 2, 1, 2], [0, 3], "delta"), r"seg_off\[2\] is 1"),
        (([NAN], np.zeros(0, np.int64), [0], "delta"), "seg_off is empty"),
    ],
)
@pytest.mark.parametrize("missing", ["drop", "bridge"])
def test_input_that_does_not_fit_is_refused(
    arguments: tuple[object, ...], message: str, missing: Missing
) -> None:
    with pytest.raises(ValueError, match=message):
        advantages(*arguments, missing=missing)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"std_floor": -0.05}, "std_floor is -0.05"),
        ({"std_floor": NAN}, "std_floor is NaN"),
        ({"outcome_weight": -1.0}, "outcome_weight is -1"),
        ({"overlong": [True, False]}, "overlong has 2 entries for 1 rollouts"),
        ({"missing": "skip"}, 'unknown missing "skip"; choose one of bridge, drop'),
    ],
)
def test_a_setting_out_of_range_is_named(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        advantages([0.5], [0, 1], [0, 1], "step+outcome", **setting)  # type: ignore[arg-type]


def test_published_group_needs_the_width() -> None:
    with pytest.raises(ValueError, match="needs response_width"):
        advantages([0.5], [0, 1], [0, 1], "group", compat="published")


def test_offsets_that_are_not_integers_are_refused() -> None:
    with pytest.raises(TypeError, match="same_kind"):
        advantages([0.5, 1.0], [0, 1.5, 2], [0, 2], "delta")


BRIDGED: list[tuple[str, list[Group], AdvantageKind, list[list[float]]]] = [
    # what delta gives where the missing step was never cut
    ("in the middle", [[[0.5, NAN, 1.0]]], "delta", [[0.5 - 1, 1 - 0.5, 1 - 0.5]]),
    ("first", [[[NAN, 0.25, 1.0]]], "delta", [[0.25 - 1, 0.25 - 1, 1 - 0.25]]),
    ("two in a row", [[[0.5, NAN, NAN, 0.0]]], "delta", [[0.5, -0.5, -0.5, -0.5]]),
    ("last", [[[0.5, 0.5, NAN], [0.0, 1.0]]], "delta", [[OUT] * 3, [-1.0, 1.0]]),
    ("middle and last", [[[0.5, NAN, 1.0, NAN]]], "delta", [[OUT] * 4]),
    ("all but the last", [[[NAN, NAN, 0.75]]], "delta", [[0.0] * 3]),
    ("end", [[[0.5, NAN, 1.0, 0.75]]], "end", [[0.5 - 0.75, 0.25, 0.25, 0.75]]),
    ("end, last joined", [[[0.5, NAN, 0.75]]], "end", [[0.5 - 0.75, 0.75, 0.75]]),
    # b = ((.5 + 1) / 2 + .25) / 2 = .5: the joined steps count once
    ("group", [[[0.5, NAN, 1.0], [0.25]]], "group", [[0.0, 0.5, 0.5], [-0.25]]),
    ("error", [[[1.0, NAN, 0.5, 1.0]]], "first_error", [[1.0, -1.0, -1.0, 0.0]]),
    ("outcome", [[[1.0], [NAN], [0.5]]], "dr_grpo", [[0.25], [OUT], [-0.25]]),
]


@pytest.mark.parametrize(
    ("groups", "kind", "expected"),
    [pytest.param(*case[1:], id=f"{case[2]}: {case[0]}") for case in BRIDGED],
)
def test_a_step_without_a_score_is_joined_to_the_next_one(
    groups: list[Group], kind: AdvantageKind, expected: list[list[float]]
) -> None:
    check(run(groups, kind, missing="bridge"), expected)


@pytest.mark.parametrize(("mode", "value"), [("zero", 0.0), ("score", 0.75), ("group", 0.25)])
def test_a_rollout_joined_to_one_step_is_one_of_one_step(mode: str, value: float) -> None:
    groups = [[[NAN, NAN, 0.75], [0.0, 0.25]]]  # the mean of the final scores is .5
    found = run(groups, "delta", single_segment=mode, missing="bridge")
    check(found, [[value] * 3, [-0.25, 0.25]])


maybe_scores = st.lists(scores | st.just(NAN), min_size=1, max_size=6)


@pytest.mark.parametrize("kind", get_args(ProcessKind))
@given(group=st.lists(maybe_scores, min_size=1, max_size=6))
def test_joined_steps_have_what_uncut_steps_would_have(kind: AdvantageKind, group: Group) -> None:
    """The rollouts as if no step had been cut where a score is missing, unless the last one is."""
    uncut = [r if np.isnan(r[-1]) else [s for s in r if not np.isnan(s)] for r in group]
    found, expected = run([group], kind, missing="bridge"), run([uncut], kind)
    for rollout, joined, plain in zip(group, found, expected, strict=True):
        if np.isnan(rollout[-1]):
            assert np.isnan(joined).all()
        else:
            given = ~np.isnan(rollout)
            assert np.array(joined)[given].tolist() == plain
            # every other step has what the next one has
            later = [next(j for j in range(i, len(rollout)) if given[j]) for i in range(len(given))]
            assert joined == [joined[i] for i in later]


@given(group=process_rollouts)
def test_joining_changes_nothing_where_nothing_is_missing(group: Group) -> None:
    assert run([group], "delta", missing="bridge") == run([group], "delta")
