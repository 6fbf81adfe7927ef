"""What a judge would be asked, counted without asking: equal to what it then is asked."""

import dataclasses

import pytest

from exprl.errors import ConfigError
from exprl.judge import (
    Forecaster,
    Judge,
    JudgeItem,
    JudgeSettings,
    Prices,
    RuleJudge,
    ScoreMap,
    score_grade,
)

ITEMS = [
    JudgeItem("a", "5)10=", r"5*2=10", ("01/5=0r1", "###10/5=2r0")),
    JudgeItem("b", "5)10=", r"5*2=10", ("01/5=0r1", "###10/5=3r0")),
]


def forecast(settings, items):
    forecaster = Forecaster(settings)
    for item in items:
        forecaster.add(item)
    return forecaster.forecast()


def test_it_counts_what_the_judge_then_sends_and_what_its_ledger_answers(tmp_path):
    prices = Prices(prompt=1.0, cached=0.5, completion=10.0)
    with RuleJudge("division") as server:
        settings = JudgeSettings(
            (server.url,), server.model, ledger=str(tmp_path / "ledger"), prices=prices, hedge=0.0
        )
        before = forecast(settings, ITEMS)
        assert (before.requests, before.from_ledger, before.repeated) == (3, 0, 1)
        assert before.most_cost > before.cost > 0
        with Judge(settings) as judge:
            judge.submit(ITEMS[:1]).result()
            # The judge has its ledger open and locked, and the forecast reads it all the same.
            after = forecast(settings, ITEMS)
            judge.submit(ITEMS).result()
            assert judge.stats().requests_sent == before.requests
    assert (after.requests, after.from_ledger, after.repeated) == (1, 2, 1)


def test_without_prices_it_knows_no_cost_and_a_sum_with_it_does_not_either():
    settings = JudgeSettings(("http://127.0.0.1:9/v1",), "m")
    free, priced = (
        forecast(dataclasses.replace(settings, prices=prices), ITEMS)
        for prices in (None, Prices(1.0, 1.0, 1.0))
    )
    assert free.cost is None
    assert free.plus(priced).cost is None
    assert priced.plus(priced).cost == 2 * priced.cost


def test_it_renders_what_the_judge_reads():
    settings = JudgeSettings(("http://127.0.0.1:9/v1",), "m", view="step")
    first, second = Forecaster(settings).prompts(ITEMS[0])
    assert "01/5=0r1" in first
    assert "###10/5=2r0" in second


def test_it_refuses_what_a_judge_refuses():
    with pytest.raises(ConfigError, match="endpoints"):
        Forecaster(JudgeSettings())


@pytest.mark.parametrize(
    ("score_map", "scores"),
    [
        ("linear", [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("binary", [0.0, 0.0, 0.0, 1.0, 1.0]),
        ("extremes", [0.0, None, None, None, 1.0]),
        ("extremes_soft", [0.0, None, None, 0.8, 1.0]),
    ],
)
def test_a_grade_has_the_score_of_its_map(score_map: ScoreMap, scores):
    assert [score_grade(grade, score_map) for grade in range(1, 6)] == scores


def test_an_unknown_score_map_is_refused():
    with pytest.raises(ValueError, match="round"):
        score_grade(3, "round")  # type: ignore[arg-type]
