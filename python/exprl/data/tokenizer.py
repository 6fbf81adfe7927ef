"""Prompts as the tokens that the policy is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exprl import config
from exprl.errors import ConfigError, DataError
from exprl.types import Message, Prompt


def load_tokenizer(model: config.Model) -> Any:
    """The policy's tokenizer, with a chat template.

    Raises:
        ConfigError: no tokenizer there, a slow one, or one without a chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            model.path, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model.path = {model.path!r} has no usable tokenizer: {error}"
        ) from error
    if not tokenizer.is_fast:
        raise ConfigError(
            f"the tokenizer of {model.path!r} has no tokenizer.json; convert it to a fast tokenizer"
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


def prompt_ids(tokenizer: Any, prompt: Prompt) -> list[int]:
    """The tokens that the policy is given."""
    return chat_ids(tokenizer, prompt.messages)


def chat_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The chat template up to the assistant's turn.

    Raises:
        DataError: template or tokenizer refuse the messages.
    """
    try:
        ids: list[int] = tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in messages],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
    except Exception as error:  # `tokenizers` raises nothing narrower, templates what they like
        raise DataError(
            "the model's chat template or tokenizer refuses the prompt"
            f" {messages[-1].content[:80]!r}: {error}"
        ) from error
    return ids
