"""Split, arms and plan of a pilot: sides share no problem, arms differ once, plans stay."""

import csv
import json
from dataclasses import replace

import pytest

from exprl import config
from exprl.data.problems import load_problems
from exprl.errors import ConfigError
from exprl.study.prove.arms import ARMS, arm_config, check_provable, prepare_base
from exprl.study.prove.plan import FILE_NAME, hash_plan, keep_plan, make_plan
from exprl.study.prove.split import split_rows

ROWS = [
    {
        "problem": f"What is {n} + 1?",
        "reference": f"{n} + 1 = {n + 1}",
        "answer": str(n + 1),
        "x": n,
    }
    for n in range(20)
]


def settings(path="d.jsonl", **changes) -> config.Config:
    tree = {
        "model": {"path": "m"},
        "data": {"path": str(path)},
        "judge": {"kind": "rules"},
        "train": {"steps": 100},
    }
    return config.build(tree | changes)


@pytest.fixture
def write(tmp_path):
    def run(rows, name="data.jsonl"):
        path = tmp_path / name
        if name.endswith(".csv"):
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return run


@pytest.fixture
def split(write):
    def run(rows=ROWS, held_out=None, seed=0, name="data.jsonl", **changes):
        cfg = settings(write(rows, name), **changes)
        return split_rows(cfg.data.parts[0], cfg.treatment, held_out, seed)

    return run


def test_a_quarter_of_the_problems_is_held_out_and_no_row_is_lost(split):
    found = split()
    assert (len(found.train), len(found.held_out)) == (15, 5)
    assert sorted(map(int, found.train_ids + found.held_out_ids)) == list(range(1, 21))
    assert found.left_out == {}


def test_rows_of_one_problem_never_stand_on_both_sides(split):
    twins = [row | {"problem": f"  {row['problem'].upper()}\n"} for row in ROWS]
    for seed in range(5):
        found = split(ROWS + twins, held_out=8, seed=seed)
        sides = [
            {" ".join(row["problem"].split()).casefold() for row in side}
            for side in (found.train, found.held_out)
        ]
        assert not sides[0] & sides[1]
        assert (len(found.train), len(found.held_out)) == (24, 8)
        assert found.left_out == {"repeat a held-out problem": 8}


def test_the_seed_decides_the_split_and_nothing_else_does(split):
    assert split(seed=1).held_out_ids == split(seed=1).held_out_ids
    assert split(seed=1).held_out_ids != split(seed=2).held_out_ids


def test_rows_that_an_arm_could_not_use_are_left_out_and_counted(split):
    rows = [dict(row) for row in ROWS]
    rows[0]["reference"] = None
    rows[1]["answer"] = None
    rows[2]["answer"] = "see the figure"
    found = split(rows)
    assert found.left_out == {
        "have no reference": 1,
        "have no final answer": 1,
        "have a final answer that cannot be read": 1,
    }
    assert not {"1", "2", "3"} & {*found.train_ids, *found.held_out_ids}


def test_too_few_problems_are_refused_with_what_was_left_out(split):
    rows = [row | {"reference": None} for row in ROWS[3:]] + ROWS[:3]
    with pytest.raises(ConfigError, match=r"3 usable problems in 20 rows.*; 17 have no reference"):
        split(rows, held_out=2)


@pytest.mark.parametrize("name", ["data.jsonl", "data.csv"])
def test_the_files_of_the_split_give_the_problems_of_the_data_under_their_row_numbers(
    split, tmp_path, name
):
    found = split(name=name)
    found.write(tmp_path / "out")
    base = prepare_base(settings(tmp_path / name), tmp_path / "out", 10, len(found.train))
    assert [p.id for p in load_problems(base.data)] == list(found.train_ids)
    held_out = load_problems(base.eval.data)
    assert [p.id for p in held_out] == list(found.held_out_ids)
    whole = {p.id: p for p in load_problems(settings(tmp_path / name).data)}
    for problem in held_out:
        same = whole[problem.id]
        assert (problem.question, problem.answer, problem.reference) == (
            same.question,
            same.answer,
            same.reference,
        )
    assert "x" not in json.loads((tmp_path / "out" / "train.jsonl").read_text().splitlines()[0])


def test_each_arm_differs_from_the_first_in_its_reward_alone(tmp_path):
    base = prepare_base(settings(), tmp_path, 10, 100)
    right = arm_config(base, "right", 3, tmp_path / "run")
    differ = {
        arm: set(config.differences(right, arm_config(base, arm, 3, tmp_path / "run")))
        for arm in ARMS[1:]
    }
    assert differ == {
        "wrong": {"judge.condition"},
        "shuffled": {"reward.shuffle"},
        "sparse": {"method", "reward.source", "advantage.kind"},
    }


def test_the_sparse_arm_is_sparse_in_every_domain(tmp_path):
    own = {"source": "judge", "view": "outcome", "advantage": "rloo", "verifier": "exact"}
    base = prepare_base(settings(domains={"math": own}), tmp_path, 10, 100)
    sparse = arm_config(base, "sparse", 0, tmp_path).treatment("math")
    assert (sparse.source, sparse.advantage, sparse.verifier) == ("verifier", "grpo", "exact")
    assert not arm_config(base, "sparse", 0, tmp_path).needs_references


def test_a_step_takes_no_more_problems_than_there_are(tmp_path):
    assert prepare_base(settings(), tmp_path, 10, 15).rollout.problems_per_step == 15
    assert prepare_base(settings(), tmp_path, 10, 1000).rollout.problems_per_step == 36


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "sparse-grpo"}, "method = 'sparse-grpo'"),
        ({"method": "sft"}, "method = 'sft'"),
        ({"judge": {"kind": "rules", "condition": "none"}}, "judge.condition = 'none'"),
        ({"judge": {"kind": "rules", "rubrics": "r.jsonl"}}, "judge.rubrics = 'r.jsonl'"),
    ],
)
def test_a_reward_that_reads_no_reference_is_refused_by_its_setting(changes, says):
    with pytest.raises(ConfigError, match=says):
        check_provable(settings(**changes))


@pytest.fixture
def plan(split, tmp_path):
    found = split()

    def make(steps=10, least=0.05, rows=found, **changes):
        base = prepare_base(settings(**changes), tmp_path, steps, len(rows.train))
        return make_plan("1.0", "data.jsonl", rows, base, 3, least)

    return make


def test_the_same_plan_is_found_again_under_the_same_hash(plan, tmp_path):
    first = keep_plan(tmp_path / "out", plan())
    assert keep_plan(tmp_path / "out", plan()) == first == hash_plan(tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 11}, "steps: 10 then, 11 now"),
        ({"least": 0.01}, "least_effect: 0.05 then, 0.01 now"),
        ({"optim": {"lr": 1e-3}}, "optim.lr: 1e-06 then, 0.001 now"),
    ],
)
def test_another_plan_in_the_folder_is_refused_by_what_differs(plan, tmp_path, change, says):
    keep_plan(tmp_path / "out", plan())
    with pytest.raises(ConfigError, match=says):
        keep_plan(tmp_path / "out", plan(**change))


def test_changed_rows_are_another_plan(plan, split, tmp_path):
    keep_plan(tmp_path / "out", plan())
    rows = [dict(row) for row in ROWS]
    rows[4]["reference"] = "something else"
    with pytest.raises(ConfigError, match="digest"):
        keep_plan(tmp_path / "out", plan(rows=split(rows, name="other.jsonl")))


def test_a_plan_that_was_edited_is_refused(plan, tmp_path):
    keep_plan(tmp_path / "out", plan())
    path = tmp_path / "out" / FILE_NAME
    path.write_text(path.read_text().replace('"least_effect": 0.05', '"least_effect": 0.5'))
    with pytest.raises(ConfigError, match=r"least_effect: 0\.5 then, 0\.05 now"):
        keep_plan(tmp_path / "out", plan())


def test_how_the_judge_is_reached_may_change(plan, tmp_path):
    keep_plan(tmp_path / "out", plan())
    keep_plan(tmp_path / "out", plan(judge={"kind": "rules", "attempts": 9}))


def test_the_plan_says_what_is_done_before_it_is_done(plan):
    tree = plan().to_json()
    assert tree["seeds"] == [0, 1, 2]
    assert len(tree["held_out"]) == 5
    assert set(tree["arms"]) == set(ARMS) == set(tree["settings"])
    assert tree["settings"]["wrong"] == {"judge.condition": "wrong"}
    assert tree["settings"]["right"]["train.steps"] == 10
    for key in ("primary", "stopping", "rule"):
        assert tree[key]
    assert replace(plan(), rows=21) != plan()
