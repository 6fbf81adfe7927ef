"""Rows of several domains in one step: real judges over HTTP, a real sandbox, no engine."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from exprl import config
from exprl.data import mixture
from exprl.data.problems import load_problems
from exprl.data.references import choose_references
from exprl.errors import ConfigError, DataError
from exprl.judge import LedgerReader
from exprl.learn.advantages import segment_advantages
from exprl.monitor.rollout_file import write_rollouts
from exprl.monitor.step_metrics import step_row
from exprl.reward.judges import ledger_folder, open_judges
from exprl.reward.scorer import Scorer
from exprl.run.checkpoint import RunState
from exprl.run.open import open_verifiers
from exprl.run.problems import load_training_problems
from exprl.steps import Splitter
from exprl.types import Rollout

MATH = [
    {"question": f"What is {n} and 3?", "answer": f"{n} + 3 = {n + 3}\n#### {n + 3}"}
    for n in range(6)
]
CODE = [
    {
        "prompt": f'def add_{n}(x):\n    """Add {n}."""\n',
        "canonical_solution": f"    return x + {n}\n",
        "test": f"def check(candidate):\n    assert candidate(2) == {n + 2}\n",
        "entry_point": f"add_{n}",
    }
    for n in range(3)
]
RIGHT_STEPS = "2 + 3 = 5###So \\boxed{5}"
WRONG_STEPS = "2 + 3 = 5###So \\boxed{6}"
RIGHT_CODE = "```python\ndef add_1(x):\n    return x + 1\n```"
WRONG_CODE = "```python\nimport sys\nsys.exit(0)\n```"


def tree(folder: Path) -> dict:
    for name, rows in (("math", MATH), ("code", CODE)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model": {"path": "m"},
        "data": {
            "sources": [
                {
                    "path": str(folder / "math.jsonl"),
                    "weight": 2,
                    "answer_pattern": r"####\s*(.+)",
                    "columns": {"problem": "question", "reference": "answer"},
                },
                {
                    "path": str(folder / "code.jsonl"),
                    "domain": "code",
                    "columns": {
                        "problem": "prompt",
                        "reference": "canonical_solution",
                        "answer": "test",
                        "entry_point": "entry_point",
                        "setup": "prompt",
                    },
                },
            ]
        },
        "rollout": {"problems_per_step": 3, "group_size": 2},
        "judge": {"kind": "rules", "rules": "numbers"},
        "domains": {"code": {"source": "max", "view": "outcome", "advantage": "grpo"}},
        "sandbox": {"timeout_s": 10},
    }


@pytest.fixture
def cfg(tmp_path) -> config.Config:
    return config.build(tree(tmp_path))


def rollout(tokenizer, problem_id, index, text):
    ids = tokenizer.encode(text + "<eos>").ids
    return Rollout(
        problem_id,
        index,
        np.zeros(1, np.int32),
        np.array(ids, np.int32),
        np.zeros(len(ids), np.float32),
        "stop",
        np.zeros(len(ids), np.int32),
    )


@pytest.fixture
def scored(cfg, tokenizer, tmp_path):
    problems = load_problems(cfg.data)
    try:
        verifiers = open_verifiers(cfg, problems)
    except ConfigError as error:
        pytest.skip(f"no full confinement here: {error}")
    chosen = [p for p in problems if p.id in ("1/3", "2/2")]
    with open_judges(cfg.judge, cfg.treatments, cfg.treatment, cfg.seed, tmp_path) as judges:
        references = choose_references(cfg.judge.condition, problems, cfg.seed)
        splitter = Splitter(tokenizer.to_str())
        scorer = Scorer(chosen, references, splitter, cfg.reward, cfg.treatment, judges, verifiers)
        for problem, texts in zip(
            chosen, ((RIGHT_STEPS, WRONG_STEPS), (RIGHT_CODE, WRONG_CODE)), strict=True
        ):
            for index, text in enumerate(texts):
                scorer.push(rollout(tokenizer, problem.id, index, text))
        done = scorer.finish(lambda *_: None)
        stats = judges.stats()
        answered = stats.requests_sent + stats.shared + stats.from_ledger
        assert answered == 2 * 2 + 2  # two prefixes of two rollouts, and two whole ones
    return done


def test_each_row_is_scored_as_its_domain_says(scored):
    right, wrong, program, hostile = scored
    assert [len(s.scores) for s in scored] == [2, 2, 1, 1]
    assert [s.correct for s in scored] == [True, False, True, False]
    assert right.scores[-1] == 1.0 > wrong.scores[-1]
    assert program.scores == (1.0,)  # passed, whatever its grade
    assert hostile.scores[0] is not None and hostile.scores[0] < 1.0  # the judge's alone
    assert not any(s.missing for s in scored)


def test_process_and_outcome_advantages_stand_in_one_batch(cfg, scored):
    values = segment_advantages(scored, cfg.treatment, cfg.advantage, 0)
    assert [len(v) for v in values] == [2, 2, 1, 1]
    for steps in values[:2]:  # delta
        assert steps.sum() == pytest.approx(0.0)
    program, hostile = (float(v[0]) for v in values[2:])  # grpo
    assert program == pytest.approx(-hostile) and program > 0.5


def test_metrics_are_shown_by_domain(cfg, scored):
    problems = load_problems(cfg.data)
    state = RunState(solved={s.rollout.problem_id for s in scored if s.correct})
    row = step_row(scored, [], problems, {}, state, None)
    for name in ("math", "code"):
        assert row[f"rollouts/{name}"] == 2
        assert row[f"correct/{name}"] == 0.5
        assert row[f"missing/{name}"] == 0.0
        assert 0.5 <= row[f"score/{name}"] <= 1.0
    assert row["steps/single_rate"] == 0.0  # programs have one step, and need no more
    assert row["unsolved/math"] == pytest.approx(5 / 6)
    assert row["unsolved/code"] == pytest.approx(2 / 3)
    only_math = step_row(scored[:2], [], problems, {}, state, None)
    assert only_math["rollouts/code"] == 0 and math.isnan(only_math["score/code"])


def test_judges_of_different_views_keep_ledgers_of_their_own(scored, tmp_path):
    folders = {p.name for p in tmp_path.iterdir() if p.is_dir()}
    assert folders == {"ledger", "ledger-outcome"}


def test_each_grade_finds_its_reply_in_the_ledger_of_its_domain(cfg, scored, tmp_path):
    for domain, one in (("math", scored[1]), ("code", scored[3])):
        treatment = cfg.treatment(domain)
        with LedgerReader(ledger_folder(cfg.judge, cfg.treatments, treatment, tmp_path)) as reader:
            grades = [reader.get(key).grade for key in one.ledger_keys]
        assert grades == list(one.grades) != []
    unjudged = config.build(
        tree(tmp_path) | {"domains": {"code": {"source": "verifier", "advantage": "grpo"}}}
    )
    treatment = unjudged.treatment("code")
    assert ledger_folder(unjudged.judge, unjudged.treatments, treatment, tmp_path) is None


def test_rubrics_of_one_name_in_two_folders_have_ledgers_of_their_own(tmp_path):
    mixed = tree(tmp_path) | {"domains": {}}
    for domain in ("math", "code"):
        rubric = tmp_path / domain / "rubric.toml"
        rubric.parent.mkdir()
        rubric.write_text('head = "Judge."\ninstruction = "End with `Score: n`."\n')
        mixed["domains"][domain] = {"rubric": str(rubric)}
    cfg = config.build(mixed)
    with open_judges(cfg.judge, cfg.treatments, cfg.treatment, cfg.seed, tmp_path / "run"):
        assert len(list((tmp_path / "run").glob("ledger-*"))) == 2


def test_the_record_names_the_domain(cfg, scored, tmp_path):
    from pyarrow import parquet

    path = write_rollouts(
        tmp_path, 0, scored, segment_advantages(scored, cfg.treatment, cfg.advantage, 0)
    )
    assert parquet.read_table(path)["domain"].to_pylist() == ["math"] * 2 + ["code"] * 2


def test_rows_keep_their_source_and_steps_mix_them(cfg):
    problems = load_problems(cfg.data)
    assert [p.id for p in problems] == [*(f"1/{i}" for i in range(1, 7)), "2/1", "2/2", "2/3"]
    assert problems[-1].answer == CODE[-1]["test"] + "\n\ncheck(add_2)\n"
    assert problems[-1].setup == CODE[-1]["prompt"]
    weights = [part.weight for part in cfg.data.parts]
    for step in range(5):
        domains = [p.domain for p in mixture.draw_problems(problems, weights, 3, 0, step)]
        assert sorted(domains) == ["code", "math", "math"]


def test_a_section_for_a_domain_that_no_row_has_is_refused(tmp_path):
    wrong = tree(tmp_path)
    wrong["domains"]["coding"] = {"source": "verifier", "advantage": "grpo"}
    with pytest.raises(ConfigError, match=r"\[domains.coding\]: .*the data has code, math"):
        load_training_problems(config.build(wrong), FewTokens())


def test_a_source_that_cannot_fill_its_share_is_refused(tmp_path):
    wrong = tree(tmp_path)
    wrong["data"]["sources"][1]["weight"] = 20
    wrong["rollout"]["problems_per_step"] = 6
    with pytest.raises(ConfigError, match=r"sources.1.weight = 20.* up to 6 .*which has 3"):
        load_training_problems(config.build(wrong), FewTokens())


def test_tests_that_are_no_python_are_refused_with_their_row(tmp_path):
    wrong = tree(tmp_path)
    wrong["data"]["sources"][1]["columns"]["answer"] = "canonical_solution"
    with pytest.raises(DataError, match=r"id '2/1', domain 'code': the tests are not Python"):
        load_training_problems(config.build(wrong), FewTokens())


def test_only_rows_that_are_judged_need_references(tmp_path):
    mixed = tree(tmp_path)
    mixed["domains"]["code"] = {"source": "verifier", "advantage": "grpo"}
    mixed["data"]["sources"][1]["columns"]["reference"] = "none"
    assert len(load_training_problems(config.build(mixed), FewTokens())) == 9
    del mixed["domains"]
    with pytest.raises(ConfigError, match=r"code.jsonl has none"):
        config.build(mixed)


class FewTokens:
    """A tokenizer as far as lengths of prompts go."""

    def apply_chat_template(self, *_, **__):
        return "..."

    def __call__(self, text, **_):
        return {"input_ids": list(text)}
