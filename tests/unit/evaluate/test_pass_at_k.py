"""pass@k: the estimator against brute force, the interval, and what counts as a sample."""

import json
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from exprl import config
from exprl.errors import ConfigError
from exprl.evaluate.pass_at_k import Evaluation, Outcome
from exprl.evaluate.sample import evaluate
from exprl.monitor.metric_names import EVALUATION_METRICS
from exprl.types import FinishReason, Message, Problem, Prompt, Rollout
from exprl.verify.verifiers import Verifiers


def evaluation(*outcomes: Outcome, samples: int = 4, ks: tuple[int, ...] = (1, 4)) -> Evaluation:
    return Evaluation(3, 7, samples, 1.0, ks, outcomes)


def test_at_k_is_the_mean_over_problems() -> None:
    result = evaluation(Outcome("a", 4, 4, 0), Outcome("b", 4, 1, 0), Outcome("c", 4, 0, 2))
    assert result.at(1) == pytest.approx((1 + 0.25 + 0) / 3)
    assert result.at(2) == pytest.approx((1 + 0.5 + 0) / 3)
    assert result.at(4) == pytest.approx(2 / 3)
    low, high = result.interval(1)
    assert 0.0 <= low < result.at(1) < high <= 1.0
    with pytest.raises(ValueError, match="k = 5: only 4 samples"):
        result.at(5)


def test_problems_that_crashes_left_with_fewer_than_k_samples_are_left_out_and_counted() -> None:
    result = evaluation(Outcome("a", 4, 2, 0), Outcome("b", 3, 3, 0), Outcome("c", 0, 0, 0))
    assert result.failed == 5
    assert result.at(1) == pytest.approx((0.5 + 1.0) / 2)
    assert result.at(4) == 1.0
    tree = result.to_json()
    assert tree["pass_at"]["1"]["problems"] == 2
    assert tree["pass_at"]["4"]["problems"] == 1
    nothing = evaluation(Outcome("a", 3, 3, 0))
    with pytest.raises(ValueError, match="no problem has 4 samples, because 1 crashed"):
        nothing.at(4)
    assert nothing.to_json()["pass_at"]["4"] is None


def test_an_evaluation_survives_json() -> None:
    result = evaluation(Outcome("a", 4, 2, 1), Outcome("b", 3, 0, 3))
    text = json.dumps(result.to_json(), allow_nan=False)
    assert Evaluation.from_json(json.loads(text)) == result
    assert json.loads(text)["overlong_rate"] == pytest.approx(4 / 7)
    json.dumps(evaluation(Outcome("a", 0, 0, 0)).to_json(), allow_nan=False)


@dataclass
class ScriptedSampler:
    """Yields what the script says of each problem, last rollout first."""

    script: dict[str, list[tuple[FinishReason, str]]]
    calls: list[tuple[int, int, float, int, config.Truncation]] = field(default_factory=list)
    texts: dict[tuple[str, int], str] = field(default_factory=dict)

    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int,
        seed: int,
        temperature: float,
        max_response_tokens: int,
        truncation: config.Truncation,
    ) -> Iterator[Rollout]:
        self.calls.append((n, seed, temperature, max_response_tokens, truncation))
        for prompt in reversed(prompts):
            for index, (reason, text) in reversed(list(enumerate(self.script[prompt.problem_id]))):
                self.texts[prompt.problem_id, index] = text
                empty = np.empty(0, dtype=np.int32)
                logp = np.empty(0, dtype=np.float32)
                yield Rollout(prompt.problem_id, index, empty, empty, logp, reason, empty)

    def decode(self, rollout: Rollout) -> str:
        return self.texts[rollout.problem_id, rollout.index]


def test_the_numbers_for_trackers_are_those_of_the_file_under_names_that_are_explained() -> None:
    variables = {r"\{rate\}": ".+", r"\{k\}": r"\d+", r"\{domain\}": "[^/]+"}
    known = [
        re.sub(r"\\{\w+\\}", lambda found: variables[found[0]], re.escape(name))
        for name in EVALUATION_METRICS
    ]
    a, b = Outcome("a", 4, 2, 0, (2,), "math"), Outcome("b", 4, 1, 0, (1,), "long")
    one = evaluation(a, b)
    metrics = one.metrics()
    assert metrics["eval/pass_at_4"] == one.at(4)
    assert (metrics["eval/pass_at_4_low"], metrics["eval/pass_at_4_high"]) == one.interval(4)
    assert metrics["eval/long/pass_at_1"] == 0.25 and metrics["eval/problems"] == 2
    assert metrics["eval/maj_at_1"] == metrics["eval/pass_at_1"] == 0.375
    assert [m for m in metrics if not any(re.fullmatch(p, m) for p in known)] == []


def problems(*ids: str) -> list[Problem]:
    return [Problem(i, Prompt(i, (Message("user", "5)17="),)), "03r2", "division") for i in ids]


KEYS = {
    "model": {"path": "m"},
    "data": {"path": "d"},
    "judge": {"kind": "rules"},
    "domains": {"division": {"verifier": "exact"}},
}
TREATMENT = config.build(KEYS).treatment
VERIFIERS = Verifiers(TREATMENT)
RIGHT, WRONG = r"\boxed{03r2}", r"\boxed{3r2}"


class MeetingVerifiers(Verifiers):
    """Each verdict waits until as many as there are workers are being given."""

    workers = 3
    meeting = threading.Barrier(3, timeout=60)

    def is_correct(self, text: str, problem: Problem) -> bool | None:
        self.meeting.wait()
        return super().is_correct(text, problem)


def run(
    sampler: ScriptedSampler,
    ks: Sequence[int] = (1, 2),
    verifiers: Verifiers = VERIFIERS,
    **settings: object,
) -> Evaluation:
    return evaluate(
        sampler,
        problems(*sampler.script),
        config.Evaluation.model_validate({"samples": 2, "temperature": 0.5, **settings}),
        decode=sampler.decode,
        max_response_tokens=100,
        seed=11,
        step=5,
        ks=ks,
        verifiers=verifiers,
    )


def test_a_verdict_does_not_wait_for_another_one() -> None:
    sampler = ScriptedSampler({i: [("stop", RIGHT), ("stop", WRONG)] for i in "abc"})
    result = run(sampler, verifiers=MeetingVerifiers(TREATMENT))
    assert result.at(1) == 0.5


def test_an_evaluation_says_how_answers_were_found() -> None:
    assert run(ScriptedSampler({"a": [("stop", RIGHT)]})).verify == "strict"
    lenient = {"division": {"verifier": "exact", "verify": "lenient"}}
    verifiers = Verifiers(config.build(KEYS | {"domains": lenient}).treatment)
    result = run(ScriptedSampler({"a": [("stop", RIGHT)]}), verifiers=verifiers)
    assert result.verify == "lenient"
    tree = result.to_json()
    assert Evaluation.from_json(tree) == result
    del tree["verify"]
    assert Evaluation.from_json({**tree}).verify == "lenient", "an older one was"


def test_overlong_rollouts_are_wrong_and_crashed_ones_are_not_counted() -> None:
    sampler = ScriptedSampler(
        {
            "a": [("stop", RIGHT), ("stop", WRONG)],
            "b": [("length", RIGHT), ("stop", RIGHT)],
            "c": [("failed", RIGHT), ("stop", RIGHT)],
            "d": [("failed", ""), ("failed", "")],
        }
    )
    result = run(sampler, ks=(1,))
    assert result.outcomes == (
        Outcome("a", 2, 1, 0, (1,), "division"),
        Outcome("b", 2, 1, 1, (), "division"),
        Outcome("c", 1, 1, 0, (), "division"),
        Outcome("d", 0, 0, 0, (), "division"),
    )
    assert result.failed == 3
    assert result.at(1) == pytest.approx((0.5 + 0.5 + 1.0) / 3)
    assert (result.step, result.seed, result.ks) == (5, 11, (1,))


def test_the_engine_is_asked_as_the_settings_say() -> None:
    sampler = ScriptedSampler({"a": [("stop", RIGHT)] * 2})
    run(sampler)
    run(sampler, max_response_tokens=7, top_p=0.9, top_k=20, min_p=0.1)
    assert sampler.calls == [
        (2, 11, 0.5, 100, config.ALL_TOKENS),
        (2, 11, 0.5, 7, config.Truncation(top_p=0.9, top_k=20, min_p=0.1)),
    ]


@pytest.mark.parametrize("k", [0, 3])
def test_a_k_above_the_samples_is_refused_before_anything_is_sampled(k: int) -> None:
    sampler = ScriptedSampler({"a": [("stop", RIGHT)] * 2})
    with pytest.raises(ConfigError, match=f"pass@{k} .* eval.samples = 2"):
        run(sampler, ks=(1, k))
    assert not sampler.calls


def test_a_problem_without_answer_is_refused() -> None:
    sampler = ScriptedSampler({"a": [("stop", RIGHT)]})
    [only] = problems("a")
    unanswered = Problem(only.id, only.prompt, None, only.domain)
    with pytest.raises(ConfigError, match="'a' has no answer"):
        evaluate(
            sampler,
            [unanswered],
            config.Evaluation(samples=1),
            decode=sampler.decode,
            max_response_tokens=1,
            seed=0,
            step=0,
            ks=(1,),
            verifiers=VERIFIERS,
        )
