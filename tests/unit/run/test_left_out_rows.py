"""The problems of a run: which rows are left out, and that the user is told."""

import json

import pytest

from exprl import config
from exprl.data.tokenizer import load_tokenizer
from exprl.errors import ConfigError, DataError
from exprl.run.problems import load_held_out, load_training_problems

GAPS = [
    {"problem": "What is 1 + 1?", "reference": "It is 2.", "answer": "2"},
    {"problem": "What is 2 + 2?", "reference": None, "answer": "4"},
    {"problem": "What is 3 + 3?", "reference": "It is 6.", "answer": None},
    {"problem": "long " * 30, "reference": "It is 8.", "answer": "8"},
    {"problem": "What is 5 + 5?", "reference": "It is " + "1 + " * 30, "answer": "10"},
]


@pytest.fixture(scope="module")
def tokenizer(repo):
    return load_tokenizer(config.Model(path=str(repo / "examples/tiny/model")))


@pytest.fixture
def make_config(tmp_path):
    def run(rows, method="exprl-process", **data):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        tree = {
            "method": method,
            "model": {"path": "m"},
            "judge": {"kind": "rules"},
            "data": {"path": str(path), **data},
            "rollout": {
                "problems_per_step": 1,
                "max_prompt_tokens": 60,
                "max_response_tokens": 60,
            },
        }
        return config.build(tree)

    return run


def test_rows_that_are_left_out_or_cannot_be_verified_are_counted_and_named(make_config, tokenizer):
    said = []
    cfg = make_config(GAPS, missing_reference="drop")
    kept = load_training_problems(cfg, tokenizer, said.append)
    assert [p.id for p in kept] == ["1", "3", "5"]
    assert len(said) == 3
    assert "1 of 5 rows without a reference are left out" in said[0] and "'2'" in said[0]
    assert "1 of 4 rows have no final answer" in said[1] and "'3'" in said[1]
    assert "1 of 4 rows are left out: their prompt has more tokens than" in said[2]
    assert "rollout.max_prompt_tokens = 60" in said[2] and "'4'" in said[2]


def test_references_that_are_too_long_to_learn_are_counted_and_named(make_config, tokenizer):
    said = []
    cfg = make_config(GAPS, method="sft", missing_reference="drop")
    kept = load_training_problems(cfg, tokenizer, said.append)
    assert [p.id for p in kept] == ["1", "3"]
    assert "1 of 4 rows are left out: their reference has more tokens than" in said[-1]
    assert "rollout.max_response_tokens = 60" in said[-1] and "'5'" in said[-1]


def test_nothing_is_said_of_rows_that_all_are_used(make_config, tokenizer):
    said = []
    load_training_problems(make_config(GAPS[:1]), tokenizer, said.append)
    assert said == []


def test_answers_that_no_column_has_are_not_counted_as_missing(make_config, tokenizer):
    said = []
    cfg = make_config(GAPS[:1], columns={"answer": None})
    load_training_problems(cfg, tokenizer, said.append)
    assert said == []


def test_a_row_without_a_reference_stops_the_run_with_the_setting_that_drops_it(
    make_config, tokenizer
):
    with pytest.raises(DataError, match=r"id '2' has no reference.*missing_reference = 'drop'"):
        load_training_problems(make_config(GAPS), tokenizer)


def test_where_references_are_not_looked_at_no_row_is_dropped_for_one(make_config, tokenizer):
    rows = [row for row in GAPS if row["answer"]]
    cfg = make_config(rows, method="sparse-grpo", missing_reference="drop")
    assert [p.id for p in load_training_problems(cfg, tokenizer)] == ["1", "2", "4"]


def test_held_out_problems_that_are_left_out_are_told_apart(make_config, tokenizer):
    cfg = make_config(GAPS[:2])
    data = config.Data(path=make_config([GAPS[0], GAPS[3]]).data.path)
    cfg = cfg.model_copy(update={"eval": cfg.eval.model_copy(update={"data": data})})
    said = []
    assert len(load_held_out(cfg, tokenizer, said.append)) == 1
    assert len(said) == 1 and said[0].startswith("eval.data: 1 of 2 rows are left out")


def test_turns_that_the_judge_is_not_shown_are_told_where_one_judges(make_config, tokenizer):
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "1 + 1?"},
    ]
    rows = [GAPS[0], GAPS[0] | {"problem": turns}]
    said = []
    load_training_problems(make_config(rows), tokenizer, said.append)
    assert len(said) == 1 and "1 of 2 rows have earlier turns" in said[0] and "'2'" in said[0]
    load_training_problems(make_config(rows, method="sparse-grpo"), tokenizer, said.append)
    assert len(said) == 1


GOLDS = [
    {"problem": "What is 1 + 1?", "reference": "It is 2.", "answer": "The answer is 2."},
    {"problem": "What is 2 + 2?", "reference": "It is 4.", "answer": "see figure"},
    {"problem": "What is 3 + 3?", "reference": "It is 6.", "answer": "6"},
    {"problem": "What is 4 + 4?", "reference": "It is 8.", "answer": "N/A"},
]


def test_rows_whose_answer_cannot_be_read_are_left_out_where_the_verifier_rewards(
    make_config, tokenizer
):
    said = []
    kept = load_training_problems(make_config(GOLDS, "sparse-grpo"), tokenizer, said.append)
    assert [p.id for p in kept] == ["1", "3"]
    [line] = said
    assert "2 of 4 rows are left out: their final answer cannot be read" in line
    assert "id '2': 'see figure'" in line


def test_they_stay_where_the_judge_rewards_and_that_is_said(make_config, tokenizer):
    said = []
    kept = load_training_problems(make_config(GOLDS), tokenizer, said.append)
    assert len(kept) == 4
    assert "2 of 4 rows have a final answer that cannot be read" in said[0]


def test_a_reward_that_can_read_no_answer_is_refused(make_config, tokenizer):
    with pytest.raises(DataError, match=r"'see figure' .*all 2 rows"):
        load_training_problems(make_config(GOLDS[1::2], "sparse-grpo"), tokenizer)
    assert len(load_training_problems(make_config(GOLDS[1::2]), tokenizer)) == 2


def test_a_step_that_wants_more_problems_than_are_left_says_why(make_config, tokenizer):
    cfg = make_config(GOLDS, "sparse-grpo")
    cfg = cfg.model_copy(
        update={"rollout": cfg.rollout.model_copy(update={"problems_per_step": 3})}
    )
    with pytest.raises(ConfigError, match=r"exceeds the 2 problems[\s\S]*'see figure'"):
        load_training_problems(cfg, tokenizer)


def test_they_are_left_out_of_evaluations(make_config, tokenizer, tmp_path):
    def held_out(rows, said):
        path = tmp_path / "held_out.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        cfg = make_config(GOLDS)
        section = config.Evaluation(data=config.Data(path=str(path)))
        return load_held_out(cfg.model_copy(update={"eval": section}), tokenizer, said.append)

    said = []
    assert [p.id for p in held_out(GOLDS, said)] == ["1", "3"]
    assert said[-1].startswith("eval.data: 2 of 4 rows are left out: their final answer")
    with pytest.raises(DataError, match="none of the 2 final answers can be read"):
        held_out(GOLDS[1::2], [])
