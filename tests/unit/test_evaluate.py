"""pass@k: the estimator against brute force, the interval, and what counts as a sample."""

import itertools
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from exprl import config
from exprl.errors import ConfigError
from exprl.evaluate import Evaluation, Outcome, bootstrap_interval, evaluate, pass_at_k
from exprl.types import FinishReason, Message, Problem, Prompt, Rollout


@pytest.mark.parametrize(
    ("n", "c", "k", "value"),
    [
        (1, 0, 1, 0.0),
        (1, 1, 1, 1.0),
        (4, 1, 1, 0.25),
        (4, 1, 2, 0.5),
        (4, 2, 2, 5 / 6),  # 1 - C(2,2) / C(4,2)
        (4, 3, 2, 1.0),  # two samples cannot both miss
        (5, 2, 3, 0.9),  # 1 - C(3,3) / C(5,3)
        (10, 0, 10, 0.0),
        (10, 1, 10, 1.0),
        (128, 64, 1, 0.5),
    ],
)
def test_pass_at_k_by_hand(n: int, c: int, k: int, value: float) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_is_the_share_of_k_subsets_with_a_right_sample(n: int) -> None:
    for c in range(n + 1):
        samples = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(samples, k))
            share = sum(any(subset) for subset in subsets) / len(subsets)
            assert pass_at_k(n, c, k) == pytest.approx(share, abs=1e-12)


def test_pass_at_k_is_unbiased() -> None:
    rng, n, k, rate = random.Random(0), 16, 4, 0.1
    counts = [sum(rng.random() < rate for _ in range(n)) for _ in range(20_000)]
    estimate = np.mean([pass_at_k(n, c, k) for c in counts])
    assert estimate == pytest.approx(1 - (1 - rate) ** k, abs=0.006)
    plug_in = np.mean([1 - (1 - c / n) ** k for c in counts])
    assert abs(plug_in - (1 - (1 - rate) ** k)) > 0.015, "the naive estimate is what it corrects"


@pytest.mark.parametrize(("n", "c", "k"), [(10_000, 1, 5_000), (100_000, 3, 1), (4096, 4095, 4095)])
def test_pass_at_k_keeps_its_precision_for_many_samples(n: int, c: int, k: int) -> None:
    expected = -math.expm1(sum(math.log1p(-k / i) for i in range(n - c + 1, n + 1) if i > k))
    expected = expected if n - c >= k else 1.0
    assert pass_at_k(n, c, k) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 1, 5), (0, 0, 1), (4, 5, 1), (4, -1, 1), (4, 1, 0)])
def test_pass_at_k_refuses_what_cannot_be_estimated(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"n = {n}, c = {c}, k = {k}"):
        pass_at_k(n, c, k)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        low, high = bootstrap_interval(rng.random(50).tolist(), samples=400, seed=trial)
        hits += low <= 0.5 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_the_interval_repeats_and_widens_with_the_level() -> None:
    values = np.random.default_rng(1).random(40).tolist()
    assert bootstrap_interval(values) == bootstrap_interval(values)
    low_90, high_90 = bootstrap_interval(values, level=0.9)
    low_99, high_99 = bootstrap_interval(values, level=0.99)
    assert low_99 < low_90 < np.mean(values) < high_90 < high_99
    assert bootstrap_interval([0.25]) == (0.25, 0.25)


@pytest.mark.parametrize(("values", "level"), [([], 0.95), ([math.nan], 0.95), ([1.0], 1.0)])
def test_an_interval_needs_finite_values_and_a_level(values: list[float], level: float) -> None:
    with pytest.raises(ValueError, match="needs finite values"):
        bootstrap_interval(values, level=level)


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
    calls: list[tuple[int, int, float, int]] = field(default_factory=list)
    texts: dict[tuple[str, int], str] = field(default_factory=dict)

    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int,
        seed: int,
        temperature: float,
        max_response_tokens: int,
    ) -> Iterator[Rollout]:
        self.calls.append((n, seed, temperature, max_response_tokens))
        for prompt in reversed(prompts):
            for index, (reason, text) in reversed(list(enumerate(self.script[prompt.problem_id]))):
                self.texts[prompt.problem_id, index] = text
                empty = np.empty(0, dtype=np.int32)
                logp = np.empty(0, dtype=np.float32)
                yield Rollout(prompt.problem_id, index, empty, empty, logp, reason, 0)

    def decode(self, rollout: Rollout) -> str:
        return self.texts[rollout.problem_id, rollout.index]


def problems(*ids: str) -> list[Problem]:
    return [
        Problem(i, Prompt(i, (Message("user", "5)17="),)), None, "03r2", "division") for i in ids
    ]


RIGHT, WRONG = r"\boxed{03r2}", r"\boxed{3r2}"


def run(sampler: ScriptedSampler, ks: Sequence[int] = (1, 2), **settings: object) -> Evaluation:
    return evaluate(
        sampler,
        problems(*sampler.script),
        config.Evaluation.model_validate({"samples": 2, "temperature": 0.5, **settings}),
        decode=sampler.decode,
        max_response_tokens=100,
        seed=11,
        step=5,
        ks=ks,
    )


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
        Outcome("a", 2, 1, 0),
        Outcome("b", 2, 1, 1),
        Outcome("c", 1, 1, 0),
        Outcome("d", 0, 0, 0),
    )
    assert result.failed == 3
    assert result.at(1) == pytest.approx((0.5 + 0.5 + 1.0) / 3)
    assert (result.step, result.seed, result.ks) == (5, 11, (1,))


def test_the_engine_is_asked_as_the_settings_say() -> None:
    sampler = ScriptedSampler({"a": [("stop", RIGHT)] * 2})
    run(sampler)
    run(sampler, max_response_tokens=7)
    assert sampler.calls == [(2, 11, 0.5, 100), (2, 11, 0.5, 7)]


@pytest.mark.parametrize("k", [0, 3])
def test_a_k_above_the_samples_is_refused_before_anything_is_sampled(k: int) -> None:
    sampler = ScriptedSampler({"a": [("stop", RIGHT)] * 2})
    with pytest.raises(ConfigError, match=f"pass@{k} .* eval.samples = 2"):
        run(sampler, ks=(1, k))
    assert not sampler.calls


def test_a_problem_without_answer_is_refused() -> None:
    sampler = ScriptedSampler({"a": [("stop", RIGHT)]})
    [only] = problems("a")
    unanswered = Problem(only.id, only.prompt, None, None, only.domain)
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
        )
