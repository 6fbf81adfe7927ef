"""The judge as verl's custom reward function, and the estimators that keep out missing rewards.

verl 0.9.1 needs other versions of transformers and torch than exprl, so it is no requirement of the
tests. Where it can be imported, its own registry, loader and reward manager are used; else what
verl/trainer/ppo/core_algos.py of 0.9.1 calls: a decorator that takes the estimator's name, and
arguments by keyword, as in `compute_advantage` of verl/trainer/ppo/ray_trainer.py.
"""

import asyncio
import importlib
import math
import sys
from functools import partial
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from exprl.errors import ConfigError, JudgeError
from exprl.integrations import verl as reward_module
from exprl.judge import RuleJudge

try:
    import verl
except ImportError:
    verl = None

RIGHT, WRONG = "### 3 + 4 = 7 ### The answer is 7.", "### 3 + 4 = 7 ### The answer is 8."
ROW = {"question": "What is 3 + 4?", "reference": "3 + 4 = 7"}


@pytest.fixture
def server():
    with RuleJudge("numbers") as judge:
        yield judge


@pytest.fixture
def config(server, tmp_path):
    yield partial(write_config, server, tmp_path)
    reward_module.open_grader.cache_clear()


@pytest.fixture
def speechless(tmp_path):
    """The config of a judge that grades nothing."""
    with RuleJudge("numbers", no_grade_rate=1.0) as server:
        yield write_config(server, tmp_path)
    reward_module.open_grader.cache_clear()


def write_config(server, folder, **settings):
    settings = {"view": "outcome", "attempts": 1, **settings}
    lines = [f'endpoints = ["{server.url}"]', f'model = "{server.model}"']
    lines += [f"{name} = {value!r}" for name, value in settings.items()]
    (folder / "judge.toml").write_text("\n".join(["[judge]", *lines]))
    return str(folder / "judge.toml")


def score(text, row=ROW, **reward_kwargs):
    """As verl's naive reward manager calls it, with the reward_kwargs of the settings."""
    call = {"data_source": "numbers", "solution_str": text, "ground_truth": "7"}
    more = {"num_turns": None, "rollout_reward_scores": {}}
    function = reward_module.compute_score
    return asyncio.run(function(**call, extra_info={**row, **more}, **reward_kwargs))


def test_a_right_response_scores_1_and_a_wrong_one_0(config):
    path = config()
    assert score(RIGHT, config=path) == {"score": 1.0, "missing": 0.0, "steps": 1.0}
    assert score(WRONG, config=path) == {"score": 0.0, "missing": 0.0, "steps": 1.0}


def test_the_reward_of_steps_is_their_mean(config):
    assert score(WRONG, config=config(view="prefix")) == {"score": 0.5, "missing": 0, "steps": 2}


def test_a_response_without_a_score_ends_the_training_or_is_nan(speechless):
    with pytest.raises(JudgeError, match=r"a response has no score: .+"):
        score(RIGHT, config=speechless)
    result = score(RIGHT, config=speechless, missing="nan")
    assert math.isnan(result["score"])
    assert result["missing"] == 1.0


def test_a_judge_that_grades_nothing_ends_the_training_though_single_scores_may_be_missing(
    speechless,
):
    with pytest.raises(JudgeError, match="100% of the last 64"):
        for _ in range(64):
            score(RIGHT, config=speechless, missing="nan")


def test_a_field_that_is_not_there_and_a_wrong_setting_are_named(config):
    with pytest.raises(ConfigError, match="no field 'solution', only"):
        score(RIGHT, config=config(), reference="solution")
    with pytest.raises(ConfigError, match=r"judge\.toml: unknown key judge\.veiw"):
        score(RIGHT, config=config(veiw="outcome"))


@pytest.fixture
def estimators(monkeypatch):
    """The names and functions of exprl's estimators."""
    if verl is not None:
        importlib.import_module("exprl.integrations.verl_advantage")
        from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

        return ADV_ESTIMATOR_REGISTRY
    registered = {}
    core = ModuleType("verl.trainer.ppo.core_algos")
    core.register_adv_est = lambda name: lambda function: registered.setdefault(name, function)
    for name in ("verl", "verl.trainer", "verl.trainer.ppo"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, core.__name__, core)
    monkeypatch.delitem(sys.modules, "exprl.integrations.verl_advantage", raising=False)
    importlib.import_module("exprl.integrations.verl_advantage")
    monkeypatch.delitem(sys.modules, "exprl.integrations.verl_advantage")
    return registered


def test_a_missing_reward_is_in_no_statistic_of_its_group_and_gets_no_advantage(estimators):
    rewards = [1.0, 0.0, math.nan, 1.0, 1.0, 0.5]
    prompts = np.array(["b", "a", "b", "a", "b", "b"], object)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]] * 3)
    scores = torch.zeros(6, 3)
    for row, reward in enumerate(rewards):
        scores[row, int(mask[row].sum()) - 1] = reward
    advantages, returns = estimators["exprl_dr_grpo"](
        token_level_rewards=scores, response_mask=mask, config=SimpleNamespace(), index=prompts
    )
    # Group a: 0 and 1. Group b: 1, 1 and 0.5.
    by_hand = torch.tensor([1 / 6, -0.5, 0, 0.5, 1 / 6, -1 / 3])
    assert torch.allclose(advantages, by_hand[:, None] * mask)
    assert torch.equal(returns, advantages)


def test_each_outcome_kind_is_an_estimator(estimators):
    kinds = ("grpo", "dr_grpo", "rloo", "reinforce")
    assert {f"exprl_{kind}" for kind in kinds} <= set(estimators)


def test_verl_finds_the_function_by_its_path():
    """What `load_extern_object` of verl/utils/import_utils.py does with pkg://."""
    if verl is None:
        module = importlib.import_module("exprl.integrations.verl")
        found = module.compute_score
    else:
        from verl.utils.import_utils import load_extern_object

        found = load_extern_object("pkg://exprl.integrations.verl", "compute_score")
    assert asyncio.iscoroutinefunction(found)
