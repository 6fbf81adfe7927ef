"""The user's own functions in a run: imported and tried on real rows before the first step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from exprl import config
from exprl.config import FunctionName
from exprl.errors import ConfigError, FunctionError
from exprl.functions.pool import Function, Functions
from exprl.functions.roles import read_steps
from exprl.reward.own import ask_reward
from exprl.steps import CutText, StepRule, split_text
from exprl.types import Problem, ReferenceProblem, Rollout, Segment
from exprl.verify.verifiers import Verifiers, ask_function

SHOWN = 60
"""Characters of a text, or of what came back, that a line shows."""


def find_shown(cfg: config.Config, functions: Functions) -> list[FunctionName]:
    """The rewards of the user's that ask for the reference.

    Raises:
        ConfigError: one cannot be imported, or asks for what a reward is not given.
    """
    return [
        name for name in cfg.own_rewards if functions.open(name, "reward").asks_for("reference")
    ]


def find_rule(cfg: config.Config, functions: Functions) -> StepRule | CutText:
    """The rule of reward.steps; one of the user's raises a FunctionError where it cannot cut.

    Raises:
        ConfigError: it cannot be imported, or asks for what a step rule is not given.
    """
    rule = cfg.reward.steps
    if not isinstance(rule, FunctionName):
        return rule
    function = functions.open(rule, "step rule")
    return lambda text: function.call({"text": text}, lambda value: read_steps(value, text))


def try_functions(
    cfg: config.Config, functions: Functions, problems: Sequence[ReferenceProblem]
) -> Iterator[str]:
    """Call the user's step rule and rewards once, for a row of each domain that they are for.

    The row's answer in a box stands for a rollout, so that no reference is shown to a reward that
    does not ask for it. Step rules and the others take the reference, if the run reads it.

    Yields:
        What came back, in a line for each call.

    Raises:
        ConfigError: a function cannot be imported, has a parameter that it is not given, raises an
            exception, takes too long, or returns what it may not.
    """
    rule = find_rule(cfg, functions)
    if callable(rule):
        with _refusing():
            steps = cut_text(cfg.reward, rule, problems[0].reference or _sample(problems[0]))
        first = " | ".join([*map(_shorten, steps[:3]), *(["..."] if len(steps) > 3 else [])])
        yield f"{cfg.reward.steps} cuts {len(steps)} step(s) of {problems[0].id!r}: {first}"
    for domain in dict.fromkeys(p.domain for p in problems):
        problem = next(p for p in problems if p.domain == domain)
        treatment = cfg.treatment(domain)
        if treatment.own_reward:
            function = functions.open(treatment.own_reward, "reward")
            shown = problem.reference if function.asks_for("reference") else None
            text = shown or _sample(problem)
            with _refusing():
                steps = cut_text(cfg.reward, rule, text)
                scores = _score(function, problem, steps, treatment.per_segment)
            shown_scores = ["None" if score is None else f"{score:g}" for score in scores]
            said = f"[{', '.join(shown_scores)}]" if treatment.per_segment else shown_scores[0]
            yield f"{function.name} gives {_shorten(text)} of {problem.id!r} {said}"


def try_verifiers(verifiers: Verifiers, problems: Sequence[Problem]) -> Iterator[str]:
    """Call the verifiers that are functions of the user's, each for the first row of its domain.

    Yields, raises: as `try_functions`.
    """
    for domain in dict.fromkeys(p.domain for p in problems):
        function = verifiers.open_function(domain)
        own = [p for p in problems if p.domain == domain and p.answer is not None]
        if function is None or not own:
            continue
        # Where it takes one answer no row may have several.
        takes_one = not function.asks_for("more_answers")
        problem = next((p for p in own if takes_one and p.more_answers), own[0])
        with _refusing():
            verdict = ask_function(function, _sample(problem), problem)
        said = {True: "right", False: "wrong", None: "not known (it returned None)"}[verdict]
        yield f"{function.name} calls {_shorten(_sample(problem))} of {problem.id!r} {said}"


def _score(
    function: Function, problem: ReferenceProblem, steps: Sequence[str], per_segment: bool
) -> tuple[float | None, ...]:
    nothing = np.zeros(0, dtype=np.int32)
    rollout = Rollout(problem.id, 0, nothing, nothing, nothing.astype(np.float32), "stop", nothing)
    segments = [Segment(0, 0, step) for step in steps]
    return ask_reward(
        function,
        rollout,
        segments,
        problem,
        problem.judge_reference,
        None,
        per_segment=per_segment,
    )


def cut_text(reward: config.Reward, rule: StepRule | CutText, text: str) -> tuple[str, ...]:
    """The steps of a text; it has no tokens: words stand for them in `reward.min_step_tokens`."""
    return split_text(
        text,
        rule,
        delimiter=reward.delimiter,
        min_step_words=reward.min_step_tokens,
        max_steps=reward.max_steps,
    )


def _sample(problem: Problem) -> str:
    """What stands for a rollout: the answer as most prompts ask for it."""
    return problem.question if problem.answer is None else rf"\boxed{{{problem.answer}}}"


@contextmanager
def _refusing() -> Iterator[None]:
    """Before the first step a function that gives no value is a mistake."""
    try:
        yield
    except FunctionError as error:
        raise ConfigError(str(error)) from None


def _shorten(text: str) -> str:
    shown = text if len(text) <= SHOWN else text[:SHOWN] + "..."
    return "'" + "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown) + "'"
