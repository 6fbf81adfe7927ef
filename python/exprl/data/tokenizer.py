"""Prompts as the tokens that the policy is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exprl import config
from exprl.data.hub import require_model
from exprl.errors import ConfigError, DataError
from exprl.types import Message, Prompt


def load_tokenizer(model: config.Model) -> Any:
    """The policy's tokenizer, with a chat template.

    Raises:
        ConfigError: no tokenizer there, a slow one, or one without a chat template.
    """
    from transformers import AutoTokenizer

    require_model(model.path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model.path, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        no_file = Path(model.path).is_dir() and not Path(model.path, "tokenizer.json").exists()
        raise ConfigError(
            f"model.path = {model.path!r} has no usable tokenizer:"
            f" {'a tokenizer.json is missing there' if no_file else str(error).strip()}"
        ) from error
    if not tokenizer.is_fast:
        raise ConfigError(
            f"the tokenizer of {model.path!r} has no tokenizer.json; convert it to a fast tokenizer"
        )
    added = len(tokenizer.added_tokens_decoder)
    if len(tokenizer.get_vocab()) <= added:  # transformers made one up from config.json
        raise ConfigError(
            f"model.path = {model.path!r} has no tokenizer: a tokenizer.json is missing there; copy"
            " it from the model that this one was made of"
        )
    if model.chat_template is not None:
        try:
            tokenizer.chat_template = Path(model.chat_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"model.chat_template = {model.chat_template!r} cannot be read: {error}"
            ) from None
    if not tokenizer.chat_template:
        raise ConfigError(
            f"the tokenizer of {model.path!r} has no chat template; set model.chat_template to a"
            " Jinja file"
        )
    return tokenizer


def prompt_ids(tokenizer: Any, prompt: Prompt, model: config.Model) -> list[int]:
    """The tokens that the policy is given.

    Raises:
        DataError: template or tokenizer refuse the prompt.
    """
    return chat_ids(tokenizer, prompt.messages, model.chat_template_kwargs)


def chat_ids(
    tokenizer: Any, messages: Sequence[Message], arguments: Mapping[str, Any]
) -> list[int]:
    """The chat template up to the assistant's turn, with as many BOS tokens as it writes.

    Args:
        arguments: of the template, such as `enable_thinking`.

    Raises:
        DataError: template or tokenizer refuse the messages.
    """
    text = render(tokenizer, messages, arguments)
    try:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    except Exception as error:  # `tokenizers` raises nothing narrower
        raise DataError(
            f"the model's tokenizer refuses the prompt {messages[-1].content[:80]!r}: {error}"
        ) from error
    return ids


def render(
    tokenizer: Any,
    messages: Sequence[Message],
    arguments: Mapping[str, Any],
    *,
    open_turn: bool = True,
) -> str:
    """The text that the chat template makes of the messages.

    Args:
        open_turn: begin the assistant's turn at the end.

    Raises:
        DataError: the template refuses them; says why, and what to change.
    """
    try:
        return _apply(tokenizer, messages, arguments, open_turn)
    except Exception as error:  # a template raises what it likes
        advice = _advise(tokenizer, messages, arguments)
        raise DataError(
            "the model's chat template refuses the prompt"
            f" {messages[-1].content[:80]!r}: {error}{advice}"
        ) from error


def _apply(
    tokenizer: Any, messages: Sequence[Message], arguments: Mapping[str, Any], open_turn: bool
) -> str:
    chat = [{"role": m.role, "content": m.content} for m in messages]
    text: str = tokenizer.apply_chat_template(
        chat, add_generation_prompt=open_turn, tokenize=False, **arguments
    )
    return text


def _advise(tokenizer: Any, messages: Sequence[Message], arguments: Mapping[str, Any]) -> str:
    """What to change so that the template takes a prompt that it refused; empty if unknown."""
    spoken = [m for m in messages if m.role != "system"]
    if len(spoken) < len(messages) and _accepts(tokenizer, spoken, arguments):
        text = next(m.content for m in messages if m.role == "system")
        template = f"{text[:60]}\n\n{{problem}}"
        return (
            "; it takes the prompt without its system message: leave data.system out (or the row's"
            " own system message) and put the text in front of the problem, as in data.template ="
            f" {template!r}"
        )
    if _accepts(tokenizer, messages, {}):
        return f"; it takes the prompt without the arguments {', '.join(arguments)}"
    if len(messages) > 1 and _accepts(tokenizer, messages[-1:], arguments):
        roles = ", ".join(m.role for m in messages)
        return (
            f"; the roles of the prompt's messages are {roles}: bring the messages of the row into"
            " the order that the template wants, or use a template that takes them"
            " (model.chat_template)"
        )
    return ""


def _accepts(tokenizer: Any, messages: Sequence[Message], arguments: Mapping[str, Any]) -> bool:
    try:
        _apply(tokenizer, messages, arguments, open_turn=True)
    except Exception:
        return False
    return True
