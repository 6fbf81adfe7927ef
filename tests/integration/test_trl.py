"""exprl's judge inside the real GRPOTrainer of TRL, which trains the miniature on the CPU."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from exprl.errors import ConfigError, JudgeError
from exprl.integrations.trl import JudgeReward
from exprl.integrations.trl_steps import StepReward, StepTrainer
from exprl.judge import Judge, JudgeItem, JudgeSettings, RuleJudge

BASE = Path("examples/division/base")
PROBLEMS, GROUP = 8, 8


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture
def server():
    with RuleJudge("division") as judge:
        yield judge


def settings(server, view, **others):
    return JudgeSettings((server.url,), server.model, view=view, **others)


def rows(tokenizer):
    lines = (BASE.parent / "train.jsonl").read_text(encoding="utf-8").splitlines()
    problems = [json.loads(line) for line in lines]
    return [
        {
            "prompt": f"{tokenizer.bos_token}{one['problem']}",
            "problem": one["problem"],
            "reference": one["reference"],
            "domain": "division",
        }
        for one in problems[:PROBLEMS]
    ]


def trainer(kind, reward, tokenizer, folder, data=None, **others):
    args = {
        "per_device_train_batch_size": PROBLEMS * GROUP,
        "num_generations": GROUP,
        "max_completion_length": 80,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "beta": 0.0,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "seed": 0,
        "max_steps": 1,
        **others,
    }
    return kind(
        AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32),
        reward,
        args=GRPOConfig(output_dir=str(folder), **args),
        train_dataset=Dataset.from_list(data or rows(tokenizer)),
        processing_class=tokenizer,
    )


def logged(one, name):
    return [entry[name] for entry in one.state.log_history if name in entry]


def record(kind):
    """The trainer, keeping what it makes of each batch of completions."""

    class Recording(kind):
        outputs = ()

        def _generate_and_score_completions(self, inputs):
            output = super()._generate_and_score_completions(inputs)
            self.outputs = (*self.outputs, (inputs, output))
            return output

    return Recording


def test_a_policy_learns_from_the_judge_and_not_from_the_references_of_other_problems(
    tokenizer, server, tmp_path
):
    right = rows(tokenizer)
    others = [row["reference"] for row in right[1:] + right[:1]]
    wrong = [{**row, "reference": other} for row, other in zip(right, others, strict=True)]
    ends = []
    for data in (right, wrong):
        reward = JudgeReward(settings(server, "outcome"))
        one = trainer(GRPOTrainer, reward, tokenizer, tmp_path, data, max_steps=5)
        one.train()
        ends.append(logged(one, "rewards/JudgeReward/mean")[-1])
    assert ends[0] > 0.2
    assert ends[1] < 0.05


def test_each_token_has_the_advantage_of_its_step_and_the_policy_learns_from_it(
    tokenizer, server, tmp_path
):
    reward = StepReward(settings(server, "prefix"))
    one = trainer(record(StepTrainer), reward, tokenizer, tmp_path, max_steps=4)
    one.train()
    means = logged(one, "rewards/StepReward/mean")
    assert means[-1] > means[0] + 0.1
    rows_of_batch, batch = one.outputs[0]
    texts = tokenizer.batch_decode(batch["completion_ids"], skip_special_tokens=True)
    with Judge(settings(server, "prefix")) as judge:
        for i, (row, text) in enumerate(zip(rows_of_batch, texts, strict=True)):
            steps = cut(text)
            item = JudgeItem("0", row["problem"], row["reference"], steps, "division")
            [graded] = judge.submit([item]).result()
            scores = [verdict.score for verdict in graded.verdicts]
            # The delta: each step is held against the one before, the first against the last.
            before = [scores[-1], *scores[:-1]]
            tokens = [len(tokenizer(step)["input_ids"]) for step in steps]
            tokens[-1] = int(batch["completion_mask"][i].sum()) - sum(tokens[:-1])  # with eos
            by_hand = np.repeat(np.subtract(scores, before), tokens)
            advantages = batch["advantages"][i].numpy()
            np.testing.assert_allclose(advantages[: len(by_hand)], by_hand, atol=1e-6)
            assert not advantages[len(by_hand) :].any()


def cut(text):
    """The steps of a text, by hand."""
    first, *others = text.split("###")
    return tuple(filter(None, [first, *(f"###{other}" for other in others)]))


@pytest.mark.parametrize(
    ("kind", "function", "view"),
    [(GRPOTrainer, JudgeReward, "outcome"), (StepTrainer, StepReward, "prefix")],
    ids=["outcome", "steps"],
)
def test_a_completion_without_a_grade_is_in_no_statistic_and_teaches_nothing(
    tokenizer, tmp_path, kind, function, view
):
    with RuleJudge("division", no_grade_rate=0.2, random_rate=0.5) as server:
        reward = function(settings(server, view, attempts=1))
        one = trainer(record(kind), reward, tokenizer, tmp_path, learning_rate=0.0)
        one.train()
    [(_, batch)] = one.outputs
    last = np.array([one.scores[-1] for one in reward.assessed], np.float64)
    missing = np.isnan(last)
    assert 0 < missing.sum() < len(missing) * 0.5
    advantages = batch["advantages"].numpy().reshape(len(last), -1)
    assert not advantages[missing].any()
    assert advantages[~missing].any()
    assert logged(one, "judge/missing_rate") == [pytest.approx(missing.mean(), abs=1e-3)]
    if kind is StepTrainer:  # a step without a grade is joined to the next one, and still teaches
        joined = [None in one.scores[:-1] for one in reward.assessed] & ~missing
        assert advantages[joined].any(axis=1).sum() > joined.sum() / 2
    else:
        groups = last.reshape(PROBLEMS, GROUP)
        means, spreads = np.nanmean(groups, 1), np.nanstd(groups, 1, ddof=1)
        by_hand = (groups - means[:, None]) / (spreads[:, None] + 1e-4)
        np.testing.assert_allclose(advantages[:, 0], np.nan_to_num(by_hand).ravel(), atol=1e-3)


def test_a_judge_that_is_not_there_ends_the_training(tokenizer, server, tmp_path):
    server.close()
    reward = JudgeReward(settings(server, "outcome", attempts=1, deadline_s=20.0))
    with pytest.raises(JudgeError, match=r"100% of the last 64 completions have no grade"):
        trainer(GRPOTrainer, reward, tokenizer, tmp_path).train()


def test_whole_completions_are_no_steps(tokenizer, server, tmp_path):
    with pytest.raises(ConfigError, match='choose "prefix" or "step"'):
        trainer(StepTrainer, StepReward(settings(server, "outcome")), tokenizer, tmp_path)
