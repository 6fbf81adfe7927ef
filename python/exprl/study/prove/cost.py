"""What a pilot costs: forecast before it starts, and counted after it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, fields, replace
from functools import reduce
from pathlib import Path

from exprl import config
from exprl.data.problems import load_problems
from exprl.functions.pool import Functions
from exprl.judge import Forecast, Forecaster, JudgeItem
from exprl.monitor.metrics_log import read_metrics
from exprl.reward.judges import Grading, grading_of, serve_rules, settings_for
from exprl.run.functions import cut_text, find_rule
from exprl.study.prove.arms import ARMS, Arm, arm_config
from exprl.train import run_training

LOOKED_AT = 32
"""References that stand for rollouts in a forecast."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What runs take together; None is not known.

    steps: training steps.   rollouts: sampled to train on.   samples: of the evaluations.
    tokens: sampled to train on.   requests: to the judge.   prompt_tokens, reply_tokens: of the
    judge.   seconds: of the steps, without starts and evaluations.   money: by judge.prices.
    """

    steps: float | None = 0
    rollouts: float | None = 0
    samples: float | None = 0
    tokens: float | None = 0
    requests: float | None = 0
    prompt_tokens: float | None = 0
    reply_tokens: float | None = 0
    seconds: float | None = 0
    money: float | None = None

    def plus(self, other: Cost) -> Cost:
        """The sum; what one of them does not know is not known."""
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return Cost(*(None if a is None or b is None else a + b for a, b in pairs))

    def times(self, factor: float) -> Cost:
        """So many times the same."""
        values = [getattr(self, f.name) for f in fields(self)]
        return Cost(*(None if value is None else value * factor for value in values))


def count_cost(cfg: config.Config, run_dir: Path, samples: int) -> Cost:
    """What a run took, from its metrics.

    Args:
        samples: rollouts of its evaluations.
    """
    rows = read_metrics(run_dir)

    def total(name: str) -> float:
        return math.fsum(row.get(name) or 0.0 for row in rows)

    asks = cfg.asks_judge
    prompt, reply = total("judge/prompt_tokens"), total("judge/completion_tokens")
    return Cost(
        steps=len(rows),
        rollouts=total("rollout/count"),
        samples=samples,
        tokens=total("rollout/tokens"),
        requests=total("judge/requests"),
        prompt_tokens=prompt,
        reply_tokens=reply,
        seconds=total("time/step_s"),
        money=_price(cfg, prompt, reply) if asks else _price(cfg, 0.0, 0.0),
    )


def _price(cfg: config.Config, prompt: float, reply: float) -> float | None:
    """At most: the metrics do not say which prompt tokens the server had cached."""
    prices = cfg.judge.prices
    if prices is None:
        return None
    return (prompt * prices.prompt + reply * prices.completion) / 1e6


def forecast_arm(base: config.Config, arm: Arm, held_out: int) -> Cost:
    """What a run of an arm will take, as far as the settings and the references tell.

    The references stand for rollouts: they are cut into steps by the run's rule, and the judge's
    requests about them are written and counted. Sampled tokens and seconds are not known.

    Args:
        held_out: problems of the evaluations.
    """
    cfg = arm_config(base, arm, base.seed, Path("run"))
    rollouts = cfg.train.steps * cfg.rollout.problems_per_step * cfg.rollout.group_size
    asked = (
        _forecast_judge(cfg).times(rollouts) if cfg.asks_judge else Cost(money=_price(cfg, 0, 0))
    )
    return Cost(
        steps=cfg.train.steps,
        rollouts=rollouts,
        samples=held_out * cfg.eval.samples,
        tokens=None,
        requests=asked.requests,
        prompt_tokens=asked.prompt_tokens,
        reply_tokens=asked.reply_tokens,
        seconds=None,
        money=asked.money,
    )


def _forecast_judge(cfg: config.Config) -> Cost:
    """What the judge is asked about one rollout, taken from some references."""
    problems = [p for p in load_problems(cfg.data) if p.reference is not None][:LOOKED_AT]
    functions = Functions(cfg.functions)
    forecasters: dict[Grading, Forecaster] = {}
    with closing(functions), ExitStack() as stack:
        rule = find_rule(cfg, functions)
        for problem in problems:
            treatment = cfg.treatment(problem.domain)
            grading = grading_of(treatment)
            if not treatment.judged:
                continue
            if grading not in forecasters:
                section = settings_for(cfg.judge, grading, 1, Path(cfg.run_dir))
                section = replace(section, ledger=None)
                settings = stack.enter_context(serve_rules(section, cfg.seed))
                forecasters[grading] = Forecaster(settings)
            segments = cut_text(cfg.reward, rule, str(problem.reference))
            forecasters[grading].add(
                JudgeItem(
                    id=problem.id,
                    problem=problem.question,
                    reference=str(problem.judge_reference),
                    segments=segments,
                    domain=problem.domain,
                )
            )
    total = reduce(Forecast.plus, (one.forecast() for one in forecasters.values()))
    return Cost(
        requests=total.requests,
        prompt_tokens=total.prompt_tokens,
        reply_tokens=total.completion_tokens,
        money=total.cost,
    ).times(1.0 / len(problems))


@dataclass(frozen=True, slots=True)
class Tried:
    """One step of `right`, trained to see what a step takes.

    cost: of the step.   sample_s: seconds of sampling and judging one rollout.
    """

    cost: Cost
    sample_s: float


def try_step(base: config.Config) -> Tried:
    """Train the first step of `right` in a folder that is deleted, and count what it took."""
    with tempfile.TemporaryDirectory(prefix="exprl-prove-") as folder:
        run_dir = Path(folder) / "run"
        cfg = arm_config(base, "right", base.seed, run_dir)
        quiet = {
            "eval": config.Evaluation(),
            "train": cfg.train.model_copy(update={"steps": 1}),
            "logging": config.Logging(report=False),
        }
        run_training(cfg.model_copy(update=quiet))
        [row] = read_metrics(run_dir)
        cost = count_cost(cfg, run_dir, samples=0)
    return Tried(cost, (row.get("time/rollout_s") or 0.0) / max(1.0, cost.rollouts or 0.0))


@dataclass(frozen=True, slots=True)
class Forecasts:
    """What the arms take over all seeds, and what all of them take together.

    tried: whether a step was trained to know it.
    """

    arms: Mapping[Arm, Cost]
    total: Cost
    tried: bool


def forecast_pilot(
    base: config.Config, seeds: int, held_out: int, tried: Tried | None
) -> Forecasts:
    """What the whole pilot takes, if it does not stop early.

    Args:
        tried: a step that was trained: its tokens, requests and seconds replace the guesses.
    """
    arms: dict[Arm, Cost] = {}
    for number, arm in enumerate(ARMS):
        one = forecast_arm(base, arm, held_out)
        # The start is measured once for each seed, in the first arm.
        one = replace(one, samples=(one.samples or 0) * (2 if number == 0 else 1))
        if tried is not None:
            one = _as_tried(one, tried, judged=arm != "sparse")
        arms[arm] = one.times(seeds)
    return Forecasts(arms, reduce(Cost.plus, arms.values()), tried is not None)


def _as_tried(one: Cost, tried: Tried, *, judged: bool) -> Cost:
    """The forecast of an arm by what a step took."""
    steps = tried.cost.times(one.steps or 0)
    seconds = (steps.seconds or 0.0) + (one.samples or 0.0) * tried.sample_s
    one = replace(one, tokens=steps.tokens, seconds=seconds)
    if not judged:
        return one
    return replace(
        one,
        requests=steps.requests,
        prompt_tokens=steps.prompt_tokens,
        reply_tokens=steps.reply_tokens,
        money=steps.money,
    )
