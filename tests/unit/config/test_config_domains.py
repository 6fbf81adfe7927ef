"""Several datasets in one run, and what a config may say about each domain."""

from typing import Any

import pytest

from exprl import config
from exprl.errors import ConfigError

SOURCES = """
run_dir = "runs/x"

[model]
path = "m"

[data]
template = "Q: {problem}"
limit = 7
columns = { problem = "question" }

[[data.sources]]
path = "a.jsonl"
weight = 2.0

[[data.sources]]
path = "b.jsonl"
domain = "code"
template = "{problem}"
columns = { answer = "test", entry_point = "entry_point" }

[judge]
kind = "rules"

[domains.code]
source = "max"
view = "outcome"
advantage = "grpo"
"""


@pytest.fixture
def cfg(tmp_path) -> config.Config:
    path = tmp_path / "mixed.toml"
    path.write_text(SOURCES)
    return config.load(path)


def refusal(**sections: Any) -> str:
    tree = {"model": {"path": "m"}, "data": {"path": "d"}, "judge": {"kind": "rules"}} | sections
    with pytest.raises(ConfigError) as error:
        config.build(tree)
    return str(error.value)


def test_a_source_inherits_what_it_leaves_open(cfg):
    first, second = cfg.data.parts
    assert (first.template, first.limit, first.weight) == ("Q: {problem}", 7, 2.0)
    assert (second.template, second.limit, second.weight) == ("{problem}", 7, 1.0)
    assert first.columns.problem == second.columns.problem == "question"
    assert (first.columns.answer, second.columns.answer) == ("answer", "test")
    assert (first.domain, second.domain) == ("math", "code")


def test_one_dataset_is_one_part_of_weight_one():
    data = config.Data(path="d", limit=3)
    (part,) = data.parts
    assert (part.path, part.limit, part.weight) == ("d", 3, 1.0)


def test_a_mixed_config_survives_its_own_toml(cfg, tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml(cfg))
    assert config.load(path) == cfg


def test_overrides_reach_a_source_by_its_number(cfg, tmp_path):
    path = tmp_path / "mixed.toml"
    changed = config.load(path, ["data.sources.1.limit=3", "domains.code.source=verifier"])
    assert [part.limit for part in changed.data.parts] == [7, 3]
    assert changed.treatment("code").source == "verifier"
    with pytest.raises(ConfigError, match=r"'sources' is a list; .* 0\.\.1"):
        config.load(path, ["data.sources.limit=3"])
    with pytest.raises(ConfigError, match="'2' is a value, not a section"):
        config.load(path, ["data.sources.2.limit=3"])


def test_a_domain_is_treated_as_the_run_where_it_says_nothing(cfg):
    assert cfg.treatment("math").per_segment
    assert cfg.treatment("math").advantage == "delta"
    code = cfg.treatment("code")
    assert (code.verifier, code.advantage, code.per_segment) == ("code", "grpo", False)
    assert code.judged and code.verified
    assert set(cfg.treatments) == {"math", "code"}


def test_the_name_of_a_domain_chooses_its_verifier(cfg):
    names = ("math", "science", "choice", "code", "exact", "history")
    found = [cfg.treatment(name).verifier for name in names]
    assert found == ["math", "science", "choice", "code", "exact", "math"]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"path": "d", "sources": [{"path": "a"}]}}, "and not both"),
        ({"data": {}}, "name one dataset with path"),
        ({"data": {"sources": [{"path": "a"}, {}]}}, "path of source 2 is missing"),
        (
            {"data": {"sources": [{"path": "a", "wieght": 2}]}},
            "unknown key data.sources.0.wieght; did you mean data.sources.0.weight?",
        ),
        ({"data": {"sources": [{"path": "a", "weight": 0}]}}, "data.sources.0.weight = 0"),
        (
            {"domains": {"code": {"sorce": "max"}}},
            "unknown key domains.code.sorce; did you mean domains.code.source?",
        ),
        (
            {"domains": {"rubric": {"sorce": "max"}}},  # a domain that is called as a key is
            "unknown key domains.rubric.sorce; did you mean domains.rubric.source?",
        ),
        (
            {"domains": {"code": {"view": "outcome"}}},
            "domains.code: advantage = 'delta' does not fit source = 'judge' with view = 'outcome'",
        ),
        ({"domains": {"code": {"source": "max"}}}, "domains.code: source = 'max' joins"),
        (
            {
                "data": {"path": "d", "domain": "code", "columns": {"answer": "none"}},
                "domains": {"code": {"source": "verifier", "advantage": "grpo"}},
            },
            "needs answers, and d has none",
        ),
        (
            {
                "data": {"path": "d", "columns": {"answer": "none"}},
                "domains": {},
                "advantage": {"last": "verifier"},
            },
            "advantage.last = 'verifier' needs answers, and d has none",
        ),
        (
            {
                "data": {"path": "d"},
                "domains": {},
                "judge": {"kind": "rules", "view": "outcome"},
                "advantage": {"kind": "grpo", "last": "verifier"},
            },
            "this run has no score per step; set reward.source = 'verifier'",
        ),
        (
            {
                "data": {"path": "d"},
                "domains": {},
                "method": "sft",
                "rollout": {"redraw": 4},
            },
            "loss.objective = 'cross_entropy' has no advantages; set rollout.redraw to 0",
        ),
    ],
)
def test_what_does_not_fit_is_refused(sections, message):
    assert message in refusal(**sections)


def test_a_run_whose_domains_all_verify_asks_no_judge():
    tree = {
        "model": {"path": "m"},
        "data": {"path": "d", "domain": "code"},
        "domains": {"code": {"source": "verifier", "advantage": "grpo"}},
    }
    assert not config.build(tree).asks_judge  # and so needs no endpoints
