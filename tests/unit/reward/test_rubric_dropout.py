"""Rubric dropout: which checkpoints a step keeps, and that the judge is asked by them alone."""

import json

import pytest

from exprl import config
from exprl.errors import ConfigError
from exprl.judge import Forecaster, JudgeItem, JudgeSettings
from exprl.reward.rubric_dropout import RubricDropout, keep_checkpoints, open_dropout

FIVE = tuple((f"checkpoint {i}", i) for i in range(1, 6))
PROBLEM, REFERENCE = "What is 2 + 2?", "2 + 2 = 4"


def keep(rate=0.4, seed=0, step=1, problem="p"):
    return keep_checkpoints(FIVE, rate, seed, step, problem)


def test_a_step_keeps_the_same_checkpoints_and_another_step_seed_or_problem_others():
    assert keep() == keep()
    kept = [[keep(**{name: value}) for value in range(40)] for name in ("seed", "step")]
    kept.append([keep(problem=str(i)) for i in range(40)])
    for draws in kept:
        assert len(set(draws)) > 10
        for part in draws:
            assert part == tuple(c for c in FIVE if c in part), "in their order, weights as written"


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.75])
def test_each_checkpoint_stays_with_probability_one_minus_the_rate(rate):
    draws = [keep(rate, step=step) for step in range(4000)]
    # One stays where all would go: a share rate^5 of the draws keeps one in five more.
    expected = 1 - rate + rate**5 / 5
    for checkpoint in FIVE:
        share = sum(checkpoint in part for part in draws) / len(draws)
        assert share == pytest.approx(expected, abs=0.03)


def test_one_checkpoint_always_stays():
    sizes = [len(keep(0.99, step=step)) for step in range(500)]
    assert min(sizes) == 1 and sizes.count(1) > 450
    alone = {part for step in range(500) if len(part := keep(0.99, step=step)) == 1}
    assert alone == {(c,) for c in FIVE}, "any of them"
    assert keep(0.0) == FIVE


class Asked:
    """Judges that note what they are asked."""

    def __init__(self):
        self.items = []

    def submit(self):
        return self

    def push(self, item):
        self.items.append(item)


@pytest.fixture
def rubrics(tmp_path):
    file = tmp_path / "rubrics.jsonl"
    checkpoints = [{"text": text, "weight": weight} for text, weight in FIVE]
    file.write_text(json.dumps({"problem": PROBLEM, "checkpoints": checkpoints}) + "\n")
    return str(file)


def test_all_rollouts_of_a_problem_are_graded_by_the_part_that_the_step_keeps(rubrics):
    dropout = RubricDropout(rubrics, 0.5, seed=3)
    for step in range(8):
        asked = Asked()
        batch = dropout.at_step(asked, step).submit()
        for i in range(4):
            batch.push(JudgeItem(f"p/{i}", PROBLEM, REFERENCE, (f"trace {i}",)))
        [part] = {item.checklist for item in asked.items}
        assert part == keep_checkpoints(FIVE, 0.5, 3, step, PROBLEM)


def test_an_item_without_a_reference_or_a_rubric_is_passed_on_as_it_is(rubrics):
    dropout = RubricDropout(rubrics, 0.5, seed=0)
    for item in (
        JudgeItem("p/0", PROBLEM, None, ("t",)),
        JudgeItem("q/0", "another problem", REFERENCE, ("t",)),
    ):
        assert dropout.give_part(item, 1) == item


def test_dropout_without_rubrics_is_refused_and_none_is_opened_for_a_rate_of_0(rubrics):
    plain = {"model": {"path": "m"}, "data": {"path": "d"}}
    with pytest.raises(ConfigError, match=r"rubric_dropout = 0.3 .*exprl rubric build"):
        config.build({**plain, "judge": {"kind": "rules", "rubric_dropout": 0.3}})
    with pytest.raises(ConfigError, match="rubric_dropout"):
        config.build(
            {**plain, "judge": {"kind": "rules", "rubrics": rubrics, "rubric_dropout": 1.0}}
        )
    cfg = config.build({**plain, "judge": {"kind": "rules", "rubrics": rubrics}})
    assert open_dropout(cfg.judge, 0) is None


def test_the_judge_reads_the_kept_checkpoints_and_no_others(rubrics):
    settings = JudgeSettings(("http://127.0.0.1:9/v1",), "m", rubrics=rubrics)
    item = JudgeItem("p/0", PROBLEM, REFERENCE, ("It is 4.",))
    [whole] = Forecaster(settings).prompts(item)
    assert all(f"(weight {weight}) {text}" in whole for text, weight in FIVE)
    kept = RubricDropout(rubrics, 0.99, seed=0).give_part(item, 2)
    [(text, weight)] = kept.checklist
    [part] = Forecaster(settings).prompts(kept)
    assert f"1. (weight {weight}) {text}" in part
    assert part.count("(weight ") == 1
