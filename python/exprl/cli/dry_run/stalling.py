"""Which settings pay a rollout for standing still, found with the run's own arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import numpy as np

from exprl import config
from exprl.advantage import AdvantageKind, ProcessKind, advantages
from exprl.learn.advantages import score_bounds
from exprl.reward.scorer import correct_noise

STALLER = (3, 3, 3)
"""Grades of a rollout that restates the problem up to the length limit: it does no work."""
ATTEMPT = (5, 2, 1)
"""Grades of a rollout whose first step is right, and which goes wrong then."""
PAID = 1e-9
"""An advantage above it is one, and no error of rounding."""


def warnings(cfg: config.Config) -> Iterator[str]:
    """What the run would pay for standing still, by kind of advantage.

    The other score maps give a grade of 3 nothing, or no score. What a function of the user's gives
    a rollout without work is not known.
    """
    if cfg.judge.score_map != "linear":
        return
    told = set()
    for treatment in cfg.treatments.values():
        if treatment.own_reward or not treatment.per_segment or treatment.advantage in told:
            continue
        told.add(treatment.advantage)
        staller, attempt = mean_advantages(cfg, treatment, len(STALLER))
        if staller > PAID:
            yield _message(cfg, treatment, staller, attempt)
        elif mean_advantages(cfg, treatment, 1)[0] > PAID:
            yield (
                f"advantage.single_segment = {cfg.advantage.single_segment!r} (or advantage.compat)"
                f" with reward.overlong = {cfg.reward.overlong!r} pays for standing still: a"
                " rollout of one step that restates the problem up to the length limit (grade 3)"
                " gets a positive advantage. Set reward.overlong or single_segment to 'zero'"
            )


def mean_advantages(
    cfg: config.Config, treatment: config.Treatment, steps: int
) -> tuple[float, float]:
    """Mean advantage of a step of the stallers and of the attempts, two of each in one group.

    The stallers are cut by length. Those that `reward.overlong` keeps out of the loss have 0.

    Args:
        steps: of a staller.
    """
    kept = {"zero": 0.0, "mask": np.nan}.get(cfg.reward.overlong)
    staller, attempt = (
        np.array(correct_noise(treatment.noise, [(grade - 1) / 4 for grade in grades]))
        for grades in (STALLER[:steps], ATTEMPT)
    )
    if kept is not None:
        staller[:] = kept
    if treatment.last == "verifier":  # neither of them reaches the answer
        staller[-1] = attempt[-1] = 0.0
    rollouts = [staller, staller, attempt, attempt]
    values = advantages(
        [score for scores in rollouts for score in scores],
        np.cumsum([0, *map(len, rollouts)]),
        [0, len(rollouts)],
        treatment.advantage,
        single_segment=cfg.advantage.single_segment,
        compat=cfg.advantage.compat,
        response_width=cfg.rollout.max_response_tokens,
        std_floor=cfg.advantage.std_floor,
        outcome_weight=cfg.advantage.outcome_weight,
        overlong=[cfg.reward.overlong == "zero"] * 2 + [False] * 2,
        bounds=score_bounds(treatment.noise),
    )
    stalling, trying = values[: 2 * steps].mean(), values[2 * steps :].mean()
    return float(np.nan_to_num(stalling)), float(trying)


def _message(
    cfg: config.Config, treatment: config.Treatment, staller: float, attempt: float
) -> str:
    kinds: tuple[AdvantageKind, ...] = get_args(ProcessKind)
    every = {kind: replace(treatment, advantage=kind) for kind in kinds}
    free = [k for k, t in every.items() if mean_advantages(cfg, t, len(STALLER))[0] <= PAID]
    remedy = "Set reward.overlong = 'zero'"
    if cfg.reward.overlong == "zero":  # they have 0, and reward.noise takes the others below it
        remedy = "Leave reward.noise out"
    return (
        f"advantage.kind = {treatment.advantage!r} with reward.overlong = {cfg.reward.overlong!r}"
        " pays for standing still: in a group of two rollouts that restate the problem up to the"
        f" length limit (grades {_shown(STALLER)}) and two whose first step is right"
        f" ({_shown(ATTEMPT)}), the former get {staller:+.2f} in the mean and the latter"
        f" {attempt:+.2f}. {remedy}, or set advantage.kind to one of"
        f" {', '.join(free)}"
    )


def _shown(grades: tuple[int, ...]) -> str:
    return ", ".join(map(str, grades))
