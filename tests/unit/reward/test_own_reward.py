"""Scores and steps by functions of the user's: what they do not give is missing, not zero."""

import numpy as np
import pytest

from exprl import config
from exprl.errors import ConfigError
from exprl.functions.pool import Functions
from exprl.learn.advantages import segment_advantages
from exprl.reward.missing import commonest_reason
from exprl.reward.scorer import Scorer
from exprl.run.functions import find_rule, find_shown, try_functions
from exprl.run.problems import load_training_problems
from exprl.steps import Splitter
from exprl.types import Message, Prompt, ReferenceProblem, Rollout
from exprl.verify.verifiers import Verifiers

FUNCTIONS = """
import asyncio, re, time

def score(text, answer):
    if "r" not in text:
        raise ValueError("no remainder")
    return 1.0 if answer in text else 0.25

async def score_steps(steps, reference, correct, tokens, finish_reason):
    await asyncio.sleep(0)
    assert finish_reason == "stop" and tokens > len(steps)
    scores = [None if "06" in step else float(step[:4] in reference) for step in steps]
    return [*scores[:-1], float(correct)]

def no_scores(text): return None
def too_large(text): return 10
def one_too_few(steps): return [0.5] * (len(steps) - 1)

def cut(text):
    if "06" in text:
        raise ValueError("no step")
    return re.split(r"(?=/5)", text)

def cut_badly(text): return text.split("###")
"""
REFERENCE = "01/5 and then 10/5"
RIGHT = r"01/5=0r1###10/5=2r0###\boxed{021394r3}"
EOS = "<eos>"  # of the tokenizer in conftest.py


def problem(domain="own"):
    prompt = Prompt("p", (Message("user", "5)106973="),))
    return ReferenceProblem("p", prompt, "021394r3", domain, reference=REFERENCE)


@pytest.fixture
def cfg_of(tmp_path, monkeypatch):
    """A config with these settings of [reward] and [advantage], and FUNCTIONS to be found."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "functions_of_a_user.py").write_text(FUNCTIONS)

    def build(source, kind, **reward):
        own = f"functions_of_a_user:{source}" if source not in ("verifier", "judge") else source
        if "steps" in reward:
            reward["steps"] = f"functions_of_a_user:{reward['steps']}"
        return config.build(
            {
                "model": {"path": "m"},
                "data": {"path": "d", "domain": "own"},
                "domains": {"own": {"verifier": "exact"}},
                "judge": {"kind": "rules"},
                "reward": {"source": own} | reward,
                "advantage": {"kind": kind},
            }
        )

    return build


def score(cfg, tokenizer, texts, finish="stop"):
    functions = Functions(cfg.functions)
    verifiers = Verifiers(cfg.treatment, None, functions)
    splitter = Splitter(tokenizer.to_str(), find_rule(cfg, functions))
    scorer = Scorer(
        [problem()], {"p": REFERENCE}, splitter, cfg.reward, cfg.treatment, None, verifiers
    )
    try:
        for index, text in enumerate(texts):
            ids = tokenizer.encode(text + (EOS if finish == "stop" else "")).ids
            ids, none = np.array(ids, np.int32), np.zeros(len(ids), np.int32)
            scorer.push(Rollout("p", index, none, ids, none.astype(np.float32), finish, none))
        return scorer.finish(lambda done, of: None)
    finally:
        verifiers.close()


def test_a_reward_gives_each_rollout_a_score_and_the_advantage_follows_it(cfg_of, tokenizer):
    cfg = cfg_of("score", "grpo")
    scored = score(cfg, tokenizer, [RIGHT, "01/5=0r1", "3"])
    assert [s.scores for s in scored] == [(1.0,), (0.25,), (None,)]
    assert [s.correct for s in scored] == [True, False, False]
    assert [s.missing for s in scored] == [False, False, True]
    assert scored[2].ungraded
    assert "functions_of_a_user:score: ValueError: no remainder" in commonest_reason(scored).text
    advantages = segment_advantages(scored, cfg.treatment, cfg.advantage, 96)
    spread = np.std([1.0, 0.25], ddof=1)
    assert np.allclose(np.concatenate(advantages[:2]), [0.375 / spread, -0.375 / spread], atol=1e-5)
    assert np.isnan(advantages[2]).all()


def test_a_reward_may_give_a_score_per_step_and_leave_one_out(cfg_of, tokenizer):
    cfg = cfg_of("score_steps", "delta")
    wrong = "01/5=0r1###06/5=1r1###99/5=9r0"
    scored = score(cfg, tokenizer, [RIGHT, wrong])
    assert scored[0].scores == (1.0, 0.0, 1.0)  # of ###10/5 the first four signs are ###1
    assert scored[1].scores == (1.0, None, 0.0)
    assert scored[1].bridged_steps == 1 and not scored[1].missing
    assert scored[1].reasons == ("functions_of_a_user:score_steps returned None",)
    advantages = segment_advantages(scored, cfg.treatment, cfg.advantage, 96)
    assert advantages[0].tolist() == [0.0, -1.0, 1.0]
    assert advantages[1].tolist() == [1.0, -1.0, -1.0]


def test_an_overlong_rollout_has_score_0_and_the_function_is_not_asked(cfg_of, tokenizer):
    [scored] = score(cfg_of("score", "grpo"), tokenizer, ["3"], finish="length")
    assert scored.scores == (0.0,) and not scored.missing
    [scored] = score(cfg_of("score", "grpo", overlong="none"), tokenizer, ["3"], finish="length")
    assert scored.scores == (None,)


@pytest.mark.parametrize(
    ("source", "kind", "reason"),
    [
        ("no_scores", "grpo", "returned None"),
        ("too_large", "grpo", "it returned 10, which is no score; a score lies from 0 to 1"),
        ("one_too_few", "delta", "it returned 2 scores for 3 steps"),
        ("score", "delta", "asks for a list with one score per step"),
        ("one_too_few", "grpo", "asks for one score per rollout"),
    ],
)
def test_what_is_no_score_is_missing_with_its_reason(cfg_of, tokenizer, source, kind, reason):
    [scored] = score(cfg_of(source, kind), tokenizer, [RIGHT])
    assert set(scored.scores) == {None}
    assert scored.missing and reason in scored.reasons[0]


def test_a_step_rule_cuts_rollouts_and_a_rollout_that_it_cannot_cut_is_missing(cfg_of, tokenizer):
    cfg = cfg_of("score_steps", "raw", steps="cut")
    whole, lost = score(cfg, tokenizer, ["01/5=0r1###10/5=2r0", "06/5=1r1"])
    assert [s.text for s in whole.segments] == ["01", "/5=0r1###10", "/5=2r0"]
    assert [(s.start, s.end) for s in whole.segments] == [(0, 2), (2, 13), (13, 20)]
    assert [s.text for s in lost.segments] == ["06/5=1r1"]
    assert lost.missing and lost.scores == ()
    assert "functions_of_a_user:cut: ValueError: no step" in lost.reasons[0]


def test_a_rollout_that_cannot_be_cut_keeps_its_one_score(cfg_of, tokenizer):
    [scored] = score(cfg_of("verifier", "grpo", steps="cut"), tokenizer, [r"06###\boxed{021394r3}"])
    assert scored.scores == (1.0,) and len(scored.segments) == 1


@pytest.mark.parametrize(
    ("source", "kind", "reward", "wrong"),
    [
        ("score", "delta", {}, "asks for a list with one score per step"),
        ("too_large", "grpo", {}, "which is no score"),
        (
            "verifier",
            "grpo",
            {"steps": "cut_badly"},
            "its steps, joined, are not the text: they differ at character 12",
        ),
        ("nowhere", "grpo", {}, "has no attribute 'nowhere'"),
    ],
)
def test_a_function_that_fails_on_a_real_row_is_refused_before_the_first_step(
    cfg_of, source, kind, reward, wrong
):
    row = problem()
    object.__setattr__(row, "reference", "5*021394+3=1###06")
    functions = Functions(config.Functions())
    try:
        with pytest.raises(ConfigError, match=wrong):
            list(try_functions(cfg_of(source, kind, **reward), functions, [row]))
    finally:
        functions.close()


def test_the_dry_run_says_what_came_back(cfg_of):
    functions = Functions(config.Functions())
    cfg = cfg_of("score", "grpo", steps="cut")
    said = list(try_functions(cfg, functions, [problem()]))
    functions.close()
    assert said == [
        "functions_of_a_user:cut cuts 3 step(s) of 'p': '01' | '/5 and then 10' | '/5'",
        r"functions_of_a_user:score gives '\boxed{021394r3}' of 'p' 1",
    ]


def test_references_are_read_only_for_a_reward_that_asks_for_them(cfg_of, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"problem": "1+1=", "answer": "2"}\n')
    functions = Functions(config.Functions())
    few = {"problems_per_step": 1, "max_prompt_tokens": 9}

    def load(source, kind):
        cfg = cfg_of(source, kind)
        data = cfg.data.model_copy(update={"path": "rows.jsonl"})
        cfg = cfg.model_copy(update={"data": data, "rollout": config.Rollout(**few)})
        return load_training_problems(cfg, FewTokens(), shown_to=find_shown(cfg, functions))

    assert load("score", "grpo")[0].reference is None
    with pytest.raises(Exception, match="reference"):
        load("score_steps", "delta")
    functions.close()


class FewTokens:
    """A prompt of one token."""

    def apply_chat_template(self, *_, **__):
        return "..."

    def __call__(self, text, **_):
        return {"input_ids": [0]}
