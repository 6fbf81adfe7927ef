"""Where the assistant's turn begins and ends, as the model's own files say.

The chat template says what a turn begins with (it may open a thinking block there) and what ends
one; generation_config.json and the tokenizer name the tokens at which the engine stops.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from exprl import config
from exprl.data.hub import GENERATION_CONFIG, find_file
from exprl.data.tokenizer import render
from exprl.errors import ConfigError, DataError
from exprl.thinking import open_thinking, outside_thinking
from exprl.types import Message, Prompt

# Stand for the texts of messages: templates may trim them, and none will look for them.
_QUESTION, _REPLY = "QUESTION", "REPLY"


def find_stops(tokenizer: Any, model: config.Model) -> tuple[int, ...]:
    """The token ids that end a rollout: those of generation_config.json, tokenizer and template.

    Raises:
        ConfigError: there is none, so that every rollout would run into the length limit.
    """
    named = _named_ends(tokenizer, model)
    ends = named | {end for end in [_last_token(tokenizer, model, named)] if end is not None}
    if not ends:
        raise ConfigError(
            f"nothing says where a turn of {model.path!r} ends: its tokenizer has no eos_token and"
            " its generation_config.json no eos_token_id; set one of them"
        )
    return tuple(sorted(ends))


def find_turn_end(tokenizer: Any, model: config.Model) -> int:
    """The token that ends the assistant's turn in the chat template: the last one of SFT's targets.

    It is the first token after the message that generation_config.json or the tokenizer names as an
    end. Where the template writes none of those, a control token that it writes there counts, too;
    where it writes no control token either, the tokenizer's own end does.

    Raises:
        ConfigError: none can be found.
    """
    end = _last_token(tokenizer, model, _named_ends(tokenizer, model))
    if end is None:
        raise ConfigError(
            f"no end of a turn (eos) can be found for {model.path!r}: its tokenizer has no"
            " eos_token, and after an assistant's message its chat template writes no eos_token_id"
            " of generation_config.json; set eos_token in tokenizer_config.json to the token that"
            " ends a turn"
        )
    return end


def opening_of(tokenizer: Any, messages: Sequence[Message], arguments: Mapping[str, Any]) -> str:
    """What the chat template writes after the last message: the beginning of the model's turn."""
    *before, last = messages
    marked = [*before, Message(last.role, _QUESTION)]
    return _after(_QUESTION, render(tokenizer, marked, arguments))


def thinking_opened(tokenizer: Any, prompt: Prompt, model: config.Model) -> str:
    """The opening tag, and what follows it, of a thinking block in which the prompt ends.

    Empty where it ends in none: a solution that is sampled then begins outside thinking.
    """
    opening = opening_of(tokenizer, prompt.messages, model.chat_template_kwargs)
    if open_thinking(opening) is None:
        return ""
    return opening.removeprefix(outside_thinking(opening)[0])


def _last_token(tokenizer: Any, model: config.Model, named: set[int]) -> int | None:
    chat = [Message("user", _QUESTION), Message("assistant", _REPLY)]
    try:
        text = render(tokenizer, chat, model.chat_template_kwargs, open_turn=False)
    except DataError:  # a template of single questions
        text = ""
    after: list[int] = tokenizer.encode(_after(_REPLY, text), add_special_tokens=False)
    end = next((i for i in after if i in named), None)
    if end is not None or tokenizer.eos_token_id is None:
        return end
    added = tokenizer.added_tokens_decoder
    control = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
    return next((i for i in after if i in control), int(tokenizer.eos_token_id))


def _after(word: str, text: str) -> str:
    """What follows the last place of a word; empty where it has none."""
    return text.rpartition(word)[2] if word in text else ""


def _named_ends(tokenizer: Any, model: config.Model) -> set[int]:
    ids = _generation_ends(model)
    return ids if tokenizer.eos_token_id is None else ids | {int(tokenizer.eos_token_id)}


def _generation_ends(model: config.Model) -> set[int]:
    """eos_token_id of generation_config.json: one number, a list, or nothing."""
    path = find_file(model.path, GENERATION_CONFIG)
    if path is None:
        return set()
    try:
        ids = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
    if not all(type(i) is int for i in ids):
        raise ConfigError(f"{path}: eos_token_id = {ids!r}: expected token ids")
    return set(ids)
