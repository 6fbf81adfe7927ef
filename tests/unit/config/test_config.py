"""TOML and overrides, to a Config; and what a wrong one is told."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
import tomli_w
from pydantic import ValidationError

from exprl import config
from exprl.config.presets import OUTCOME_ADVANTAGES, PROCESS_ADVANTAGES
from exprl.errors import ConfigError

REPOSITORY = Path(__file__).parents[3]
BASE: dict[str, Any] = {
    "model": {"path": "org/model"},
    "data": {"path": "rows.jsonl"},
    "judge": {"kind": "rules"},
}


def build(**sections: Any) -> config.Config:
    return config.build({**BASE, **sections})


def load(folder: Path, *overrides: str, **sections: Any) -> config.Config:
    path = folder / "run.toml"
    path.write_text(tomli_w.dumps({**BASE, **sections}))
    return config.load(path, overrides)


def refusal(**sections: Any) -> str:
    with pytest.raises(ConfigError) as error:
        build(**sections)
    return str(error.value)


def test_a_minimal_config_takes_everything_else_from_preset_and_defaults() -> None:
    built = build()
    assert built.method == "exprl-process"
    assert (built.judge.view, built.advantage.kind) == ("prefix", "delta")
    assert (built.loss.clip_low, built.loss.clip_high) == (0.2, 0.26)
    assert built.optim.lr == 1e-6 and built.loss.kl_coef == 0.001
    assert built.rollout.temperature == 0.8


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (
            "exprl-outcome",
            {
                "reward.source": "judge",
                "judge.view": "outcome",
                "advantage.kind": "grpo",
                "loss.clip_high": 0.28,
                "optim.mini_batches": 2,
                "rollout.group_size": 10,
            },
        ),
        (
            "exprl-process",
            {
                "reward.source": "judge",
                "judge.view": "prefix",
                "advantage.kind": "delta",
                "loss.clip_high": 0.26,
                "optim.mini_batches": 1,
                "rollout.group_size": 16,
            },
        ),
        (
            "sparse-grpo",
            {
                "reward.source": "verifier",
                "advantage.kind": "grpo",
                "loss.clip_high": 0.26,
                "optim.mini_batches": 1,
                "rollout.group_size": 16,
                "rollout.problems_per_step": 32,
                "train.steps": 500,
            },
        ),
        ("sft", {"reward.source": "none", "loss.objective": "cross_entropy", "loss.kl_coef": 0.0}),
        (
            "self-distillation",
            {
                "reward.source": "none",
                "loss.objective": "reverse_kl",
                "loss.kl_coef": 0.0,
                "optim.lr": 1e-7,
            },
        ),
    ],
)
def test_a_method_is_the_papers_settings(method: str, settings: dict[str, Any]) -> None:
    built = config.flatten(build(method=method))
    assert built["loss.clip_low"] == 0.2
    assert {key: built[key] for key in settings} == settings


@pytest.mark.parametrize(
    ("method", "needed"),
    [
        ("exprl-process", True),
        ("exprl-outcome", True),
        ("sft", True),
        ("self-distillation", True),
        ("sparse-grpo", False),
    ],
)
def test_only_the_sparse_method_does_without_references(method: str, needed: bool) -> None:
    assert build(method=method).needs_references is needed
    data = {**BASE["data"], "columns": {"reference": "none"}}
    if needed:
        assert "set data.columns.reference" in refusal(method=method, data=data)
    else:
        build(method=method, data=data)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"method": "sft", "reward": {"source": "judge"}},
            "'cross_entropy' does not fit reward.source = 'judge'; set reward.source to 'none'",
        ),
        (
            {"reward": {"source": "none"}},
            "'policy_gradient' does not fit reward.source = 'none'; set reward.source to 'judge'",
        ),
        (
            {"method": "self-distillation", "loss": {"kl_coef": 0.1}},
            "kl_coef = 0.1 has no place in the reverse_kl objective; set it to 0",
        ),
        (
            {"method": "self-distillation", "teacher": {"prompt": "{problem}"}},
            "the teacher's prompt must contain {reference}",
        ),
    ],
)
def test_an_objective_that_does_not_fit_is_refused(sections: dict[str, Any], message: str) -> None:
    assert message in refusal(**sections)


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "configs").glob("*.toml")), ids=lambda p: p.stem
)
def test_every_config_of_the_repository_is_valid_and_complete(path: Path) -> None:
    built = config.load(path)
    assert config.build(tomllib.loads(config.to_toml(built))) == built


def test_what_the_file_sets_wins_over_the_method() -> None:
    built = build(method="exprl-outcome", advantage={"kind": "rloo"}, rollout={"group_size": 4})
    assert built.advantage.kind == "rloo"
    assert (built.rollout.group_size, built.rollout.problems_per_step) == (4, 36)


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        build().optim.lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("optim.lr=3e-4", "optim.lr", 3e-4),
        ("train.steps=8", "train.steps", 8),
        ("run_dir=runs/first", "run_dir", "runs/first"),
        ('run_dir="runs/a b"', "run_dir", "runs/a b"),
        ("logging.tensorboard=true", "logging.tensorboard", True),
        ("optim.betas=[0.8, 0.9]", "optim.betas", [0.8, 0.9]),
        ("data.template=Solve: {problem} = ?", "data.template", "Solve: {problem} = ?"),
        ("data.system=", "data.system", ""),
        ("data.columns.answer=none", "data.columns.answer", None),
        ("judge.condition=none", "judge.condition", "none"),
        (" seed = 7 ", "seed", 7),
        ("eval.data.path=test.jsonl", "eval.data.path", "test.jsonl"),
    ],
)
def test_an_override_is_a_dotted_key_and_a_toml_value_or_a_bare_word(
    override: str, key: str, value: object, tmp_path: Path
) -> None:
    assert config.flatten(load(tmp_path, override))[key] == value


def test_an_override_wins_over_the_file_and_the_last_one_over_the_others(tmp_path: Path) -> None:
    built = load(tmp_path, "seed=2", "seed=3", seed=1)
    assert built.seed == 3


def test_an_override_of_the_method_takes_its_preset(tmp_path: Path) -> None:
    assert load(tmp_path, "method=exprl-outcome").judge.view == "outcome"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr", "'optim.lr' is not of the form section.key=value"),
        ("=3", "'=3' is not of the form section.key=value"),
        ("seed.x=1", "'seed' is a value, not a section"),
        ("optim=3", "optim = 3"),
        ("optim.learning_rate=1", "unknown key optim.learning_rate"),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, override, seed=1)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"optimm": {}}, "unknown key optimm; did you mean optim?"),
        ({"rollout": {"groupsize": 4}}, "unknown key rollout.groupsize; did you mean rollout.grou"),
        (
            {"data": {"path": "x", "columns": {"anwser": "a"}}},
            "unknown key data.columns.anwser; did you mean data.columns.answer?",
        ),
        (
            {"eval": {"data": {"path": "x", "pathh": "y"}}},
            "unknown key eval.data.pathh; did you mean eval.data.path?",
        ),
        (
            {"reward": {"zzz": 1}},
            "unknown key reward.zzz; known: source, verifier_weight, overlong",
        ),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one_below_its_section(
    sections: dict[str, Any], message: str
) -> None:
    assert message in refusal(**sections)


@pytest.mark.parametrize(
    ("sections", "meant"),
    [
        ({"lr": 1e-6}, "optim.lr"),
        ({"train": {"lr": 1e-6}}, "optim.lr"),
        ({"train": {"seed": 1}}, "seed"),
        ({"steps": 5}, "reward.steps or train.steps"),
        ({"limit": 5}, "data.limit or eval.data.limit"),
        ({"optim": {"temprature": 1}}, "rollout.temperature"),
        ({"sampling": {"group_size": 4}}, "rollout.group_size"),
        ({"model": {"lora_rank": 8}}, "lora.rank"),
        ({"clip": 0.2}, "loss.clip_low or loss.clip_high"),
        ({"learning_rate": 1e-6}, "optim.lr"),
    ],
)
def test_a_key_that_stands_in_the_wrong_section_is_found_by_its_own_name(
    sections: dict[str, Any], meant: str
) -> None:
    assert f"did you mean {meant}" in refusal(**sections)


@pytest.mark.parametrize("sections", [{"foo": 1}, {"rollout": {"n": 4}}, {"batch_size": 32}])
def test_a_key_that_is_like_no_other_names_those_of_its_section(sections: dict[str, Any]) -> None:
    assert "; known: " in refusal(**sections)


@pytest.mark.parametrize(
    ("sections", "key", "value"),
    [
        ({"optim": {"lr": -1.0}}, "optim.lr", "-1.0"),
        ({"optim": {"lr": float("nan")}}, "optim.lr", "nan"),
        ({"optim": {"lr": float("inf")}}, "optim.lr", "inf"),
        ({"optim": {"betas": [0.9, 1.0]}}, "optim.betas.1", "1.0"),
        ({"rollout": {"temperature": 0}}, "rollout.temperature", "0"),
        ({"rollout": {"group_size": 2.5}}, "rollout.group_size", "2.5"),
        ({"judge": {"kind": "rules", "view": "suffix"}}, "judge.view", "'suffix'"),
        ({"method": "grpo"}, "method", "'grpo'"),
        ({"data": {"path": "x", "template": "Solve it."}}, "data.template", "'Solve it.'"),
        ({"data": {"path": "x", "answer_pattern": "#### .+"}}, "data.answer_pattern", "'#### .+'"),
        ({"data": {"path": "x", "answer_pattern": "("}}, "data.answer_pattern", "'('"),
        ({"eval": {"max_response_tokens": 0}}, "eval.max_response_tokens", "0"),
        ({"model": {"path": "none"}, "seed": "none"}, "seed", "'none'"),
        ({"seed": True}, "seed", "True"),
        ({"judge": {"kind": "rules", "rpm": True}}, "judge.rpm", "True"),
        ({"run_dir": ""}, "run_dir", "''"),
        ({"model": {"path": ""}}, "model.path", "''"),
    ],
)
def test_a_wrong_value_is_shown_with_its_key(
    sections: dict[str, Any], key: str, value: str
) -> None:
    assert f"config: {key} = {value}: " in refusal(**sections)


def test_every_mistake_is_reported_at_once() -> None:
    text = refusal(optim={"lr": 0}, seed=-1, model={})
    assert {line.split(" = ")[0].split(" is ")[0] for line in text.splitlines()} == {
        "config: optim.lr",
        "config: seed",
        "config: model.path",
    }


@pytest.mark.parametrize(
    "sections",
    [
        {"advantage": {"kind": "grpo"}},
        {"method": "exprl-outcome", "advantage": {"kind": "delta"}},
        {"method": "sparse-grpo", "advantage": {"kind": "group"}},
        {"judge": {"kind": "rules", "view": "outcome"}},
        {"method": "exprl-outcome", "judge": {"kind": "rules", "view": "step"}},
        {"reward": {"source": "verifier"}},
    ],
)
def test_a_reward_and_an_advantage_that_do_not_fit_are_refused(sections: dict[str, Any]) -> None:
    text = refusal(**sections)
    assert "does not fit a reward of one score per" in text
    assert "use one of" in text


def test_every_advantage_kind_fits_exactly_one_kind_of_reward() -> None:
    kinds = get_args(config.Advantage.model_fields["kind"].annotation)
    assert set(kinds) == {*OUTCOME_ADVANTAGES, *PROCESS_ADVANTAGES}
    for kind in OUTCOME_ADVANTAGES:
        assert build(method="exprl-outcome", advantage={"kind": kind}).advantage.kind == kind
    for kind in PROCESS_ADVANTAGES:
        assert build(method="exprl-process", advantage={"kind": kind}).advantage.kind == kind


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"method": "sparse-grpo", "data": {"path": "x", "columns": {"answer": "none"}}},
            "reward.source = 'verifier' needs answers",
        ),
        ({"judge": {}}, "judge.endpoints is empty"),
        ({"judge": {"endpoints": ["http://h:1/v1"]}}, "judge.model is empty"),
        (
            {"judge": {"endpoints": ["http://h:1/v1"], "serve": {"model": "m"}}},
            "judge.serve starts servers of the judge, and judge.endpoints names others",
        ),
        (
            {"judge": {"kind": "rules", "serve": {"model": "m"}}},
            "judge.kind = 'rules' names others",
        ),
        (
            {"judge": {"api_key_env": "KEY", "serve": {"model": "m"}}},
            "judge.serve starts servers with a key of the run's own",
        ),
        (
            {"engine": {"kind": "child"}, "cluster": {"kind": "ray"}},
            "engine.kind = 'child' is a process of this one",
        ),
        ({"loss": {"clip_low": "none"}}, "clip_low and clip_high go together"),
        ({"optim": {"mini_batches": 1000}}, "optim.mini_batches = 1000 exceeds the 576 rollouts"),
        (
            {"eval": {"max_response_tokens": 20000}},
            "eval.max_response_tokens = 20000 exceeds rollout.max_response_tokens = 16384",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    sections: dict[str, Any], message: str
) -> None:
    assert message in refusal(**sections)


@pytest.mark.parametrize(
    "judge",
    [
        {"endpoints": ["http://user:hunter2@host/v1"]},
        {"endpoints": ["https://host/v1?key=hunter2"]},
        {"endpoints": ["hunter2"]},
        {"endpoints": ["http://host/v1"], "api_key_env": "sk-hunter2"},
    ],
)
def test_a_secret_in_the_judge_section_is_refused_and_not_repeated(judge: dict[str, Any]) -> None:
    text = refusal(judge={"model": "m", **judge})
    assert "judge.api_key_env" in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    "engine",
    [
        {"urls": ["http://user:hunter2@host:8000"]},
        {"urls": ["http://host:8000?token=hunter2"]},
        {"urls": ["http://host:8000/v1/hunter2"]},
        {"urls": ["host:8000/hunter2"]},
        {"urls": ["http://host:8000"], "token_env": "sk-hunter2"},
    ],
)
def test_a_secret_in_the_engine_section_is_refused_and_not_repeated(engine: dict[str, Any]) -> None:
    text = refusal(engine={"kind": "servers", **engine})
    assert "engine.token_env" in text
    assert "hunter2" not in text


def test_servers_that_nothing_asks_are_refused() -> None:
    assert "engine.kind = 'servers'" in refusal(engine={"urls": ["http://host:8000"]})
    assert "leave it out" in refusal(engine={"kind": "servers", "token_env": "TOKEN"})
    build(engine={"kind": "servers", "urls": ["http://host:8000/"], "token_env": "TOKEN"})


def test_none_unsets_what_may_be_unset_and_is_a_word_elsewhere() -> None:
    built = build(
        loss={"clip_low": "none", "clip_high": "none"},
        reward={"overlong": "none"},
        judge={"kind": "rules", "condition": "none"},
    )
    assert (built.loss.clip_low, built.loss.clip_high) == (None, None)
    assert (built.reward.overlong, built.judge.condition) == ("none", "none")


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"method": "sparse-grpo"},
        {"method": "exprl-outcome", "judge": {"endpoints": ["http://[::1]:1/v1"], "model": "m"}},
        {"loss": {"clip_low": "none", "clip_high": "none"}, "reward": {"overlong": "none"}},
        {"data": {"path": "ü.csv", "system": 'a "b"\n\\c', "answer_pattern": r"####\s*(.+)"}},
        {"eval": {"data": {"path": "x", "columns": {"reference": "none"}}, "every": 2}},
        {"judge": {"kind": "rules", "condition": "none", "api_key_env": "KEY"}},
    ],
)
def test_the_resolved_config_reads_back_as_itself(sections: dict[str, Any], tmp_path: Path) -> None:
    built = build(**sections)
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml(built), encoding="utf-8")
    assert config.load(path) == built


def test_the_resolved_config_spells_out_the_preset(tmp_path: Path) -> None:
    # So a later change of the presets does not change an old run.
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml(build(method="exprl-outcome")))
    assert 'view = "outcome"' in path.read_text() and "clip_high = 0.28" in path.read_text()


def test_a_value_of_the_wrong_kind_is_told_in_words_of_toml() -> None:
    judge = {"endpoints": "http://a/v1", "model": "m"}
    assert "judge.endpoints = 'http://a/v1': expected a list" in refusal(judge=judge)
    assert "optim = 3: expected a section" in refusal(optim=3)


def test_a_byte_order_mark_is_no_part_of_the_config(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b'\xef\xbb\xbfmethod = "sft"\n[model]\npath = "m"\n[data]\npath = "d"\n')
    assert config.load(path).method == "sft"


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such config file"):
        config.load(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory"):
        config.load(tmp_path)
    for content in (b"seed = ", b"\xff"):
        broken.write_bytes(content)
        with pytest.raises(ConfigError, match=r"broken\.toml: not valid TOML"):
            config.load(broken)


def test_the_json_schema_knows_every_section() -> None:
    schema = json.loads(config.json_schema())
    assert set(schema["properties"]) == set(config.Config.model_fields)


def test_the_config_is_light() -> None:
    program = (
        "import sys, exprl.config;"
        "heavy = {'torch', 'vllm', 'transformers', 'datasets', 'numpy'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or None)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def ahead(objective="policy_gradient", **loss):
    return {
        "model": {"path": "m"},
        "data": {"path": "d"},
        "judge": {"kind": "rules"},
        "engine": {"kind": "child"},
        "rollout": {"ahead": 1},
        "loss": {"objective": objective, **loss},
    }


def test_sampling_ahead_sets_a_cap_of_the_importance_weight_that_the_file_leaves_open():
    assert config.build(ahead()).loss.importance_cap == 2.0
    assert config.build(ahead(importance_cap=5.0)).loss.importance_cap == 5.0
    without = ahead() | {"rollout": {"ahead": 0}}
    assert config.build(without).loss.importance_cap is None
    with pytest.raises(ConfigError, match=r"ahead = 1 trains on .*loss.importance_cap to a"):
        config.build(ahead(importance_cap="none"))


def test_sampling_ahead_is_refused_where_nothing_is_sampled_or_lag_is_not_corrected():
    off = {"reward": {"source": "none"}}
    for objective in ("cross_entropy", "reverse_kl"):
        with pytest.raises(ConfigError, match=f"rollout.ahead = 1: loss.objective = '{objective}'"):
            config.build(ahead(objective, kl_coef=0.0) | off)


def test_a_wrong_value_of_ahead_is_told_of_as_any_other():
    with pytest.raises(ConfigError, match=r"rollout.ahead"):
        config.build(ahead() | {"rollout": {"ahead": "much"}})
    with pytest.raises(ConfigError, match=r"rollout"):
        config.build(ahead() | {"rollout": 1})


def test_the_judges_model_is_the_one_that_is_served_unless_it_has_another_name() -> None:
    assert build(judge={"serve": {"model": "Qwen/Qwen3-4B"}}).judge.model == "Qwen/Qwen3-4B"
    named = build(judge={"model": "judge", "serve": {"model": "models/qwen"}})
    assert named.judge.model == "judge"


def test_servers_of_the_judge_come_back_from_the_run_as_they_were(tmp_path: Path) -> None:
    serve = {"model": "m", "count": 2, "gpus_each": 4, "args": {"max_model_len": 16384}}
    cfg = build(judge={"serve": serve})
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml(cfg))
    assert config.load(path) == cfg
