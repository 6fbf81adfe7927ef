"""Page, terminal and JSON of a pilot say what was found, and escape what is not ours."""

import json
import re
from dataclasses import replace

import pytest

from exprl import config
from exprl.study.prove.arms import ARMS, SAYS, prepare_base
from exprl.study.prove.cost import Cost
from exprl.study.prove.effect import Effect
from exprl.study.prove.output import show_result
from exprl.study.prove.page import render
from exprl.study.prove.plan import make_plan
from exprl.study.prove.result import ArmResult, Result
from exprl.study.prove.split import Split
from exprl.study.prove.verdict import CONTROLS, decide

HOSTILE = "<script>alert(1)</script>.jsonl"
NAN = float("nan")


def result_of(tmp_path, value=0.5, half=0.1, data=HOSTILE) -> Result:
    tree = {"model": {"path": "m"}, "data": {"path": "d"}, "judge": {"kind": "rules"}}
    base = prepare_base(config.build(tree), tmp_path, 10, 16)
    split = Split(
        80, ({},) * 16, ({},) * 4, ("1",) * 16, ("2", "3", "4", "5"), {"are bad": 7}, "d1"
    )
    plan = make_plan("1.0", data, split, base, 3, 0.05)
    effects = [Effect(name, value, value - half, value + half, 2, 4) for name in CONTROLS]
    cost = Cost(20, 1920, 512, 124_000, 9000, 6_000_000, 90_000, 125.0)
    arms = tuple(
        ArmResult(
            arm,
            SAYS[arm],
            (0.0, 0.0),
            (value, value),
            (0.0, 0.5),
            (NAN, 0.1),
            NAN,
            {"stall": 2},
            cost,
        )
        for arm in ARMS
    )
    verdict = decide(effects, 0.05)
    return Result(plan, "ab" * 32, "2026-11-28T12:00:00Z", 1.8e9, (0, 1), verdict, arms, cost)


@pytest.mark.parametrize(
    ("value", "half", "answer", "headline"),
    [
        (0.5, 0.1, "yes", "Training against these references helps"),
        (0.0, 0.04, "no", "Training against these references does not help"),
        (0.0, 0.5, "cannot tell", "This pilot is too small"),
    ],
)
def test_the_page_says_verdict_effects_arms_price_and_plan(tmp_path, value, half, answer, headline):
    result = result_of(tmp_path, value, half)
    page = render(result)
    assert f"<strong>{answer}</strong> {headline}" in page
    for reason in result.verdict.reasons:
        assert reason.replace("'", "&#39;") in page
    for control in CONTROLS:
        assert f"right - {control}" in page
    for says in SAYS.values():
        assert says.replace("'", "&#39;") in page
    assert page.count("2 min 5 s") == 5
    assert "ab" * 32 in page
    assert "7 rows are left out: they are bad" in page
    assert "stall (2)" in page


def test_the_page_loads_and_runs_nothing_and_escapes_the_name_of_the_data(tmp_path):
    page = render(result_of(tmp_path))
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "default-src &#39;none&#39;" in page
    assert not re.search(r"(?:src|href)=", page)


def test_the_drawing_keeps_every_bar_inside_and_marks_none_and_the_least_effect(tmp_path):
    page = render(result_of(tmp_path, 0.3, 0.6))
    ends = re.findall(r'class="interval" x1="([\d.]+)" x2="([\d.]+)"', page)
    assert len(ends) == len(CONTROLS)
    assert all(130.0 <= float(low) < float(high) <= 640.0 for low, high in ends)
    zero = float(re.search(r'class="zero" x1="([\d.]+)"', page)[1])
    least = float(re.search(r'class="least" x1="([\d.]+)"', page)[1])
    assert float(ends[0][0]) < zero < least < float(ends[0][1])


def test_the_terminal_says_the_same(tmp_path, capsys):
    result = result_of(tmp_path)
    show_result(result, tmp_path / "prove.html")
    said = capsys.readouterr().out
    assert f"Will it help on {HOSTILE}? yes" in said
    assert "+0.400 .. +0.600" in said
    assert "ab" * 32 in said


def test_the_json_holds_everything_and_null_for_what_does_not_exist(tmp_path):
    result = result_of(tmp_path)
    tree = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert tree["verdict"] == "yes"
    assert tree["plan_sha256"] == result.digest
    assert tree["arms"]["right"]["after"] == [0.5, 0.5]
    assert tree["arms"]["right"]["missing"] is None
    assert tree["arms"]["right"]["reward"] == [None, 0.1]
    assert tree["effects"][0]["control"] == "wrong"
    assert tree["cost"]["money"] is None


def test_a_price_is_shown_where_prices_are_set(tmp_path):
    result = result_of(tmp_path)
    assert "12.50" in render(replace(result, cost=replace(result.cost, money=12.5)))
