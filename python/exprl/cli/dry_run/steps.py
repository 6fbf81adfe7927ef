"""What the dry run says of steps: do rule and prompts fit, and what does the model itself write?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from exprl import config
from exprl.functions.pool import Functions
from exprl.rollout.engine import open_engine
from exprl.run.open import open_splitter
from exprl.steps import StepRule, split_text
from exprl.types import Problem

ASKED_FOR_BY = {"heading": ("###", "heading", "Heading")}
"""Words of a prompt that ask for the steps of a rule; other rules find what models write anyway."""
HEADING = re.compile("(?<!#)###(?!#)")
"""The mark of a step; four of them mark a final answer, as GSM8K's `#### 7` does."""


def warn_of_prompts(cfg: config.Config, problems: Sequence[Problem]) -> Iterator[str]:
    """Where the prompts do not ask for the steps that the rule looks for, or ask for others."""
    process = [p for p in problems if cfg.treatment(p.domain).per_segment]
    if not process:
        return
    rule = cfg.reward.steps
    if cfg.reward.max_steps == 1:
        yield "reward.max_steps = 1 leaves one step to every rollout: `delta` then teaches nothing"
    marks = (cfg.reward.delimiter,) if rule == "delimiter" else ASKED_FOR_BY.get(rule)
    if isinstance(rule, config.FunctionName):
        return
    if marks is None:
        asked = [p for p in process if any(HEADING.search(m.content) for m in p.prompt.messages)]
        if len(asked) > len(process) / 2:
            yield (
                f"the prompts speak of '###', and reward.steps = '{rule}' does not cut there; set"
                " reward.steps = 'heading', or take it out of data.system and data.template"
            )
        return
    silent = [p for p in process if not _mentions(p, marks)]
    if len(silent) > len(process) / 2:
        yield (
            f"reward.steps = '{rule}' cuts at {marks[0]!r}, and neither system message nor template"
            f" mentions it (so in {len(silent)} of {len(process)} prompts): a model that was not"
            " trained to write it writes one step. Ask for it in data.system or data.template, or"
            " set reward.steps = 'paragraph' or 'line'. `--sample 8` shows what the model writes"
        )


def _mentions(problem: Problem, marks: tuple[str, ...]) -> bool:
    return any(mark in m.content for m in problem.prompt.messages for mark in marks)


def sample_steps(
    cfg: config.Config,
    problems: Sequence[Problem],
    tokenizer: Any,
    count: int,
    functions: Functions | None = None,
) -> tuple[str, str | None]:
    """Sample one rollout of each of `count` problems, and cut it by every rule.

    Returns:
        What was found, and a warning where the run's rule leaves most rollouts whole.

    Raises:
        EngineError: the engine did not start.
    """
    engine = open_engine(cfg.model, cfg.rollout, tokenizer=tokenizer, weights=str(cfg.model.path))
    chosen = problems[:: max(1, len(problems) // count)][:count]
    rollouts = engine.sample(
        [p.prompt for p in chosen],
        1,
        cfg.seed,
        cfg.rollout.temperature,
        cfg.rollout.max_response_tokens,
    )
    splitter = open_splitter(cfg, tokenizer, functions or Functions(cfg.functions))
    written = [r for r in rollouts if r.finish_reason != "failed" and len(r.token_ids)]
    steps = [splitter.split(r.token_ids, r.opening) for r in written]
    if not steps:
        return f"none of {len(chosen)} prompts was answered", None
    texts = ["".join(segment.text for segment in one) for one in steps]
    single = sum(len(one) == 1 for one in steps)
    overlong = sum(r.finish_reason == "length" for r in written)
    means = {
        rule: sum(len(_cut(cfg, t, rule)) for t in texts) / len(texts)
        for rule in get_args(StepRule)
    }
    shown = ", ".join(f"{rule} {mean:.1f}" for rule, mean in means.items())
    found = (
        f"{len(steps)} rollouts: {sum(map(len, steps)) / len(steps):.1f} steps each by reward.steps"
        f" = '{cfg.reward.steps}', {single} of one step, {overlong} cut by length; steps by rule:"
        f" {shown}"
    )
    limit = cfg.alarms.single_rate
    if limit is None or single <= limit * len(steps):
        return found, None
    return found, (
        f"{single} of {len(steps)} sampled rollouts have one step: `delta` teaches them nothing."
        " Choose a rule of reward.steps that cuts them, or ask for steps in data.system or"
        " data.template"
    )


def _cut(cfg: config.Config, text: str, rule: StepRule) -> tuple[str, ...]:
    """The steps by one of the rules, as the run would cut them."""
    thinking = cfg.judge.show_thinking
    return split_text(text, rule, delimiter=cfg.reward.delimiter, cut_thinking=thinking)
