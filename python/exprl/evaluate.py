"""Problems with answers, to pass@k with intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self

import numpy as np

from exprl import config, verify
from exprl.errors import ConfigError
from exprl.types import Problem, Prompt, Rollout


class Sampler(Protocol):
    """The one word of the engine that an evaluation needs."""

    def sample(
        self,
        prompts: Sequence[Prompt],
        n: int,
        seed: int,
        temperature: float,
        max_response_tokens: int,
    ) -> Iterator[Rollout]:
        """Yield n rollouts of each prompt, in any order."""


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k samples is right: 1 - C(n-c, k) / C(n, k).

    Integers to the last division, so it is exact to float64 for any n. Chen et al. 2021
    (arXiv 2107.03374), equation 1.

    Args:
        n: samples drawn.
        c: right ones among them.
        k: samples that a user would draw.

    Raises:
        ValueError: not 0 <= c <= n and 1 <= k <= n.

    >>> pass_at_k(n=4, c=1, k=2)
    0.5
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(
            f"pass@k with n = {n}, c = {c}, k = {k}: needs 0 <= c <= n and 1 <= k <= n"
            " (draw at least k samples)"
        )
    every = math.comb(n, k)
    return (every - math.comb(n - c, k)) / every


def bootstrap_interval(
    values: Sequence[float], samples: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values`, one value per problem.

    Args:
        values: [problems], finite.
        samples: resamplings of the problems.
        level: share of the resampled means inside the interval.
        seed: of the resampling; the same seed gives the same interval.

    Raises:
        ValueError: no values, a value that is not finite, or a level outside (0, 1).
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not np.isfinite(array).all() or not 0.0 < level < 1.0 or samples < 1:
        raise ValueError(
            f"bootstrap over {array.size} values (finite: {bool(np.isfinite(array).all())}),"
            f" samples = {samples}, level = {level}: needs finite values, samples >= 1 and"
            " 0 < level < 1"
        )
    generator = np.random.Generator(np.random.Philox(key=seed))
    means = [generator.choice(array, array.size).mean() for _ in range(samples)]
    low, high = np.quantile(means, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the samples of one problem came to.

    n: samples that count: crashed ones are not among them, overlong ones are.
    c: right ones; an overlong sample is wrong.
    overlong: samples cut by length.
    """

    problem_id: str
    n: int
    c: int
    overlong: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """pass@k of one checkpoint on held-out problems.

    step: training steps behind the weights.
    samples: rollouts asked for per problem; a problem with n below it had crashes.
    ks: the k that `to_json` reports.
    """

    step: int
    seed: int
    samples: int
    temperature: float
    ks: tuple[int, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def failed(self) -> int:
        """Rollouts that the engine gave up on."""
        return sum(self.samples - outcome.n for outcome in self.outcomes)

    @property
    def overlong_rate(self) -> float:
        """Share of the counted rollouts that were cut by length; NaN if none counts."""
        counted = sum(outcome.n for outcome in self.outcomes)
        return sum(o.overlong for o in self.outcomes) / counted if counted else math.nan

    def values(self, k: int) -> list[float]:
        """pass@k of each problem that has at least k counted samples.

        Raises:
            ValueError: k exceeds the samples per problem, or crashes left no problem with k.
        """
        if not 1 <= k <= self.samples:
            raise ValueError(f"pass@k with k = {k}: only {self.samples} samples per problem")
        values = [pass_at_k(o.n, o.c, k) for o in self.outcomes if o.n >= k]
        if not values:
            raise ValueError(
                f"pass@k with k = {k}: no problem has {k} samples, because {self.failed} crashed"
            )
        return values

    def at(self, k: int) -> float:
        """Mean pass@k over the problems of `values`."""
        return float(np.mean(self.values(k)))

    def interval(self, k: int, level: float = 0.95) -> tuple[float, float]:
        """Bootstrap interval of `at(k)` over problems."""
        return bootstrap_interval(self.values(k), level=level)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values; `problems` of a k counts those it is taken over.

        A k for which crashes left no problem is null.
        """
        largest = max((outcome.n for outcome in self.outcomes), default=0)
        rates = {str(k): self._rate(k) if k <= largest else None for k in self.ks}
        overlong_rate = None if math.isnan(self.overlong_rate) else self.overlong_rate
        measured = {"pass_at": rates, "failed": self.failed, "overlong_rate": overlong_rate}
        fields = asdict(self)
        outcomes = fields.pop("outcomes")
        return fields | measured | {"ks": list(self.ks), "outcomes": list(outcomes)}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            step=tree["step"],
            seed=tree["seed"],
            samples=tree["samples"],
            temperature=tree["temperature"],
            ks=tuple(tree["ks"]),
            outcomes=tuple(Outcome(**outcome) for outcome in tree["outcomes"]),
        )

    def _rate(self, k: int) -> dict[str, float | int]:
        low, high = self.interval(k)
        return {"value": self.at(k), "low": low, "high": high, "problems": len(self.values(k))}


def evaluate(
    engine: Sampler,
    problems: Sequence[Problem],
    settings: config.Evaluation,
    *,
    decode: Callable[[Rollout], str],
    max_response_tokens: int,
    seed: int,
    step: int,
    ks: Sequence[int],
) -> Evaluation:
    """Sample every problem and verify the answers.

    Args:
        problems: with answers (data.require_answers).
        decode: the text of a rollout.
        max_response_tokens: where settings.max_response_tokens leaves it open.
        seed: of the sampling.
        step: training steps behind the engine's weights.
        ks: k of the report, each at most settings.samples.

    Raises:
        ConfigError: a k exceeds settings.samples.
        DataError: a domain has no verifier.
    """
    for k in ks:
        if not 1 <= k <= settings.samples:
            raise ConfigError(
                f"pass@{k} needs eval.samples >= {max(k, 1)} and k >= 1, but eval.samples ="
                f" {settings.samples}"
            )
    by_id = {problem.id: problem for problem in problems}
    n, c, overlong = Counter[str](), Counter[str](), Counter[str]()
    for rollout in engine.sample(
        [problem.prompt for problem in problems],
        settings.samples,
        seed,
        settings.temperature,
        settings.max_response_tokens or max_response_tokens,
    ):
        key = rollout.problem_id
        n[key] += rollout.finish_reason != "failed"
        overlong[key] += rollout.finish_reason == "length"
        c[key] += rollout.finish_reason == "stop" and _right(decode(rollout), by_id[key])
    outcomes = (Outcome(key, n[key], c[key], overlong[key]) for key in by_id)
    return Evaluation(
        step=step,
        seed=seed,
        samples=settings.samples,
        temperature=settings.temperature,
        ks=tuple(ks),
        outcomes=tuple(outcomes),
    )


def _right(text: str, problem: Problem) -> bool:
    if problem.answer is None:
        raise ConfigError(f"problem {problem.id!r} has no answer to evaluate against")
    return verify.is_correct(text, problem.answer, problem.domain)
