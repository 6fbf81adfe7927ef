"""The problem of a row, to the chat messages that the policy is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast, get_args

from exprl import config
from exprl.config.placeholders import fill
from exprl.data.cells import is_parts, read_text
from exprl.data.files import describe_kind
from exprl.errors import DataError
from exprl.types import Message, Role

PLAIN_TEMPLATE = "{problem}"
_ROLES: tuple[str, ...] = get_args(Role)


def make_messages(
    problem: Any,
    settings: config.Source,
    names: list[str],
    cell: Callable[[str], str],
    place: str,
    *,
    code: bool,
) -> tuple[Message, ...]:
    """A chat as it stands, or a text put into the template.

    Args:
        problem: the cell of data.columns.problem: a list of messages, or text that is not empty.
        names: of the columns that data.template holds; `cell` gives their texts.
        code: whether an object or a list written as text may be meant as it is.

    Raises:
        DataError: names the place, and what to change.
    """
    problem = _turn_into_list(problem)
    if isinstance(problem, list) and not is_parts(problem):
        if settings.template != PLAIN_TEMPLATE:
            raise DataError(
                f"{place}: holds chat messages, to which data.template = {settings.template!r}"
                f" cannot apply; set it to {PLAIN_TEMPLATE!r}"
            )
        return _read_chat(problem, place)
    column = settings.columns.problem
    text = read_text(problem, place, column=column, numbers=False, code=code)
    if text is None:
        raise DataError(f"{place}: is empty")

    def value(name: str) -> str:
        return text if name == "problem" else cell(name)

    return (Message("user", fill(settings.template, value, ["problem", *names])),)


def _turn_into_list(problem: Any) -> Any:
    """A list of messages also where `datasets` hands it out as `{role: [...], content: [...]}`."""
    if isinstance(problem, Mapping) and {"role", "content"} == problem.keys():
        roles, contents = problem["role"], problem["content"]
        if isinstance(roles, list) and isinstance(contents, list) and len(roles) == len(contents):
            pairs = zip(roles, contents, strict=True)
            return [{"role": role, "content": content} for role, content in pairs]
    return problem


def _read_chat(chat: list[Any], place: str) -> tuple[Message, ...]:
    messages = tuple(_read_message(item, f"{place}: message {i}") for i, item in enumerate(chat, 1))
    if not messages:
        raise DataError(f"{place}: the last message must be of role 'user', and there is none")
    if messages[-1].role != "user":
        hint = "; put what the assistant says there into a column of its own, and name that one in"
        hint += " data.columns.reference if it is the solution"
        raise DataError(
            f"{place}: the last message must be of role 'user', and it is of role"
            f" {messages[-1].role!r}{hint if messages[-1].role == 'assistant' else ''}"
        )
    return messages


def _read_message(value: Any, place: str) -> Message:
    if not isinstance(value, Mapping) or not {"role", "content"} <= value.keys():
        pair = isinstance(value, Mapping) and {"from", "value"} <= value.keys()
        hint = "; rename from to role (human is user, gpt is assistant) and value to content"
        raise DataError(
            f"{place}: expected {{role, content}}, found {describe_kind(value)}{hint * pair}"
        )
    role, content = value["role"], _read_content(value["content"], f"{place}: content")
    if role not in _ROLES:
        raise DataError(f"{place}: role {role!r} is none of {', '.join(_ROLES)}")
    if content is None:
        raise DataError(f"{place}: content: is empty")
    return Message(cast(Role, role), content)


def _read_content(value: Any, place: str) -> str | None:
    if isinstance(value, list) and not is_parts(value):
        found = ", ".join(dict.fromkeys(map(describe_kind, value))) or "nothing"
        raise DataError(
            f"{place}: expected text or {{type, text}} parts, found a list with {found}"
        )
    return read_text(value, place, numbers=False, code=True)


def has_system(messages: tuple[Message, ...]) -> bool:
    """Whether a row brings a system message of its own."""
    return any(message.role == "system" for message in messages)


def add_system(messages: tuple[Message, ...], settings: config.Source) -> tuple[Message, ...]:
    """The messages with data.system in front, unless their own goes first."""
    if settings.system is None or (has_system(messages) and settings.system_wins == "row"):
        return messages
    rest = (message for message in messages if message.role != "system")
    return (Message("system", settings.system), *rest)
