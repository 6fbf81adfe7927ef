"""The verdict of a pilot: intervals that hold what they promise, and a rule that follows them."""

import numpy as np
import pytest

from exprl.study.prove.effect import Effect, estimate_effect
from exprl.study.prove.verdict import CONTROLS, decide, interval_level

LEVEL = interval_level(3)


def effects(value=0.4, half=0.1, seeds=3, **others):
    """Effects of one size against all controls, but for those named."""
    values = dict.fromkeys(CONTROLS, value) | others
    return [Effect(name, v, v - half, v + half, seeds, 64) for name, v in values.items()]


def rates(generator, truth, seeds, problems, samples=8, spread=0.05):
    """pass@1 of [S, P]: problems and runs differ, and samples are few."""
    hard = generator.normal(0.0, 0.2, problems)
    luck = generator.normal(0.0, spread, (seeds, 1))
    chance = np.clip(truth + hard + luck, 0.0, 1.0)
    return generator.binomial(samples, chance) / samples


def test_yes_needs_every_control_to_be_beaten():
    assert decide(effects(), 0.05).answer == "yes"
    for control in CONTROLS:
        verdict = decide(effects(**{control: 0.05}), 0.05)
        assert verdict.answer == "cannot tell"
        assert [f"right - {control}" in r for r in verdict.reasons] == [True]


@pytest.mark.parametrize("control", CONTROLS)
def test_one_control_that_does_as_well_is_enough_for_no_and_is_named(control):
    verdict = decide(effects(half=0.04, **{control: 0.0}), 0.05)
    assert verdict.answer == "no"
    assert len(verdict.reasons) == 1
    assert f"right - {control}" in verdict.reasons[0]


def test_where_nothing_was_learned_the_reason_is_that_alone():
    verdict = decide(effects(value=0.0, half=0.04), 0.05)
    assert verdict.answer == "no"
    assert len(verdict.reasons) == 1
    assert "does not get better within this budget" in verdict.reasons[0]


def test_a_gain_that_is_sure_but_too_small_to_matter_is_no():
    assert decide(effects(value=0.02, half=0.01), 0.05).answer == "no"
    assert decide(effects(value=0.02, half=0.01), 0.01).answer == "yes"


def test_a_wide_interval_leaves_it_open_and_says_what_might_settle_it():
    verdict = decide(effects(value=0.1, half=0.3), 0.05)
    assert verdict.answer == "cannot tell"
    assert "about 1,300 held-out problems" in verdict.reasons[0]


def test_one_seed_never_decides():
    assert decide(effects(seeds=1), 0.05).answer == "cannot tell"


def test_the_level_shares_the_error_among_looks_and_controls():
    assert interval_level(2) == pytest.approx(1 - 2 * 0.05 / 4)
    assert interval_level(4) == pytest.approx(1 - 2 * 0.05 / 12)


def test_runs_that_all_solve_nothing_do_not_prove_that_nothing_differs():
    few, many = np.zeros((3, 4)), np.zeros((3, 100))
    assert estimate_effect("wrong", few, few, LEVEL).high > 0.3
    wide = estimate_effect("wrong", many, many, LEVEL)
    assert wide.value == 0.0
    assert 0.02 < wide.high < 0.05
    assert wide.low == pytest.approx(-wide.high, abs=0.01)


def test_luck_of_the_runs_widens_the_interval_and_more_problems_do_not_help():
    steady = np.full((3, 400), 0.5)
    lucky = steady + np.array([[0.2], [0.0], [-0.2]])
    base = np.zeros((3, 400))
    calm = estimate_effect("before", steady, base, LEVEL)
    wild = estimate_effect("before", lucky, base, LEVEL)
    assert calm.high - calm.low < 0.06
    assert wild.high - wild.low > 0.3


def test_two_seeds_vary_more_than_the_two_that_were_seen():
    ours = np.full((2, 2000), 0.5) + np.array([[0.1], [-0.1]])
    found = estimate_effect("before", ours, np.zeros((2, 2000)), LEVEL)
    assert found.high - found.value == pytest.approx(0.1 * np.sqrt(2), abs=0.01)


def test_problems_that_both_find_hard_do_not_widen_it_because_they_are_paired():
    generator = np.random.default_rng(0)
    hard = np.tile(generator.uniform(0.0, 0.8, 100), (3, 1))
    found = estimate_effect("sparse", hard + 0.1, hard, LEVEL)
    assert found.value == pytest.approx(0.1)
    assert found.low > 0.05


def test_a_problem_without_samples_in_one_run_is_left_out_of_all():
    ours, theirs = np.full((2, 5), 0.5), np.zeros((2, 5))
    ours[1, 3] = np.nan
    assert estimate_effect("wrong", ours, theirs, LEVEL).problems == 4
    with pytest.raises(ValueError, match="no problem has samples"):
        estimate_effect("wrong", np.full((2, 2), np.nan), np.zeros((2, 2)), LEVEL)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """200 experiments at 95 %; bench/known_faults.py makes more of them."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        ours = rates(generator, 0.5, 3, 24)
        theirs = rates(generator, 0.4, 3, 24)
        found = estimate_effect("wrong", ours, theirs, 0.95)
        held += found.low <= 0.1 <= found.high
    assert held / 200 >= 0.9
