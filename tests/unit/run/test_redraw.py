"""Further problems in place of those that teach nothing (rollout.redraw)."""

from types import SimpleNamespace

import numpy as np
import pytest

from exprl import config
from exprl.data.tokenizer import load_tokenizer
from exprl.errors import ConfigError
from exprl.run import gather
from exprl.run.problems import load_training_problems
from exprl.types import Problem, Prompt, Rollout, Scored

PROBLEMS = [Problem(f"p{i}", Prompt(f"p{i}", ()), "1", "math") for i in range(12)]


def sampled(problems, silent):
    """Two rollouts for each problem; those of `silent` have the same score."""
    return [
        Scored(
            Rollout(
                p.id,
                i,
                np.zeros(1, np.int32),
                np.zeros(2, np.int32),
                np.zeros(2, np.float32),
                "stop",
                np.zeros(2, np.int32),
            ),
            (),
            (),
            (1.0 if p.id in silent or i else 0.0,),
            None,
            per_segment=False,
        )
        for p in problems
        for i in range(2)
    ]


def redraw(monkeypatch, silent, limit, step=0, problems=PROBLEMS):
    """What a step of the first four problems ends with, and what it sampled beside them."""
    cfg = config.build(
        {
            "method": "sparse-grpo",
            "model": {"path": "m"},
            "data": {"path": "d"},
            "rollout": {"problems_per_step": 4, "redraw": limit},
        }
    )
    asked = []

    def sample(cfg, parts, further, *rest):
        asked.append([p.id for p in further])
        return sampled(further, silent)

    monkeypatch.setattr(gather, "sample", sample)
    first = list(problems[:4])
    parts = SimpleNamespace(problems=problems)
    sampler = SimpleNamespace(step=step)
    scored, replaced = gather.redraw(cfg, parts, first, sampled(first, silent), sampler, None)
    assert all(len(set(ids)) == len(ids) for ids in asked)
    return ids_of(scored), ids_of(replaced), asked


def ids_of(scored):
    return list(dict.fromkeys(s.rollout.problem_id for s in scored))


def test_without_the_setting_nothing_is_sampled(monkeypatch):
    every = {p.id for p in PROBLEMS}
    assert redraw(monkeypatch, every, 0) == (["p0", "p1", "p2", "p3"], [], [])


def test_a_problem_that_teaches_nothing_is_replaced_by_a_further_one(monkeypatch):
    kept, replaced, [further] = redraw(monkeypatch, {"p1", "p3"}, 5)
    assert replaced == ["p1", "p3"]
    assert kept == ["p0", "p2", *further]
    assert not {"p0", "p1", "p2", "p3"} & set(further)


def test_no_more_are_drawn_than_the_setting_allows(monkeypatch):
    every = {p.id for p in PROBLEMS}
    kept, replaced, asked = redraw(monkeypatch, every, 6)
    assert [len(ids) for ids in asked] == [4, 2]
    assert len(kept) == 4
    assert len(replaced) == 6
    assert not set(kept) & set(replaced)


def test_drawing_ends_where_no_problem_is_left(monkeypatch):
    every = {p.id for p in PROBLEMS}
    kept, replaced, asked = redraw(monkeypatch, every, 50)
    assert [len(ids) for ids in asked] == [4, 4]
    assert sorted([*kept, *replaced]) == sorted(every)


def test_the_same_step_draws_the_same_problems_and_another_draws_others(monkeypatch):
    """So a run that was killed in the step draws them again."""
    drawn = [redraw(monkeypatch, {"p0", "p1"}, 2, step)[2] for step in (7, 7, 8, 9, 10)]
    assert drawn[0] == drawn[1]
    assert any(other != drawn[0] for other in drawn[2:])


def test_a_replaced_problem_is_reported_and_not_learned_from(monkeypatch):
    cfg = config.build(
        {
            "method": "sparse-grpo",
            "model": {"path": "m"},
            "data": {"path": "d"},
            "rollout": {"problems_per_step": 4, "group_size": 2, "redraw": 8},
        }
    )
    first: set[str] = set()

    def sample(cfg, parts, problems, *rest):
        # of the step's own problems one is silent, of the further ones none
        silent = set() if first else {problems[0].id}
        first.update(silent)
        return sampled(problems, silent)

    monkeypatch.setattr(gather, "sample", sample)
    parts = SimpleNamespace(problems=PROBLEMS, teacher_prompts=None)
    data = gather.gather_examples(cfg, parts, SimpleNamespace(step=0), None)
    assert data.row() == {"reward/zero_variance_groups": 1, "rollout/redrawn": 1}
    assert len(data.examples) == 8
    assert len(data.scored) == len(data.advantages) == 10
    out = [
        s.rollout.problem_id
        for s, a in zip(data.scored, data.advantages, strict=True)
        if np.isnan(a).any()
    ]
    assert set(out) == first


def test_a_step_cannot_draw_more_problems_than_there_are():
    """The miniature has 16 problems."""
    own = ["rollout.problems_per_step=10", "eval.data=none"]
    cfg = config.load("configs/division_sparse.toml", [*own, "rollout.redraw=6"])
    tokenizer = load_tokenizer(cfg.model)
    assert len(load_training_problems(cfg, tokenizer)) == 16
    cfg = config.load("configs/division_sparse.toml", [*own, "rollout.redraw=7"])
    with pytest.raises(ConfigError, match=r"rollout\.redraw = 7: .* so that 6 are left to draw"):
        load_training_problems(cfg, tokenizer)
