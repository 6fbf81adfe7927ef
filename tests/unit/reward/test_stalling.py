"""Standing still: half of a group restates the problem up to the limit, half tries and errs."""

import contextlib
from functools import cache
from typing import get_args

import numpy as np
import pytest

from exprl import config
from exprl.advantage import ProcessKind
from exprl.cli.dry_run import stalling
from exprl.judge import Judge, JudgeSettings, RuleJudge
from exprl.learn.advantages import segment_advantages
from exprl.reward.judges import Judges
from exprl.reward.scorer import Scorer
from exprl.steps import Splitter
from exprl.types import Message, Problem, Prompt, Rollout, Scored
from exprl.verify.verifiers import Verifiers

QUESTION = "A shelf holds 6 boxes of 8 pens. Mia takes 5 pens. How many are left?"
REFERENCE = "6 * 8 = 48 pens. 48 - 5 = 43.\n#### 43"
STALLER = "\n".join(
    [
        "We need to find how many pens are left.",
        "The shelf holds 6 boxes of 8 pens, so boxes = 6.",
        "Mia takes 5 pens. Let us think step by step.",
    ]
    * 2
)
ATTEMPT = "All of the boxes together hold 6 * 8 = 48 pens at the start.\n48 - 5 = 44"
KINDS = get_args(ProcessKind)
PROMISED = ("delta", "first_error")
"""Kinds that never pay for standing still, whatever is done with rollouts that are cut."""


def rollout(tokenizer, text: str, index: int, finish) -> Rollout:
    ids = tokenizer.encode(text).ids
    return Rollout(
        problem_id="p",
        index=index,
        prompt_ids=np.zeros(1, dtype=np.int32),
        token_ids=np.array(ids, dtype=np.int32),
        generator_logp=np.zeros(len(ids), dtype=np.float32),
        finish_reason=finish,
        versions=np.zeros(len(ids), dtype=np.int32),
    )


def config_of(kind: str, overlong: str, view: str = "prefix") -> config.Config:
    return config.build(
        {
            "model": {"path": "m"},
            "data": {"path": "d", "domain": "math"},
            "judge": {"kind": "rules", "rules": "numbers", "view": view},
            "reward": {"overlong": overlong, "steps": "line"},
            "advantage": {"kind": kind},
        }
    )


@cache
def graded(tokenizer_json: str, overlong: str, view: str) -> tuple[Scored, ...]:
    """The group, cut by line and graded by the rule judge over HTTP; the kind plays no part yet."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json)
    cfg = config_of("delta", overlong, view)
    problem = Problem("p", Prompt("p", (Message("user", QUESTION),)), "43", "math")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(RuleJudge("numbers"))
        settings = JudgeSettings((server.url,), server.model, view=view)
        judge = stack.enter_context(Judge(settings))
        scorer = Scorer(
            [problem],
            {"p": REFERENCE},
            Splitter(tokenizer_json, "line"),
            cfg.reward,
            cfg.treatment,
            Judges({(view, None): judge}, lambda domain: (view, None)),
            Verifiers(cfg.treatment),
        )
        for index in range(8):
            stalls = index < 4
            text, finish = (STALLER, "length") if stalls else (ATTEMPT, "stop")
            scorer.push(rollout(tokenizer, text, index, finish))
        return tuple(scorer.finish(lambda done, of: None))


def mean_advantages(tokenizer, kind: str, overlong: str, view: str) -> tuple[float, float]:
    """Of the tokens of stallers and of attempts; NaN where none of them is trained on."""
    cfg = config_of(kind, overlong, view)
    scored = graded(tokenizer.to_str(), overlong, view)
    values = segment_advantages(scored, cfg.treatment, cfg.advantage, 64)
    per_token = [
        np.repeat(own, [segment.end - segment.start for segment in one.segments])
        for one, own in zip(scored, values, strict=True)
    ]
    return float(np.concatenate(per_token[:4]).mean()), float(np.concatenate(per_token[4:]).mean())


def test_the_rule_judge_grades_stallers_3_and_a_right_first_step_5(tokenizer):
    for view in ("prefix", "step"):
        scored = graded(tokenizer.to_str(), "none", view)
        assert [one.grades for one in scored[:4]] == [(3,) * 6] * 4
        assert [one.grades for one in scored[4:]] == [(5, 2)] * 4


@pytest.mark.parametrize("view", ["prefix", "step"])
@pytest.mark.parametrize("overlong", ["zero", "mask", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_stallers_get_less_than_attempts(tokenizer, kind, overlong, view):
    staller, attempt = mean_advantages(tokenizer, kind, overlong, view)
    if overlong == "mask":
        assert np.isnan(staller) and not np.isnan(attempt)  # out of the loss
        return
    assert staller < attempt
    if overlong == "zero" or kind in PROMISED:
        assert staller <= 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_under_the_defaults_of_the_presets_standing_still_pays_nothing(tokenizer, kind):
    preset = config.build(
        {
            "method": "exprl-process",
            "model": {"path": "m"},
            "data": {"path": "d"},
            "judge": {"kind": "rules"},
        }
    )
    assert (preset.reward.overlong, preset.judge.view) == ("zero", "prefix")
    staller, attempt = mean_advantages(tokenizer, kind, preset.reward.overlong, "prefix")
    assert staller <= 1e-12 and staller < attempt


@pytest.mark.parametrize("kind", KINDS)
def test_the_dry_run_names_what_pays_for_standing_still(kind):
    """What the documentation says of each kind: docs/concepts/method.md."""
    said = list(stalling.warnings(config_of(kind, "none")))
    assert bool(said) == (kind not in PROMISED)
    if said:
        assert f"advantage.kind = {kind!r}" in said[0]
        assert "reward.overlong = 'zero'" in said[0] and "delta, first_error" in said[0]
    for overlong in ("zero", "mask"):
        assert not list(stalling.warnings(config_of(kind, overlong)))


def test_a_single_step_that_is_paid_its_score_is_named_too():
    cfg = config_of("delta", "none")
    paid = config.build(
        {
            "model": {"path": "m"},
            "data": {"path": "d"},
            "judge": {"kind": "rules"},
            "reward": {"overlong": "none"},
            "advantage": {"single_segment": "score"},
        }
    )
    assert not list(stalling.warnings(cfg))
    [said] = stalling.warnings(paid)
    assert "single_segment" in said
