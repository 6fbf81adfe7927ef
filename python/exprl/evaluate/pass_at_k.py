"""What the samples of each problem came to: pass@k and majority vote, with intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np

from exprl.evaluate.estimates import (
    LEVEL,
    MOST_VOTES,
    bootstrap_interval,
    majority_curve,
    pass_at_k,
    pass_curve,
    percentiles,
    resampled_means,
)
from exprl.types import Float64Array, Int64Array


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the samples of one problem came to.

    n: samples that count: crashed and unverifiable ones are not among them, overlong ones are.
    c: right ones; an overlong sample is wrong.
    overlong: samples cut by length.
    wrong_votes: samples of each distinct wrong answer, largest first; samples beyond c and these
        name no answer. None where answers cannot be compared with each other (code, and functions
        of the user's).
    """

    problem_id: str
    n: int
    c: int
    overlong: int
    wrong_votes: tuple[int, ...] | None = None
    domain: str = ""

    @property
    def blank(self) -> int:
        """Wrong samples that name no answer, and so do not vote."""
        return self.n - self.c - sum(self.wrong_votes or ())


@dataclass(frozen=True, slots=True)
class Curve:
    """A rate for k = 1..K with its interval, and over how many problems it is taken.

    values, low, high: [K]; NaN where no problem has k samples.   problems: [K].
    """

    values: Float64Array
    low: Float64Array
    high: Float64Array
    problems: Int64Array

    @classmethod
    def of(cls, values: Float64Array, level: float = LEVEL) -> Self:
        """Means over problems of `values` [P, K], NaN where a problem has fewer than k samples."""
        low, high = percentiles(resampled_means(values), level)
        known = (~np.isnan(values)).sum(axis=0)
        with np.errstate(invalid="ignore"):
            means = np.nansum(values, axis=0) / known
        return cls(means, low, high, known)

    def at(self, k: int) -> dict[str, float | int] | None:
        """One point as plain JSON values; None where no problem has k samples."""
        if not 1 <= k <= len(self.values) or self.problems[k - 1] == 0:
            return None
        return {
            "value": float(self.values[k - 1]),
            "low": float(self.low[k - 1]),
            "high": float(self.high[k - 1]),
            "problems": int(self.problems[k - 1]),
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """pass@k and majority vote of one checkpoint on held-out problems.

    step: training steps behind the weights.
    samples: rollouts asked for per problem; a problem with n below it had crashes.
    ks: the k that `to_json` reports.
    verify: how answers were found in the samples: "strict", "lenient", or both, by domain.
    """

    step: int
    seed: int
    samples: int
    temperature: float
    ks: tuple[int, ...]
    outcomes: tuple[Outcome, ...]
    verify: str = "strict"

    @property
    def failed(self) -> int:
        """Rollouts that the engine gave up on."""
        return sum(self.samples - outcome.n for outcome in self.outcomes)

    @property
    def overlong_rate(self) -> float:
        """Share of the counted rollouts that were cut by length; NaN if none counts."""
        return self._share([o.overlong for o in self.outcomes])

    @property
    def blank_rate(self) -> float:
        """Share of the counted rollouts that name no answer, where answers are compared; or NaN."""
        voting = [o for o in self.outcomes if o.wrong_votes is not None]
        counted = sum(o.n for o in voting)
        return sum(o.blank for o in voting) / counted if counted else math.nan

    def pass_values(self) -> Float64Array:
        """pass@k of each problem, [P, samples]; NaN where a problem has fewer than k samples."""
        return self._values([pass_curve(o.n, o.c) for o in self.outcomes])

    def majority_values(self) -> Float64Array | None:
        """maj@k of each problem, [P, samples]; NaN where a problem has fewer than k samples.

        NaN throughout for a problem whose answers are not compared; None if that is so of all.
        """
        voting = [o.wrong_votes is not None and o.n <= MOST_VOTES for o in self.outcomes]
        if not any(voting):
            return None
        return self._values(
            [
                majority_curve(o.c, o.wrong_votes or (), o.blank) if votes_known else np.empty(0)
                for o, votes_known in zip(self.outcomes, voting, strict=True)
            ]
        )

    def by_domain(self) -> dict[str, Self]:
        """The same evaluation, of each domain's problems alone."""
        names = sorted({outcome.domain for outcome in self.outcomes})
        return {
            name: replace(self, outcomes=tuple(o for o in self.outcomes if o.domain == name))
            for name in names
        }

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

    def interval(self, k: int, level: float = LEVEL) -> tuple[float, float]:
        """Bootstrap interval of `at(k)` over problems."""
        return bootstrap_interval(self.values(k), level=level)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values; `problems` of a k counts those it is taken over.

        The outer `problems` counts all that were sampled.

        A k for which crashes left no problem is null; so is all that answers were not compared for.
        """
        passed, voted = Curve.of(self.pass_values()), self.majority_values()
        majority = None if voted is None else Curve.of(voted)
        measured = {
            "problems": len(self.outcomes),
            "pass_at": {str(k): passed.at(k) for k in self.ks},
            "maj_at": {str(k): majority.at(k) if majority else None for k in self.ks},
            "failed": self.failed,
            "overlong_rate": _none_if_nan(self.overlong_rate),
            "blank_rate": _none_if_nan(self.blank_rate),
        }
        domains = self.by_domain()
        if len(domains) > 1:
            measured["domains"] = {
                name: {str(k): Curve.of(own.pass_values()).at(k) for k in self.ks}
                for name, own in domains.items()
            }
        fields = asdict(self)
        outcomes = fields.pop("outcomes")
        return fields | measured | {"ks": list(self.ks), "outcomes": list(outcomes)}

    def metrics(self) -> dict[str, float]:
        """The rates with their intervals under the names of metric_names.EVALUATION_METRICS."""
        tree = self.to_json()
        row = {f"eval/{name}": tree[name] for name in ("problems", "failed")}
        rates = {f"eval/{name}": tree[name] for name in ("overlong_rate", "blank_rate")}
        points = {f"eval/pass_at_{k}": point for k, point in tree["pass_at"].items()}
        points |= {f"eval/maj_at_{k}": point for k, point in tree["maj_at"].items()}
        for domain, own in tree.get("domains", {}).items():
            points |= {f"eval/{domain}/pass_at_{k}": point for k, point in own.items()}
        for name, point in points.items():
            if point is not None:
                rates[name] = point["value"]
                rates |= {f"{name}_{end}": point[end] for end in ("low", "high")}
        return row | {name: rate for name, rate in rates.items() if rate is not None}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(
            step=tree["step"],
            seed=tree["seed"],
            samples=tree["samples"],
            temperature=tree["temperature"],
            ks=tuple(tree["ks"]),
            outcomes=tuple(_read_outcome(outcome) for outcome in tree["outcomes"]),
            # Until it was written down, every evaluation was lenient.
            verify=tree.get("verify", "lenient"),
        )

    def _values(self, curves: Sequence[Float64Array]) -> Float64Array:
        values = np.full((len(curves), self.samples), np.nan)
        for row, curve in zip(values, curves, strict=True):
            row[: len(curve)] = curve
        return values

    def _share(self, counts: Sequence[int]) -> float:
        counted = sum(outcome.n for outcome in self.outcomes)
        return sum(counts) / counted if counted else math.nan


def _read_outcome(tree: Mapping[str, Any]) -> Outcome:
    wrong = tree.get("wrong_votes")
    return Outcome(**{**tree, "wrong_votes": None if wrong is None else tuple(wrong)})


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
