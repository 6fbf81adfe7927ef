"""What `exprl calibrate` says of a judge in words."""

from exprl.evaluate.estimates import Rate
from exprl.study.calibrate import Calibration
from exprl.study.findings import find

NONE = Rate(0.5, 0.5, 0.5)


def calibration(condition, auc, right=(0, 0, 0, 2, 18), wrong=(18, 2, 0, 0, 0), **changes):
    fields = {"right_missing": 0, "wrong_missing": 0, "statuses": {"ok": 40}, **changes}
    return Calibration(
        condition, right, wrong, fields["right_missing"], fields["wrong_missing"],
        fields["statuses"], NONE, NONE, NONE, Rate(*auc), fields.get("readout", "text"),
    )  # fmt: skip


GOOD = calibration("right", (0.95, 0.9, 0.99))
MISLED = calibration("wrong", (0.5, 0.4, 0.6))


def names(*results):
    return [finding.name for finding in find(results)]


def test_a_judge_that_tells_right_from_wrong_by_its_reference_is_usable():
    [finding] = find([GOOD, MISLED])
    assert (finding.name, finding.good) == ("usable", True)
    assert "0.95 [0.90, 0.99] with the right reference" in finding.message
    assert "0.50 [0.40, 0.60] with another problem's" in finding.message
    assert "another" not in find([GOOD])[0].message, "that condition was not asked for"


def test_a_judge_at_chance_is_told_with_its_interval():
    [finding] = find([calibration("right", (0.55, 0.48, 0.62)), MISLED])
    assert (finding.name, finding.good) == ("chance", False)
    assert "may be guessing: AUC 0.55 [0.48, 0.62]" in finding.message
    [worse] = find([calibration("right", (0.3, 0.2, 0.4))])
    assert "prefers wrong solutions" in worse.message


def test_a_judge_that_does_as_well_with_a_wrong_reference_may_not_read_any():
    assert names(GOOD, calibration("wrong", (0.93, 0.88, 0.98))) == ["reference"]
    assert names(GOOD, calibration("wrong", (0.8, 0.7, 0.89))) == ["usable"], "they do not overlap"


def test_a_judge_that_gives_one_grade_is_told_which():
    [chance, same] = find(
        [calibration("right", (0.5, 0.5, 0.5), right=(18, 0, 2, 0, 0), wrong=(19, 0, 1, 0, 0))]
    )
    assert (chance.name, same.name) == ("chance", "one_grade")
    assert same.message.startswith("92% of its grades are 1, for right solutions as for wrong")
    skewed = calibration("right", (1.0, 1.0, 1.0), right=(0, 0, 0, 0, 2), wrong=(98, 0, 0, 0, 0))
    assert names(skewed) == ["usable"], "98 % of the solutions are wrong"
    direct = calibration(
        "right", (0.9, 0.8, 1.0), right=(20, 0, 0, 0, 0), wrong=(20, 0, 0, 0, 0), readout="direct"
    )
    assert names(direct) == ["usable"], "its scores come from probabilities, and differ"


def test_grades_without_reasoning_and_missing_ones_are_told():
    reasked = calibration("right", (0.9, 0.8, 1.0), statuses={"ok": 19, "repaired": 21})
    assert names(reasked) == ["reasked"]
    at_the_limit = calibration("right", (0.9, 0.8, 1.0), statuses={"ok": 20, "repaired": 20})
    assert names(at_the_limit) == ["usable"]
    gaps = calibration("right", (0.9, 0.8, 1.0), right_missing=3, statuses={"ok": 40, "timeout": 3})
    [finding] = find([gaps])
    assert finding.name == "missing" and "7% of the solutions" in finding.message
    assert "timeout 3" in finding.message


def test_without_the_right_reference_or_one_kind_of_solution_nothing_is_said():
    nan = float("nan")
    assert names(MISLED) == []
    assert names(calibration("right", (nan, nan, nan), wrong=(0,) * 5)) == []
