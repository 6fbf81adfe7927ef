"""The hidden references, and who is shown what of them. The policy never is.

judge      all solutions of the problem, none, or another problem's   `choose_references`
SFT        the first solution as tokens to imitate                    `tokenize_solutions`
teacher    the first solution in its prompt (self-distillation)       `build_teacher_prompts`
Stage II   nothing: the column is not even read                       `drop_references`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from exprl import config
from exprl.data.problems import draw_wrong_references, require_references
from exprl.data.tokenizer import chat_ids, prompt_ids
from exprl.data.turns import find_turn_end, thinking_opened
from exprl.thinking import open_thinking
from exprl.types import Int32Array, Message, ReferenceProblem


def choose_references(
    condition: config.Condition, problems: Sequence[ReferenceProblem], seed: int
) -> dict[str, str | None]:
    """The reference that the judge is shown for each problem id, by judge.condition."""
    match condition:
        case "right":
            return {p.id: p.judge_reference for p in problems}
        case "none":
            return dict.fromkeys((p.id for p in problems), None)
        case "wrong":
            require_references(problems)
            right = {p.id: str(p.judge_reference) for p in problems}
            return dict(draw_wrong_references(right, seed))


def tokenize_solutions(
    problems: Sequence[ReferenceProblem], tokenizer: Any, model: config.Model
) -> dict[str, tuple[Int32Array, Int32Array]]:
    """Prompts and references as if the policy had sampled them: tokens, then the end of the turn.

    Raises:
        ConfigError: nothing says what ends a turn.
        DataError: the chat template refuses a prompt.
    """
    end = find_turn_end(tokenizer, model)

    def tokenize(problem: ReferenceProblem) -> tuple[Int32Array, Int32Array]:
        prompt = prompt_ids(tokenizer, problem.prompt, model)
        opened = thinking_opened(tokenizer, problem.prompt, model)
        target = _after_thinking(opened, str(problem.reference))
        tokens = tokenizer.encode(target, add_special_tokens=False)
        return np.array(prompt, dtype=np.int32), np.array([*tokens, end], dtype=np.int32)

    return {problem.id: tokenize(problem) for problem in problems}


def _after_thinking(opened: str, reference: str) -> str:
    """The reference as it goes on after a prompt that ends with `opened`.

    A template may open a thinking block in the prompt. The reference is no thought: the block is
    closed first. A reference that brings its own thinking goes on in the open block.
    """
    close = open_thinking(opened)
    if close is None:
        return reference
    own, tag = reference.lstrip(), opened.strip()
    if own.startswith(tag):
        return own.removeprefix(tag)
    thought, closed, _ = reference.partition(close)
    if closed and tag not in thought:
        return reference
    return f"\n{close}\n\n{reference}"


def build_teacher_prompts(
    teacher: config.Teacher, problems: Sequence[ReferenceProblem], tokenizer: Any
) -> dict[str, Int32Array]:
    """What the teacher reads before the student's tokens: its prompt as the last user message."""
    prompts = {}
    for problem in problems:
        *before, last = problem.prompt.messages
        # Filled from the outside in: a problem that contains "{reference}" stays as it is.
        around = [
            part.replace("{problem}", last.content) for part in teacher.prompt.split("{reference}")
        ]
        shown = Message("user", str(problem.reference).join(around))
        ids = chat_ids(tokenizer, [*before, shown], teacher.chat_template_kwargs)
        prompts[problem.id] = np.array(ids, dtype=np.int32)
    return prompts


def drop_references(settings: config.Data) -> config.Data:
    """The same data without its columns of references."""

    def update(source: config.Source) -> dict[str, Any]:
        return {"columns": source.columns.model_copy(update={"reference": None})}

    return _update_sources(settings, update)


def keep_all_rows(settings: config.Data) -> config.Data:
    """The same data, also the rows without a reference that training leaves out."""
    return _update_sources(settings, lambda _: {"missing_reference": "stop"})


def _update_sources(
    settings: config.Data, update: Callable[[config.Source], dict[str, Any]]
) -> config.Data:
    sources = tuple(one.model_copy(update=update(one)) for one in settings.sources)
    return settings.model_copy(update={"sources": sources} | update(settings))
