"""What a user should know of the chat template before a run: what it leaves out or adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from exprl import config
from exprl.data.tokenizer import render
from exprl.data.turns import opening_of
from exprl.errors import DataError
from exprl.types import Message, Prompt

# Values that a template could tell from each other and from nothing.
_PROBES: tuple[Any, ...] = (True, False, "a word", 1, {}, None)


def remark_on_template(
    tokenizer: Any, model: config.Model, prompt: Prompt, teacher: config.Teacher | None = None
) -> Iterator[str]:
    """One sentence for each thing about the template that may not be as the user thinks.

    Args:
        prompt: one of the data.
        teacher: of self-distillation; None where there is none.
    """
    messages, arguments = prompt.messages, model.chat_template_kwargs
    yield from _unread("model", tokenizer, messages, arguments)
    text = render(tokenizer, messages, arguments)
    dropped = [m for m in messages if m.content.strip() not in text]
    if dropped:
        yield (
            f"the chat template leaves out the {dropped[0].role} message"
            f" {dropped[0].content[:60]!r}, or changes its text: the policy does not see it as it"
            " stands"
        )
    if _changes_with_the_day(tokenizer, messages, arguments):
        yield (
            "the chat template writes the date into the prompt: the same run gives other prompts"
            " tomorrow; where the template takes a date as an argument, set it in"
            " model.chat_template_kwargs (Llama: date_string), else set model.chat_template to a"
            " file with a fixed date"
        )
    if tokenizer.bos_token and not text.startswith(tokenizer.bos_token) and _adds_bos(tokenizer):
        yield (
            f"the tokenizer puts {tokenizer.bos_token!r} before a text, but the chat template does"
            " not write it: prompts begin without it, as in the model's own chat"
        )
    if teacher is not None:
        yield from _unread("teacher", tokenizer, messages, teacher.chat_template_kwargs)
        own = opening_of(tokenizer, messages, arguments)
        teachers = opening_of(tokenizer, messages, teacher.chat_template_kwargs)
        if own != teachers:
            yield (
                f"the policy's turn begins {own!r} and the teacher's {teachers!r}: the teacher"
                " reads the policy's tokens after another beginning; set"
                " teacher.chat_template_kwargs as model.chat_template_kwargs"
            )


def _unread(
    section: str, tokenizer: Any, messages: Sequence[Message], arguments: Mapping[str, Any]
) -> Iterator[str]:
    """An argument that makes no difference whatever its value is one that is never read."""
    for name, value in arguments.items():
        others = {other: v for other, v in arguments.items() if other != name}
        changes = _differs(
            tokenizer,
            messages,
            [others, *({**others, name: probe} for probe in (value, *_PROBES))],
        )
        if not changes:
            yield (
                f"{section}.chat_template_kwargs.{name} = {value!r} has no effect: the chat"
                " template never reads it"
            )


def _changes_with_the_day(
    tokenizer: Any, messages: Sequence[Message], arguments: Mapping[str, Any]
) -> bool:
    """Whether two days, told by the function that templates ask for the time, differ."""

    def day(number: int) -> Callable[[str], str]:
        return lambda _: f"day {number}"

    days = [{"strftime_now": day(n), **arguments} for n in (1, 2)]
    return _differs(tokenizer, messages, days)


def _differs(
    tokenizer: Any, messages: Sequence[Message], tried: Sequence[Mapping[str, Any]]
) -> bool:
    """Whether the template makes different texts of the same messages, or refuses some."""
    texts: set[str | None] = set()
    for arguments in tried:
        try:
            texts.add(render(tokenizer, messages, arguments))
        except DataError:
            texts.add(None)
    return len(texts) > 1


def _adds_bos(tokenizer: Any) -> bool:
    ids: list[int] = tokenizer("a")["input_ids"]
    return bool(ids) and ids[0] == tokenizer.bos_token_id
