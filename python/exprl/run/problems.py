"""The problems of a run: those that fit, with what reward and loss need of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeVar

from exprl import config
from exprl.data import mixture
from exprl.data.problems import (
    drop_unreadable,
    load_problems,
    require_answers,
    require_references,
)
from exprl.data.references import drop_references, tokenize_solutions
from exprl.data.remarks import Remark, count_rows, ignore
from exprl.data.tokenizer import prompt_ids
from exprl.errors import ConfigError
from exprl.types import Problem, ReferenceProblem

P = TypeVar("P", bound=Problem)


def load_training_problems(
    cfg: config.Config,
    tokenizer: Any,
    remark: Remark = ignore,
    shown_to: Sequence[config.FunctionName] = (),
) -> list[ReferenceProblem]:
    """The training problems that fit, with what reward or loss need of them, and nothing else.

    Where nothing looks at the references (sparse reward), their column is not read.

    Args:
        remark: is told which rows are left out, or not used as they stand.
        shown_to: rewards of the user's that ask for the reference (run/functions.py).
    """
    left_out: list[str] = []

    def tell(text: str) -> None:
        left_out.append(text)
        remark(text)

    needs_references = cfg.needs_references or bool(shown_to)
    settings = cfg.data if needs_references else drop_references(cfg.data)
    problems = load_problems(settings, tell)
    _check_domains(cfg, problems)
    if needs_references:
        rewarded = cfg.loss.objective == "policy_gradient"
        treated = [(p, cfg.treatment(p.domain)) for p in problems]
        require_references(
            [p for p, t in treated if not rewarded or t.judged or t.own_reward in shown_to]
        )
    require_answers([p for p in problems if cfg.treatment(p.domain).verified])
    problems = drop_unreadable(cfg.treatment, problems, tell, evaluated=False)
    if any(part.columns.answer is not None for part in settings.parts):
        unanswered = [p for p in problems if p.answer is None]
        what = "have no final answer, so no rollout of theirs counts as right or wrong"
        count_rows(what, unanswered, len(problems), tell)
    earlier = [p for p in problems if cfg.treatment(p.domain).judged and _has_earlier_turns(p)]
    what = "have earlier turns; the judge is shown the last message as the problem"
    count_rows(what, earlier, len(problems), tell)
    kept = _keep_fitting(cfg, problems, tokenizer, tell, left_out)
    _check_shares(cfg, kept)
    return kept


def _has_earlier_turns(problem: Problem) -> bool:
    return sum(message.role != "system" for message in problem.prompt.messages) > 1


def _keep_fitting(
    cfg: config.Config,
    problems: list[ReferenceProblem],
    tokenizer: Any,
    tell: Remark,
    left_out: Sequence[str],
) -> list[ReferenceProblem]:
    """The problems whose prompt, and for SFT whose reference, is short enough.

    Raises:
        ConfigError: too few for a step; says what was left out.
    """
    limits = cfg.rollout
    kept = drop_long_prompts(problems, tokenizer, cfg.model, limits.max_prompt_tokens, tell)
    limit = f"prompt has at most rollout.max_prompt_tokens = {limits.max_prompt_tokens} tokens"
    if cfg.learns_references:
        pairs = tokenize_solutions(kept, tokenizer, cfg.model)
        long = [p for p in kept if len(pairs[p.id][1]) > limits.max_response_tokens]
        kept = [p for p in kept if len(pairs[p.id][1]) <= limits.max_response_tokens]
        most = f"rollout.max_response_tokens = {limits.max_response_tokens}"
        what = f"are left out: their reference has more tokens than {most}"
        count_rows(what, long, len(problems), tell)
        limit += (
            " and reference at most rollout.max_response_tokens ="
            f" {limits.max_response_tokens} tokens"
        )
    if limits.problems_per_step > len(kept):
        paths = ", ".join(source.path for source in cfg.data.parts)
        raise ConfigError(
            f"rollout.problems_per_step = {limits.problems_per_step} exceeds the {len(kept)}"
            f" problems of {paths} whose {limit} ({len(problems) - len(kept)} are longer)"
            + "".join(f"\n  {text}" for text in left_out)
        )
    if limits.redraw > len(kept) - limits.problems_per_step:
        raise ConfigError(
            f"rollout.redraw = {limits.redraw}: a step samples {limits.problems_per_step} of the"
            f" {len(kept)} problems that fit, so that"
            f" {len(kept) - limits.problems_per_step} are left to draw; lower it"
        )
    return kept


def load_held_out(
    cfg: config.Config, tokenizer: Any, remark: Remark = ignore
) -> list[ReferenceProblem]:
    """The problems of the evaluations; they need answers, and their references are not read.

    Args:
        remark: is told which rows are left out, or not used as they stand.
    """
    if cfg.eval.data is None:
        return []

    def held_out(text: str) -> None:
        remark(f"eval.data: {text}")

    problems = load_problems(drop_references(cfg.eval.data), held_out)
    require_answers(problems)
    problems = drop_unreadable(cfg.treatment, problems, held_out, evaluated=True)
    limit = cfg.rollout.max_prompt_tokens
    return drop_long_prompts(problems, tokenizer, cfg.model, limit, held_out)


def _check_domains(cfg: config.Config, problems: Sequence[Problem]) -> None:
    """A section for a domain that no row has is a typing error."""
    found = {p.domain for p in problems}
    for name in cfg.domains:
        if name not in found:
            has = ", ".join(sorted(found))
            raise ConfigError(f"[domains.{name}]: no row is of this domain; the data has {has}")


def _check_shares(cfg: config.Config, problems: Sequence[Problem]) -> None:
    """No source may have to give more problems to a step than it has."""
    parts, per_step = cfg.data.parts, cfg.rollout.problems_per_step
    weights = mixture.source_weights(parts, problems)
    if 0.0 in weights:
        i = weights.index(0.0)
        raise ConfigError(
            f"data.sources.{i}: none of the problems of {parts[i].path} fits, so that there is"
            " nothing to draw from it; leave it out"
        )
    counts = [mixture.split_count(step * per_step, weights) for step in range(cfg.train.steps + 1)]
    for i, source in enumerate(parts):
        most = max(after[i] - before[i] for before, after in pairwise(counts))
        own = sum(p.source == i for p in problems)
        if most > own:
            raise ConfigError(
                f"data.sources.{i}.weight = {source.weight} makes a step take up to {most} problems"
                f" of {source.path}, which has {own} that fit; lower its weight, or"
                " rollout.problems_per_step"
            )


def drop_long_prompts(
    problems: Sequence[P],
    tokenizer: Any,
    model: config.Model,
    limit: int,
    remark: Remark = ignore,
) -> list[P]:
    """The problems whose prompt has at most `limit` tokens; of the others `remark` is told."""
    fits = [len(prompt_ids(tokenizer, p.prompt, model)) <= limit for p in problems]
    long = [p for p, fit in zip(problems, fits, strict=True) if not fit]
    what = f"are left out: their prompt has more tokens than rollout.max_prompt_tokens = {limit}"
    count_rows(what, long, len(problems), remark)
    return [p for p, fit in zip(problems, fits, strict=True) if fit]
