"""A batch as trainers have it, columns of texts or chat messages, to items for the judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exprl.errors import ConfigError
from exprl.judge import JudgeItem

Text = str | Sequence[Mapping[str, Any]]
"""A prompt or a completion: plain text, or chat messages."""


def as_items(
    prompts: Sequence[Text],
    segments: Sequence[tuple[str, ...]],
    columns: Mapping[str, Sequence[Any]],
    reference: str,
) -> list[JudgeItem]:
    """What the judge is asked about a batch of completions.

    Args:
        segments: of each completion.
        columns: of the data, by name. `problem` is shown as the problem; without it, the prompt's
            last message is. `domain` chooses the rubric; without it, that is the one for math.
        reference: the column of the hidden solutions; None in a row asks for a grade without one.

    Raises:
        ConfigError: there is no such column.
    """
    if reference not in columns:
        raise ConfigError(
            f"the judge needs the hidden solutions, and the data has no column {reference!r}"
            f" (it has {', '.join(map(repr, sorted(columns)))}); name the column in `reference`"
        )
    problems = columns.get("problem") or [as_text(_messages(prompt)[-1:]) for prompt in prompts]
    domains = columns.get("domain") or ["math"] * len(segments)
    rows = zip(problems, columns[reference], segments, domains, strict=True)
    return [
        JudgeItem(str(i), problem, solution, texts or ("",), domain)
        for i, (problem, solution, texts, domain) in enumerate(rows)
    ]


def as_text(text: Text) -> str:
    """What chat messages say, one below the other; images and calls of tools say nothing."""
    parts: list[str] = []
    for message in _messages(text):
        content = message.get("content") or ""
        if isinstance(content, str):
            parts.append(content)
        else:
            parts += [part["text"] for part in content if part.get("type") == "text"]
    return "\n\n".join(filter(None, parts))


def _messages(text: Text) -> Sequence[Mapping[str, Any]]:
    return [{"content": text}] if isinstance(text, str) else text
